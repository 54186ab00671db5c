"""When a task is failed, and when it is parked instead. Fail deletes the only copy at Aluma."""

from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import Backoff, MemoryJournal, events
from aluma_async.exceptions import BadSpecification, DestinationError, FileMissing, SchemaMismatch
from aluma_async.models import ClaimState, ExportFile, ExportSpec
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World

FILE = ExportFile(0, 0, "", "a.pdf", "url", url="/f")
INVALID_TEXT = ExportFile(0, 0, "", "a.txt", "content", "\ufffd", invalid_text=True)


class Source(SimulatedSource):
    """A source whose claims all have ``spec``, and whose downloads raise ``errors``, the last of them for ever."""

    def __init__(self, aluma, spec, *errors):
        super().__init__(aluma)
        self._spec = spec
        self._errors = list(errors)

    async def start(self, task):
        claim = await super().start(task)
        if isinstance(self._spec, Exception):
            raise self._spec
        return type(claim)(task, self._spec, claim.sent_at)

    @asynccontextmanager
    async def open_file(self, claim, file):
        raise self._errors.pop(0) if len(self._errors) > 1 else self._errors[0]
        yield


class Refusing(MemoryDestination):
    """A destination that refuses every task."""

    def open(self, claim):
        raise SchemaMismatch("column x is too narrow")


def world_of(spec, *errors, **options):
    """Return a world of one task with this specification; cool-downs have no jitter."""
    exporter = {"cooldown": Backoff(60, 3600, jitter=0), **options.pop("exporter", {})}
    return World(1, source=lambda aluma, _: Source(aluma, spec, *errors), exporter=exporter, **options)


@pytest.mark.parametrize(
    ("spec", "destination"),
    [
        (ExportSpec((FILE,)), None),
        (ExportSpec((ExportFile(0, 0, "", "a.txt", "content", "x"),)), Refusing()),
        (ExportSpec(()), None),
        (ExportSpec((ExportFile(0, 0, "", "x", "url", problem="unknown source 'fax'"),)), None),
        (ExportSpec((INVALID_TEXT, ExportFile(1, 0, "", "x", "url", problem="another host"))), None),
        (BadSpecification("not JSON", received=b"<html>"), None),
    ],
    ids=["404", "schema", "no-file", "unknown-source", "invalid-text-and-problem", "unreadable"],
)
@virtual_time
async def test_persistent_error_parks_the_task_and_never_fails_it(spec, destination):
    """Five failures in a row of the same kind, over a quarter of an hour, are enough; ten of any kind are."""
    world = world_of(spec, FileMissing("404"), destination=destination)
    await world.run_for(12 * 3600)
    assert [event.failures for event in world.events(events.TaskCancelled)] == [1, 2, 3, 4]
    assert [event.hold.failures for event in world.events(events.TaskParked)][:2] == [5, 6]
    assert not world.aluma.counts["fail"]
    assert world.aluma.count_by_state() == {"pending:start_client_action": 1}


@virtual_time
async def test_failures_are_counted_for_each_kind_of_error():
    errors = [FileMissing("404"), DestinationError("x")] * 20
    world = world_of(ExportSpec((FILE,)), *errors)
    await world.run_for(8 * 3600)
    assert [event.hold.failures for event in world.events(events.TaskParked)] == [10]


@virtual_time
async def test_park_after_0_parks_no_task():
    world = world_of(ExportSpec((FILE,)), FileMissing("404"), exporter={"park_after": 0})
    await world.run_for(8 * 3600)
    assert world.count(events.TaskCancelled) > 10
    assert not world.count(events.TaskParked)


@virtual_time
async def test_text_that_is_not_valid_unicode_is_failed_at_its_second_start():
    """After the first, the task is parked with a copy, also over a restart: a proxy may have cut the text."""
    world = world_of(ExportSpec((INVALID_TEXT,), b'{"the":"original"}'))
    await world.run_for(6 * 3600 - 60)
    assert (world.aluma.counts["start"], world.aluma.counts["fail"], world.count(events.TaskParked)) == (1, 0, 1)
    assert len(world.quarantine.tasks) == 1
    world.restart()
    await world.run_for(120)
    assert (world.aluma.counts["start"], world.aluma.counts["fail"]) == (2, 1)
    (copy,) = world.quarantine.tasks.values()
    assert b'{"the":"original"}' in copy.values()


class Changing(Source):
    """A source with another specification at each Start, as of a proxy that cuts texts."""

    async def start(self, task):
        claim = await super().start(task)
        received = b"%d" % self._aluma.counts["start"]
        return type(claim)(task, ExportSpec(claim.spec.files, received), claim.sent_at)


@virtual_time
async def test_task_is_not_failed_while_its_specification_changes():
    world = World(1, source=lambda aluma, _: Changing(aluma, ExportSpec((INVALID_TEXT,))))
    await world.run_for(40 * 3600)
    assert world.aluma.counts["start"] > 5
    assert world.aluma.counts["fail"] == 0


@virtual_time
async def test_task_of_an_unknown_specification_is_not_failed():
    """Nothing shows that a repetition has brought the same text."""
    world = world_of(ExportSpec((INVALID_TEXT,)))
    await world.run_for(20 * 3600)
    assert world.aluma.counts["fail"] == 0


@virtual_time
async def test_task_is_not_failed_when_a_file_could_not_be_fetched():
    """Its text can never be exported, but the copy lacks the other file: the task is parked."""
    other = ExportFile(1, 0, "", "b.pdf", "url", url="/g")
    world = await world_of(ExportSpec((INVALID_TEXT, other), b"{}"), FileMissing("not found")).find_unexportable(b"{}")
    await world.run_for(60)
    assert world.aluma.counts["fail"] == 0
    assert world.count(events.QuarantineFailed) == 1
    assert world.count(events.TaskParked) == 1


@virtual_time
async def test_task_is_not_failed_when_it_names_a_file_on_another_host():
    other = ExportFile(1, 0, "", "b.pdf", "url", url="https://host.example/b", problem="is on another host")
    world = await world_of(ExportSpec((INVALID_TEXT, other), b"{}")).find_unexportable(b"{}")
    await world.run_for(60)
    assert world.aluma.counts["fail"] == 0


class SlowJournal(MemoryJournal):
    """A journal whose write of a claim that is being failed takes ten seconds."""

    async def write(self, *records):
        if any(getattr(record, "state", None) is ClaimState.FAILING for record in records):
            await anyio.sleep(10)
        await super().write(*records)


class CheckedFail(Source):
    """A source that checks at each Fail that it is in the journal."""

    journal = None

    async def fail(self, task, message):
        states = [record.state for record in await self.journal.load() if hasattr(record, "state")]
        assert states == [ClaimState.FAILING]
        await super().fail(task, message)


@virtual_time
async def test_fail_is_not_sent_before_it_is_recorded_even_when_stopping():
    """A process that crashed after it would not know that the task has been failed."""
    journal = SlowJournal()
    world = await World(
        1,
        source=lambda aluma, _: CheckedFail(aluma, ExportSpec((INVALID_TEXT,), b"{}")),
        journal=journal,
        exporter={"drain_timeout": 1},
    ).find_unexportable(b"{}")
    world.source.journal = journal
    await world.run_for(2)
    assert world.aluma.counts["fail"] == 1
    assert world.count(events.TaskFailed) == 1
