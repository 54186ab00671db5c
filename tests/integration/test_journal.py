"""The journal on disk, and what an exporter does with what an earlier one left in it."""

import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from aluma_async import Exporter, MemoryJournal, events
from aluma_async.clock import system_clock
from aluma_async.exceptions import JournalError, JournalLocked
from aluma_async.journal.database import FILE_NAME
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord, Timestamp
from aluma_async.policy.lease import LATE_START_SECONDS
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource, run_virtual
from tests.support.stack import simulated

NOW = Timestamp("boot", 100.0, 1_000_000.0)


def claim(task_id, state=ClaimState.STARTING, **fields):
    return ClaimRecord(task_id, state, fields.pop("sent_at", NOW), **fields)


@contextmanager
def opened(folder, on_event=None):
    with ThreadPoolExecutor(1) as executor:
        journal = SqliteJournal(folder, executor=executor, on_event=on_event)
        try:
            yield journal
        finally:
            journal.close()


def recalled(folder, on_event=None):
    with opened(folder, on_event) as journal:
        return list(anyio.run(journal.load))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_what_is_written_is_there_for_the_next_process_and_what_is_forgotten_is_not(kind, tmp_path):
    async def main():
        memory = MemoryJournal()

        @contextmanager
        def a_process():
            if kind == "memory":
                yield memory
            else:
                with opened(tmp_path) as journal:
                    yield journal

        hold = HoldRecord("a", NOW, 60.0, failures=2, error="InvalidResponse", message="why")
        with a_process() as journal:
            assert await journal.load() == []
            await journal.write(claim("a"), claim("b"), hold)
            await journal.write(claim("a", ClaimState.COMMITTED, files=2, bytes=3))
            journal.delete(ClaimRecord, "b")
            journal.put(claim("c"))
            await journal.flush()
        with a_process() as journal:
            found = await journal.load()
            assert sorted(map(str, found)) == sorted(
                map(str, [claim("a", ClaimState.COMMITTED, files=2, bytes=3), claim("c"), hold])
            )

    anyio.run(main)


def test_many_writes_at_once_share_their_syncs(tmp_path):
    async def main():
        with opened(tmp_path) as journal:
            await journal.load()
            applied = []
            apply, journal._write_batch = (
                journal._write_batch,
                lambda *what: applied.append(len(what[0])) or apply(*what),
            )
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(journal.write, claim(str(number)))
            assert sum(applied) == 100
            assert len(applied) <= 3

    anyio.run(main)
    assert len(recalled(tmp_path)) == 100


def test_who_shares_a_write_is_told_of_it_when_it_is_done_even_if_its_leader_was_cancelled_without_a_scope(tmp_path):
    """As ``asyncio.run`` does with whatever is left at its end."""

    async def main():
        with opened(tmp_path) as journal:
            await journal.load()
            done = []
            apply = journal._write_batch

            def slowly(*what):
                time.sleep(0.3)
                apply(*what)
                done.append(len(what[0]))

            journal._write_batch = slowly
            journal._batcher._last_batch_was_shared = True  # the leader waits for others to join
            leader = asyncio.create_task(journal.write(claim("a")))
            joiner = asyncio.create_task(journal.write(claim("b")))
            await asyncio.sleep(0.1)
            leader.cancel()
            await joiner
            assert done == [2]
            with pytest.raises(asyncio.CancelledError):
                await leader

    asyncio.run(main())


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path):
    with opened(tmp_path) as first:
        anyio.run(first.load)
        with pytest.raises(JournalLocked, match="in use by another exporter"):
            recalled(tmp_path)
        anyio.run(first.write, claim("a"))
    assert len(recalled(tmp_path)) == 1


@pytest.mark.parametrize("harm", ["noise", "empty", "cut", "foreign", "folder-of-wal"])
def test_a_damaged_journal_is_set_aside_and_reported_and_a_new_one_begun(harm, tmp_path):
    with opened(tmp_path) as journal:
        anyio.run(journal.load)
        anyio.run(journal.write, *[claim(str(number)) for number in range(500)])
    path = tmp_path / FILE_NAME
    match harm:
        case "noise":
            path.write_bytes(random.Random(0).randbytes(path.stat().st_size))
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(path.read_bytes()[:10_000])
        case "foreign":
            database = sqlite3.connect(path)
            database.execute("UPDATE record SET value = 'nonsense'")
            database.commit()
            database.close()
        case "folder-of-wal":
            path.write_bytes(path.read_bytes()[:4096] + b"\0" * 8192)
    told = []
    assert recalled(tmp_path, told.append) == []
    if harm != "empty":  # an empty file is a new one to SQLite
        assert [type(event) for event in told] == [events.JournalDamaged]
        assert Path(told[0].path).exists()
    assert recalled(tmp_path, told.append) == []
    assert len(told) == (harm != "empty")


def test_a_journal_that_is_damaged_under_way_is_made_anew_from_what_is_known(tmp_path):
    told = []
    with opened(tmp_path, told.append) as journal:
        anyio.run(journal.load)
        anyio.run(journal.write, claim("a"))
        journal._disconnect()  # as if its pages had to be read again
        (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 1000)
        anyio.run(journal.write, claim("b"))
    assert [type(event) for event in told] == [events.JournalDamaged]
    assert {record.task_id for record in recalled(tmp_path)} == {"a", "b"}


def test_a_state_folder_that_cannot_be_used_says_which_and_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="file") as caught:
        recalled(tmp_path / "file" / "state")
    assert "--state" in caught.value.hint


def test_nobody_else_may_read_the_journal(tmp_path):
    if os.name != "posix":
        pytest.skip("file modes are POSIX's")
    recalled(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / FILE_NAME).stat().st_mode & 0o077 == 0


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path):
    code = (
        "import anyio, os, pathlib\n"
        "from aluma_async.journal.sqlite import SqliteJournal\n"
        f"anyio.run(SqliteJournal(pathlib.Path({str(tmp_path)!r})).load)\n"
        "os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 9
    assert recalled(tmp_path) == []


# -- what the next exporter makes of it


class Crashed:
    """An Aluma with claims of a process that is gone, and the exporter that comes after it."""

    def __init__(self, tasks=5, *, journal=None, faults=None, exporter=None, **behaviour):
        self.aluma = simulated(tasks, **behaviour)
        self.journal = journal or MemoryJournal()
        self.told: list[tuple[float, events.Event]] = []
        self.destination = MemoryDestination()
        self.source = SimulatedSource(self.aluma, faults)
        self.settings = exporter or {}

    def clock(self):
        return Timestamp("sim", anyio.current_time(), 1e9 + anyio.current_time())

    def next(self):
        return Exporter(
            self.source,
            self.destination,
            journal=self.journal,
            clock=self.clock,
            on_event=lambda event: self.told.append((anyio.current_time(), event)),
            uniform=random.Random(0).uniform,
            **self.settings,
        )

    def when(self, kind):
        return [at for at, event in self.told if isinstance(event, kind)]


def test_claims_of_a_crashed_process_are_given_back_within_seconds_and_exported():
    async def main():
        world = Crashed(5)
        for task_id in world.aluma.ids():
            world.aluma.start(task_id)
            await world.journal.write(claim(task_id, sent_at=world.clock()))
        summary = await world.next().run_until_drained()
        assert summary.exported == 5
        assert max(world.when(events.TaskReleased)) < 5
        assert summary.seconds < 10
        assert not world.aluma.counts["requeued"]

    run_virtual(main)


def test_what_was_committed_is_completed_and_not_exported_again():
    async def main():
        world = Crashed(1)
        (task_id,) = world.aluma.ids()
        world.aluma.start(task_id)
        await world.journal.write(claim(task_id, ClaimState.COMMITTED, sent_at=world.clock(), files=2, bytes=20))
        summary = await world.next().run_until_drained()
        assert (summary.exported, summary.files, summary.bytes) == (1, 2, 20)
        assert world.aluma.counts["start"] == world.aluma.counts["complete"] == 1
        assert not world.destination.tasks

    run_virtual(main)


def test_a_claim_whose_time_is_over_is_not_spoken_of():
    """Somebody else may have the task by now, and the words would be about that claim."""

    async def main():
        world = Crashed(1, claim_timeout_seconds=1800)
        (task_id,) = world.aluma.ids()
        world.aluma.start(task_id)
        await world.journal.write(claim(task_id, ClaimState.COMMITTED, sent_at=world.clock()))
        await anyio.sleep(1801)
        world.aluma.start(task_id)  # somebody else
        await world.next().run_until_drained()
        assert world.aluma.counts["complete"] == world.aluma.counts["cancel"] == 0
        assert world.aluma.count_by_state() == {"pending:complete_client_action": 1}

    run_virtual(main)


def test_a_start_that_is_carried_out_late_is_given_back_in_seconds_or_minutes_not_by_time_out():
    """Start times out, Cancel is refused, and then the Start is carried out."""

    async def main():
        for late in (3, 40, 200, 600):
            faults = FaultPlan()
            faults.plan("start", [Fault.DROP_BEFORE])
            world = Crashed(1, faults=faults, exporter={"park_after": 0})
            exporter = world.next()
            async with anyio.create_task_group() as group:
                group.start_soon(exporter.run)
                while not world.when(events.TaskCancelled):  # noqa: ASYNC110
                    await anyio.sleep(0.1)
                world.destination.unavailable = True  # so that it is not simply exported meanwhile
                await anyio.sleep(late)
                (task_id,) = world.aluma.ids()
                if world.aluma.count_by_state().get("pending:start_client_action"):
                    world.aluma.start(task_id)
                await anyio.sleep(LATE_START_SECONDS)
                world.destination.unavailable = False
                await anyio.sleep(3600)
                exporter.stop()
            assert world.aluma.count_by_state() == {"completed": 1}, late
            assert not world.aluma.counts["requeued"], late

    run_virtual(main)


def test_cool_downs_and_failures_survive_a_restart():
    async def main():
        faults = FaultPlan()
        faults.plan("file", [Fault.DROP_BEFORE] * 5)
        world = Crashed(1, faults=faults)
        first = await world.next().run_until_drained()
        assert first.held_back == 1
        second = await world.next().run_until_drained()
        assert (second.held_back, second.exported) == (1, 0), "still cooling down"
        await anyio.sleep(100)
        third = await world.next().run_until_drained()
        assert third.exported == 1
        assert not await world.journal.load()

    run_virtual(main)


def test_a_parked_task_rests_until_an_operator_releases_it():
    async def main():
        faults = FaultPlan()
        faults.plan("file", [Fault.DROP_BEFORE] * 10)
        world = Crashed(1, faults=faults, exporter={"park_after": 2, "park_seconds": 99_999})
        exporter = world.next()
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            await anyio.sleep(5000)
            (parked,) = [event for _, event in world.told if isinstance(event, events.TaskParked)]
            assert (parked.hold.failures, parked.hold.seconds) == (2, 99_999)
            world.journal.release(parked.task.id)
            await anyio.sleep(100)
            assert world.aluma.count_by_state() == {"completed": 1}
            exporter.stop()

    run_virtual(main)


def test_status_shows_what_is_held_and_retry_releases_it_also_beside_a_running_exporter(tmp_path):
    def program(*arguments):
        state = [] if "--" in arguments else ["--state", str(tmp_path)]
        command = [sys.executable, "-m", "aluma_async", *arguments, *state]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    now = system_clock()
    with opened(tmp_path) as journal:
        anyio.run(journal.load)
        parked = HoldRecord(
            "-parked", now, 9999.0, failures=10, parked=True, error="InvalidResponse", message="cut short"
        )
        cooling = HoldRecord("cooling", now, 600.0, failures=1, error="DestinationError", message="why")
        anyio.run(journal.write, parked, cooling, claim("open", sent_at=now))
        told = json.loads(program("status", "--json").stdout)
        assert [row["task"] for row in told["in_hand"]] == ["open"]
        assert [row["task"] for row in told["cooling_down"]] == ["cooling"]
        assert [(row["task"], row["message"]) for row in told["parked"]] == [("-parked", "cut short")]
        assert "cut short" in program("status").stdout
        assert program("retry").returncode == 2
        done = program("retry", "--state", str(tmp_path), "--", "-parked")
        assert (done.returncode, done.stdout) == (0, "released 1 task from hold\n"), done.stderr
        assert program("retry", "unknown").returncode == 1
        assert anyio.run(journal.pop_released) == ["-parked"]
        assert program("retry", "--all").stdout == "released 1 task from hold\n"
    told = json.loads(program("status", "--json").stdout)
    assert not told["parked"]
    assert not told["cooling_down"]
