"""``Cooldown``: how long a task is on hold, what counts as a failure, and what the journal keeps."""

import anyio
import pytest

from aluma_async import Backoff, MemoryJournal
from aluma_async.exceptions import DestinationError, FileMissing, JournalError
from aluma_async.models import HoldRecord, Timestamp
from aluma_async.pipeline.cooldown import PARK_AFTER_CRASHES, PARK_AFTER_PERSISTENT, SUSPECT_AFTER, Cooldown
from tests.support.clock import virtual_time
from tests.support.world import system_time

NEUTRAL, PERSISTENT = DestinationError("no"), FileMissing("404")


def make_cooldown(journal=None, *, park_after=10, backoff=None, source_id=""):
    return Cooldown(
        backoff or Backoff(60, 3600, jitter=0),
        journal or MemoryJournal(),
        park_seconds=21_600,
        park_after=park_after,
        clock=system_time,
        uniform=lambda low, high: low,
        source_id=source_id,
    )


def test_numbers_of_crashes_and_failures_are_those_of_the_documentation():
    assert (SUSPECT_AFTER, PARK_AFTER_CRASHES, PARK_AFTER_PERSISTENT) == (3, 6, 5)


@virtual_time
async def test_hold_ends_after_its_time_and_the_next_one_is_twice_as_long():
    cooldown = make_cooldown()
    assert (await cooldown.get("t")).failures == 0
    for number, seconds in enumerate((60, 120, 240), 1):
        hold = await cooldown.start("t", NEUTRAL, created_at=5.0)
        assert (hold.seconds, hold.failures, hold.parked, hold.created_at) == (seconds, number, False, 5.0)
        assert (hold.error, hold.message) == ("DestinationError", "no")
        await anyio.sleep(seconds - 1)
        assert (await cooldown.get("t")).is_active
        await anyio.sleep(1)
        entry = await cooldown.get("t")
        assert (entry.is_active, entry.failures) == (False, number)
    assert (await cooldown.start("t", NEUTRAL)).created_at == 5.0
    await cooldown.close()


@virtual_time
async def test_failures_are_forgotten_an_hour_after_the_hold():
    """With a longer maximum, after that; the journal forgets them, too."""
    for maximum, memory in ((600, 3600), (7200, 7200)):
        journal = MemoryJournal()
        cooldown = make_cooldown(journal, backoff=Backoff(60, maximum, jitter=0))
        await cooldown.start("t", NEUTRAL)
        await anyio.sleep(60 + memory - 1)
        assert (await cooldown.get("t")).failures == 1
        await anyio.sleep(2)
        assert (await cooldown.get("t")).failures == 0
        await journal.flush()
        assert not await journal.load()
        assert (await cooldown.start("t", NEUTRAL)).failures == 1
        await cooldown.close()


@pytest.mark.parametrize(("seconds", "kept"), [(3659, True), (3660, True), (3661, False)])
@virtual_time
async def test_load_takes_over_holds_and_removes_those_that_are_forgotten(seconds, kept):
    journal = MemoryJournal()
    await journal.write(HoldRecord("t", system_time(), 60.0, failures=2))
    await anyio.sleep(seconds)
    cooldown = make_cooldown(journal)
    await cooldown.load(await journal.load())
    assert (await cooldown.get("t")).failures == (2 if kept else 0)
    await journal.flush()
    assert len(await journal.load()) == kept
    await cooldown.close()


@virtual_time
async def test_loaded_hold_lasts_for_the_rest_of_its_time():
    since = system_time()
    await anyio.sleep(40)
    cooldown = make_cooldown()
    await cooldown.load([HoldRecord("t", since, 60.0, failures=2)])
    await anyio.sleep(19)
    assert (await cooldown.get("t")).is_active
    await anyio.sleep(1)
    assert not (await cooldown.get("t")).is_active
    await cooldown.close()


@virtual_time
async def test_hold_of_another_boot_is_kept_when_the_clock_was_set_back():
    """The time that has passed is unknown, so the hold begins again."""
    cooldown = make_cooldown()
    future = Timestamp("another", 0.0, system_time().wall + 1000)
    await cooldown.load([HoldRecord("t", future, 60.0, failures=1)])
    entry = await cooldown.get("t")
    assert entry.failures == 0, "it is forgotten, because it cannot be recent"
    await cooldown.close()


@virtual_time
async def test_error_without_blame_is_no_failure_and_parks_no_task():
    cooldown = make_cooldown(park_after=1)
    for _ in range(7):
        hold = await cooldown.start("t", PERSISTENT, blame=False)
        assert (hold.failures, hold.parked, hold.seconds) == (1, False, 60)
    assert (await cooldown.start("t", NEUTRAL, park=True, blame=False)).parked
    await cooldown.close()


@virtual_time
async def test_task_is_parked_at_its_fifth_persistent_and_tenth_other_failure():
    cooldown = make_cooldown()
    assert [(await cooldown.start("a", PERSISTENT)).parked for _ in range(6)] == [False] * 4 + [True] * 2
    assert [(await cooldown.start("b", NEUTRAL)).parked for _ in range(11)] == [False] * 9 + [True] * 2
    errors = [PERSISTENT] * 4 + [NEUTRAL] + [PERSISTENT] * 4
    assert not any([(await cooldown.start("c", error)).parked for error in errors]), "five of one kind in a row"
    parked = await cooldown.start("a", PERSISTENT)
    assert (parked.seconds, parked.same_failures) == (21_600, 7)
    assert (await cooldown.get("a")).parked
    long = make_cooldown(backoff=Backoff(100_000, 100_000, jitter=0), park_after=1)
    assert (await long.start("t", NEUTRAL)).seconds == 100_000, "parked for no shorter time than a cool-down"
    await cooldown.close()
    await long.close()


@virtual_time
async def test_park_after_0_parks_only_on_request():
    cooldown = make_cooldown(park_after=0)
    assert not any([(await cooldown.start("t", PERSISTENT)).parked for _ in range(20)])
    assert (await cooldown.start("t", NEUTRAL, park=True)).parked
    await cooldown.close()


@virtual_time
async def test_sixth_crash_parks_a_task():
    journal = MemoryJournal()
    cooldown = make_cooldown(journal)
    for number in range(1, 6):
        assert await cooldown.record_crashes(["t"]) == []
        entry = await cooldown.get("t")
        assert (entry.crashes, entry.is_crash_suspect, entry.is_active) == (number, number >= 3, False)
    (hold,) = await cooldown.record_crashes(["t"])
    assert (hold.crashes, hold.parked, hold.seconds, hold.error) == (6, True, 21_600, "Crash")
    assert hold.message == "the exporter ended 6 times while exporting this task"
    assert await journal.load() == [hold]
    assert (await cooldown.get("t")).is_active
    await cooldown.close()


@virtual_time
async def test_crash_does_not_shorten_a_hold_nor_change_its_reason():
    cooldown = make_cooldown()
    await cooldown.start("t", NEUTRAL, park=True)
    await anyio.sleep(1000)
    await cooldown.record_crashes(["t"])
    entry = await cooldown.get("t")
    assert (entry.is_active, entry.parked, entry.failures, entry.crashes) == (True, True, 1, 1)
    await anyio.sleep(20_599)
    assert (await cooldown.get("t")).is_active
    await anyio.sleep(1)
    assert not (await cooldown.get("t")).is_active
    await cooldown.close()


@virtual_time
async def test_cleared_and_released_tasks_are_not_on_hold():
    journal = MemoryJournal()
    cooldown = make_cooldown(journal)
    for task_id in "abc":
        await cooldown.start(task_id, NEUTRAL)
    await cooldown.clear_task("a")
    journal.release("b")
    await cooldown.apply_releases()
    await journal.flush()
    assert [(await cooldown.get(task_id)).is_active for task_id in "abc"] == [False, False, True]
    assert [record.task_id for record in await journal.load()] == ["c"]
    await cooldown.close()
    assert not (await cooldown.get("c")).is_active
    assert [record.task_id for record in await journal.load()] == ["c"], "the journal keeps the holds"


class BrokenJournal(MemoryJournal):
    """A journal that can neither write nor read."""

    async def write(self, *records):
        raise JournalError("disk full")

    async def pop_released(self):
        raise JournalError("disk full")


@virtual_time
async def test_hold_is_in_effect_although_it_cannot_be_written():
    cooldown = make_cooldown(BrokenJournal())
    await cooldown.start("t", NEUTRAL)
    await cooldown.record_crashes(["t"])
    await cooldown.apply_releases()
    entry = await cooldown.get("t")
    assert (entry.is_active, entry.crashes) == (True, 1)
    await cooldown.close()


@virtual_time
async def test_restart_begins_the_time_of_a_hold_again():
    journal = MemoryJournal()
    cooldown = make_cooldown(journal)
    hold = await cooldown.start("t", NEUTRAL)
    await anyio.sleep(50)
    await cooldown.restart(hold)
    (record,) = await journal.load()
    assert record.since == system_time()
    await anyio.sleep(59)
    assert (await cooldown.get("t")).is_active
    await cooldown.close()


@virtual_time
async def test_copy_of_a_crashed_task_is_recorded_and_does_not_extend_its_hold():
    journal = MemoryJournal()
    await journal.write(HoldRecord("t", system_time(), 60.0, crashes=6, parked=True, message="ended 6 times"))
    await anyio.sleep(20)
    cooldown = make_cooldown(journal)
    await cooldown.load(await journal.load())
    assert (await cooldown.get("t")).needs_copy
    assert str(await cooldown.begin_copy("t")) == "ended 6 times"
    (record,) = await journal.load()
    assert record.copy_tried
    assert not (await cooldown.get("t")).needs_copy
    await anyio.sleep(39)
    assert (await cooldown.get("t")).is_active
    await anyio.sleep(1)
    assert not (await cooldown.get("t")).is_active
    await cooldown.close()


@pytest.mark.parametrize(("source_id", "is_looked_up"), [("first", True), ("", True), ("other", False)])
@pytest.mark.parametrize("seconds", [1, 90_000])
@virtual_time
async def test_task_on_hold_is_looked_up_only_where_it_was_listed(source_id, is_looked_up, seconds):
    """Another API or client does not know it, so that it would seem to be gone."""
    journal = MemoryJournal()
    await make_cooldown(journal, source_id="first").start("t", PERSISTENT)
    await anyio.sleep(seconds)
    cooldown = make_cooldown(journal, source_id=source_id)
    await cooldown.load(await journal.load())
    assert list(cooldown.task_ids()) == (["t"] if is_looked_up else [])
    assert (await cooldown.get("t")).is_active == (seconds == 1)
    assert is_looked_up or await journal.load()
