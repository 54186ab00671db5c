"""Failing tasks that the administrator has confirmed, through the normal pipeline."""

import random

import anyio
import pytest

from aluma_async import Exporter, FolderDestination, MemoryJournal, events
from aluma_async.exceptions import DestinationError
from aluma_async.models import BreakerRecord, HoldRecord
from aluma_async.pipeline.confirmed import ConfirmedDestination, ConfirmedJournal, ConfirmedSource, ConfirmedTask
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import simulated
from tests.support.world import system_time


class Refusing(MemoryDestination):
    """A destination with a name that refuses every task."""

    def destinations_for(self, claim):
        return ("here",)

    def open(self, claim):
        raise DestinationError("no")


class Confirmed:
    """Tasks that an exporter has parked, and the exporter that fails them."""

    def __init__(self, path, tasks=3):
        self.aluma, self.journal, self.events = simulated(tasks, "small"), MemoryJournal(), []
        self.folder, self.path = QuarantineFolder(path), path

    def _exporter(self, source, destination, journal):
        return Exporter(
            source,
            destination,
            quarantine=FolderDestination(self.path, on_conflict="overwrite"),
            quarantine_folder=self.path,
            journal=journal,
            park_after=1,
            clock=system_time,
            uniform=random.Random(0).uniform,
            on_event=self.events.append,
        )

    async def park(self):
        await self._exporter(SimulatedSource(self.aluma), Refusing(), self.journal).run_until_drained()
        assert self.count(events.TaskParked) == len(self.aluma.ids())

    def fail(self, faults=None):
        """Return the exporter that fails all parked tasks."""
        copies = {copy.task_id: copy for copy in self.folder.copies()[0]}
        tasks = {task_id: ConfirmedTask(copy, "DestinationError", "no") for task_id, copy in copies.items()}
        journal = ConfirmedJournal(self.journal, list(tasks), system_time)
        destination = ConfirmedDestination(Refusing(), tasks)
        source = ConfirmedSource(SimulatedSource(self.aluma, faults), tasks, self.folder, journal, destination)
        return self._exporter(source, destination, journal)

    def count(self, kind):
        return sum(isinstance(event, kind) for event in self.events)


@pytest.mark.parametrize("fault", [Fault.DROP_AFTER, Fault.ERROR_AFTER, Fault.DROP_BEFORE])
@virtual_time
async def test_confirmed_task_is_failed_once_when_replies_are_lost(fault, tmp_path):
    """Every copy is complete, no claim stays open and no task on hold."""
    world = Confirmed(tmp_path)
    await world.park()
    await world.fail(FaultPlan({fault: 0.3}, seed=1)).run_until_drained()
    await world.fail().run_until_drained()
    assert world.aluma.count_by_state() == {"failed": 3}
    assert world.count(events.TaskFailed) == 3
    assert not any(world.folder.verify(copy) for copy in world.folder.copies()[0])
    assert not await world.journal.load()


@virtual_time
async def test_confirmed_task_stays_on_hold_when_the_run_stops_before_it(tmp_path):
    world = Confirmed(tmp_path)
    await world.park()
    exporter = world.fail()
    exporter.stop()
    await exporter.run_until_drained()
    assert not world.aluma.counts["fail"]
    holds = [record for record in await world.journal.load() if isinstance(record, HoldRecord)]
    assert [hold.seconds > 3600 and hold.parked for hold in holds] == [True] * 3


@virtual_time
async def test_confirmation_resets_the_breaker_of_its_kind_only(tmp_path):
    world = Confirmed(tmp_path, tasks=1)
    await world.park()
    project = world.folder.copies()[0][0].record.task.project_id
    same = BreakerRecord("a", "DestinationError", project, ("here",))
    others = [
        BreakerRecord("b", "UnexportableTask", project, ("here",)),
        BreakerRecord("c", "DestinationError", "another", ("here",)),
        BreakerRecord("d", "DestinationError", project, ("there",)),
    ]
    await world.journal.write(same, *others)
    await world.fail().run_until_drained()
    assert list(await world.journal.load()) == others


@virtual_time
async def test_confirmation_fails_no_other_task(tmp_path):
    """A task that became pending meanwhile is left alone, and holds of other tasks stay."""
    world = Confirmed(tmp_path)
    await world.park()
    first, *rest = world.folder.copies()[0]
    for copy in rest:
        world.folder.remove(copy)
    with anyio.fail_after(3600):
        await world.fail().run_until_drained()
    assert world.aluma.ids("failed") == [first.task_id]
    assert world.aluma.counts["start"] == 4
    assert {record.task_id for record in await world.journal.load()} == {copy.task_id for copy in rest}
