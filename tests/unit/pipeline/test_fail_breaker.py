"""How many tasks are failed automatically. Fail deletes the only copy at Aluma, and the cause may be a defect."""

from collections import Counter

import pytest

from aluma_async import Backoff, events
from aluma_async.exceptions import DestinationError, JournalError
from aluma_async.models import BreakerRecord, ExportFile, ExportSpec, ExportTask
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.failures import FATAL, Parts
from tests.support.world import World

INVALID = ExportFile(0, 0, "", "a.txt", "content", "\ufffd", invalid_text=True)
VALID = ExportFile(0, 0, "", "a.txt", "content", "x")


class Source(SimulatedSource):
    """A source of tasks of one project, all invalid, but for those whose number is in ``valid``."""

    valid = frozenset()

    def __init__(self, aluma, faults, valid=None, projects=1):
        super().__init__(aluma, faults)
        self._valid = self.valid if valid is None else valid
        self._projects = projects
        self.projects = {}

    async def list_pending(self):
        async for tasks in super().list_pending():
            yield [self._in_project(task) for task in tasks]

    def _in_project(self, task):
        project = f"p{self._aluma.ids().index(task.id) % self._projects}"
        self.projects[task.id] = project
        return type(task)(task.id, task.name, project, project, task.created_at)

    async def start(self, task):
        claim = await super().start(task)
        is_valid = self._aluma.ids().index(task.id) in self._valid
        return type(claim)(task, ExportSpec((VALID if is_valid else INVALID,), b"{}"), claim.sent_at)

    def failed(self):
        """Return the number of failed tasks of each project."""
        return Counter(self.projects[task_id] for task_id in self._aluma.ids("failed"))


class Named(MemoryDestination):
    """A destination with names; ``name_of`` returns that of a claim's only file."""

    def __init__(self, name_of):
        super().__init__()
        self._name_of = name_of

    def destinations_for(self, claim):
        return (self._name_of(claim.task),)

    def open(self, claim):
        return _NamedDelivery(super().open(claim), self.destinations_for(claim))


class _NamedDelivery:
    def __init__(self, delivery, names):
        self._delivery = delivery
        self.destinations = names

    async def __aenter__(self):
        delivery = await self._delivery.__aenter__()
        self.save, self.resumable_size = delivery.save, delivery.resumable_size
        return self

    async def __aexit__(self, *error):
        return await self._delivery.__aexit__(*error)


async def world_of(tasks, *, destination=None, workers=16, faults=None, **options):
    return await World(
        tasks,
        source=lambda aluma, faults: Source(aluma, faults, **options),
        destination=destination,
        faults=faults,
        exporter={"workers": workers, "cooldown": Backoff(60, 3600, jitter=0)},
        latency_seconds=0.2,
    ).find_unexportable(b"{}")


@virtual_time
async def test_breaker_allows_3_failed_tasks_with_16_workers():
    """All workers may find at the same time that their task can never be exported."""
    world = await world_of(60)
    await world.run_for(3600)
    assert world.source.failed() == {"p0": 3}
    assert world.count(events.TaskFailed) == 3
    assert not world.count(events.TaskCancelled), "the others are parked at once"
    parked = {event.task.id for event in world.events(events.TaskParked)}
    assert parked == set(world.aluma.ids("pending:start_client_action"))
    assert parked <= world.quarantine.tasks.keys(), "each parked task has a safety copy"


@virtual_time
async def test_breaker_reports_once_for_each_kind():
    world = await world_of(12, projects=2)
    await world.run_for(13 * 3600)
    assert world.source.failed() == {"p0": 3, "p1": 3}
    assert len(world.events(events.FailureBreakerOpened)) == 2


@virtual_time
async def test_breaker_counts_after_a_restart():
    world = await world_of(12, projects=2)
    await world.run_for(600)
    for _ in range(2):
        world.restart()
        await world.run_for(600)
    assert world.source.failed() == {"p0": 3, "p1": 3}


@virtual_time
async def test_breaker_is_not_reset_by_an_export_of_another_project():
    world = await world_of(12, projects=2, valid=frozenset(range(1, 12, 2)))
    await world.run_for(7 * 3600)
    assert world.count(events.TaskCompleted) == 6
    assert world.source.failed() == {"p0": 3}


@virtual_time
async def test_breaker_is_not_reset_by_an_export_to_another_destination():
    even = Named(lambda task: "even" if world.aluma.ids().index(task.id) % 2 == 0 else "odd")
    world = await world_of(12, valid=frozenset(range(1, 12, 2)), destination=even)
    await world.run_for(7 * 3600)
    assert world.count(events.TaskCompleted) == 6
    assert world.source.failed() == {"p0": 3}


@virtual_time
async def test_breaker_is_not_reset_by_exports_of_other_tasks_of_its_kind():
    """Ten tasks whose texts a proxy has cut, among ten that are exported: that proves nothing about the others."""
    world = await world_of(20, valid=frozenset(range(1, 20, 2)), workers=1)
    await world.run_for(20 * 3600)
    assert world.count(events.TaskCompleted) == 10
    assert world.source.failed() == {"p0": 3}
    assert len([record for record in await world.journal.load() if isinstance(record, BreakerRecord)]) == 3


@virtual_time
async def test_breaker_gives_a_place_back_when_fail_was_not_sent():
    """No copy can be stored for an hour; then three tasks are failed."""
    world = await world_of(10)
    original, world.quarantine.open = world.quarantine.open, _refuse
    await world.run_for(3600)
    assert world.count(events.QuarantineFailed) >= 3
    assert not world.aluma.counts["fail"]
    assert not [record for record in await world.journal.load() if isinstance(record, BreakerRecord)]
    world.quarantine.open = original
    world.restart()
    await world.run_for(8 * 3600)
    assert world.source.failed() == {"p0": 3}


def _refuse(claim):
    raise DestinationError("no space")


@virtual_time
async def test_no_task_is_failed_when_its_place_cannot_be_recorded(monkeypatch):
    """After a crash, the task would not be counted."""
    world = await world_of(5)
    write = world.journal.write

    async def write_all_but_places(*records):
        if any(isinstance(record, BreakerRecord) for record in records):
            raise JournalError("disk full")
        await write(*records)

    monkeypatch.setattr(world.journal, "write", write_all_but_places)
    await world.run_for(3600)
    assert not world.aluma.counts["fail"]
    assert world.count(events.TaskParked) >= 5


@pytest.mark.parametrize("lost", ["first", "repeated", "next run"])
@virtual_time
async def test_breaker_gives_a_place_back_when_the_copy_was_lost(lost):
    """The copy disappears before the first Fail, before a later one, or before the next run. Fail is not sent then."""
    faults = FaultPlan()
    faults.plan("fail", [] if lost == "first" else [Fault.DROP_BEFORE] * 1000)
    world = await world_of(5, workers=1, faults=faults)
    verify = world.quarantine.verify

    async def lose(receipt):
        if lost == "first" or world.count(events.SettlementUnconfirmed):
            world.quarantine.tasks.clear()
        return await verify(receipt)

    world.quarantine.verify = lose
    await world.run_for(20 if lost == "next run" else 600)
    if lost == "next run":
        world.quarantine.tasks.clear()
        world.restart()
        await world.run_for(60)
    assert not world.source.failed()
    assert not [record for record in await world.journal.load() if isinstance(record, BreakerRecord)]


@virtual_time
async def test_released_task_is_exported_again_soon_after_its_copy_was_lost():
    faults = FaultPlan()
    faults.plan("fail", [Fault.DROP_BEFORE] * 10)
    world = await world_of(1, workers=1, faults=faults)
    verify = world.quarantine.verify

    async def lose(receipt):
        if world.count(events.SettlementUnconfirmed):
            world.quarantine.tasks.clear()
        return await verify(receipt)

    world.quarantine.verify = lose
    await world.run_for(120)
    (released, *_), starts = world.times(events.TaskReleased), world.times(events.TaskStarted)
    assert min(time for time in starts if time > released) < released + 10


@pytest.mark.parametrize("count", [3, 4])
@virtual_time
async def test_breaker_opens_only_when_a_task_is_refused(count):
    world = await world_of(count)
    await world.run_for(60)
    assert world.count(events.FailureBreakerOpened) == count - 3


@virtual_time
async def test_tasks_without_a_route_are_one_kind():
    """Their destinations are unknown, so that three of them are failed."""
    parts = Parts()

    def no_route(claim):
        raise DestinationError("no route matches")

    parts.destination.destinations_for = no_route
    for number in range(4):
        result, *_ = await parts.handle(FATAL, task=ExportTask(f"t{number}", project_id="p"))
        assert result is (number < 3)
    await parts.cooldown.close()
