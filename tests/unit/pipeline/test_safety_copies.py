"""Copies of parked tasks, as the exporter stores and removes them."""

from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import events
from aluma_async.clock import system_clock
from aluma_async.exceptions import BadSpecification, DestinationUnavailable, FileMissing
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord
from aluma_async.quarantine.records import SPEC_NAME, CopyState
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.parking import PARK_SECONDS, World
from tests.support.tasks import make_claim


@virtual_time
async def test_parked_task_gets_a_copy_before_it_is_released(tmp_path):
    world = World(tmp_path, 3)
    summary = await world.exporter().run_until_drained()
    assert (summary.exported, summary.failed, summary.cancelled, summary.held_back) == (0, 0, 3, 3)
    world.check_copies(*world.aluma.ids())
    assert {copy.record.state for copy in world.folder.copies()[0]} == {CopyState.PARKED}
    assert world.aluma.count_by_state() == {"pending:start_client_action": 3}
    assert world.aluma.counts["fail"] == 0
    of_one = [
        type(event) for event in world.events if getattr(event, "task", None) and event.task.id == world.aluma.ids()[0]
    ]
    assert of_one[-2:] == [events.CopyStored, events.TaskParked]


@virtual_time
async def test_task_that_only_cools_down_gets_no_copy(tmp_path):
    world = World(tmp_path, park_after=10)
    await world.exporter().run_until_drained()
    world.check_copies()


@virtual_time
async def test_copy_is_removed_when_the_task_is_exported(tmp_path):
    """In a later process than the one that stored it."""
    world = World(tmp_path, 2)
    await world.run_for(100)
    world.check_copies(*world.aluma.ids())
    world.destination.works = True
    await world.run_for(PARK_SECONDS + 100)
    assert world.aluma.count_by_state() == {"completed": 2}
    world.check_copies()
    assert world.kinds(events.CopyFailed) == []


@virtual_time
async def test_copy_is_stored_once_although_the_task_is_parked_again(tmp_path):
    world = World(tmp_path)
    await world.run_for(4 * PARK_SECONDS + 100)
    assert len(world.kinds(events.TaskParked)) > 2
    assert len(world.kinds(events.CopyStored)) == 1
    assert world.aluma.counts["file"] == len(world.kinds(events.TaskParked)), "each time it is compared"
    world.check_copies(*world.aluma.ids())


@virtual_time
async def test_incomplete_copy_is_refreshed_when_the_task_comes_round_again(tmp_path):
    """An ingress without a backend answers 404 for some time."""

    class Ingress(SimulatedSource):
        @asynccontextmanager
        async def open_file(self, claim, file):
            if anyio.current_time() < PARK_SECONDS / 2:
                raise FileMissing("default backend - 404")
            async with super().open_file(claim, file) as chunks:
                yield chunks

    world = World(tmp_path, source=Ingress)
    await world.run_for(100)
    (copy,) = world.folder.copies()[0]
    assert copy.missing == {1: "default backend - 404"}
    await world.run_for(PARK_SECONDS + 100)
    world.check_copies(*world.aluma.ids())


@virtual_time
async def test_task_is_parked_although_no_copy_can_be_stored(tmp_path):
    """The disk of the quarantine is full, or a plug-in for it is defective: the error is reported."""
    for error in (DestinationUnavailable("No space left on device"), ZeroDivisionError()):

        class Full(MemoryDestination):
            def open(self, claim, error=error):
                raise error

        world = World(tmp_path, 2, quarantine=Full())
        summary = await world.exporter().run_until_drained()
        assert (summary.held_back, summary.failed) == (2, 0)
        assert world.kinds(events.CopyFailed, events.TaskParked).count(events.CopyFailed) == 2
        assert len(world.kinds(events.TaskParked)) == 2
        assert world.aluma.count_by_state() == {"pending:start_client_action": 2}
        world.check_copies()


@virtual_time
async def test_copy_ends_with_the_lease_and_the_claim_is_released(tmp_path):
    """A copy that takes too long is discarded, and tried again next time."""

    class Slow(SimulatedSource):
        seconds = 2000

        @asynccontextmanager
        async def open_file(self, claim, file):
            await anyio.sleep(self.seconds)
            async with super().open_file(claim, file) as chunks:
                yield chunks

    world = World(tmp_path, source=Slow)
    summary = await world.exporter().run_until_drained()
    assert summary.held_back == 1
    assert world.kinds(events.CopyFailed, events.TaskParked) == [events.CopyFailed, events.TaskParked]
    assert world.aluma.counts["cancel"] == 1
    assert not world.aluma.counts["requeued"], "the lease did not expire"
    assert world.folder.copies() == ([], [])
    world.source.seconds = 1
    await world.run_for(PARK_SECONDS + 100)
    world.check_copies(*world.aluma.ids())


@pytest.mark.parametrize("tenths", range(1, 40, 3))
@virtual_time
async def test_stop_during_a_copy_releases_the_claim_and_leaves_nothing(tenths, tmp_path):
    class Slow(SimulatedSource):
        @asynccontextmanager
        async def open_file(self, claim, file):
            await anyio.sleep(2)
            async with super().open_file(claim, file) as chunks:
                yield chunks

    world = World(tmp_path, source=Slow, drain_timeout=0.1)
    await world.run_for(tenths / 10)
    assert world.aluma.count_by_state() == {"pending:start_client_action": 1}
    copies, problems = world.folder.copies()
    assert not problems
    assert not copies or world.folder.verify(copies[0]) == {}
    assert len(list(tmp_path.glob("[!.]*"))) == len(copies)
    world.destination.works = True
    await world.run_for(PARK_SECONDS + 100)
    assert world.aluma.count_by_state() == {"completed": 1}
    world.check_copies()


@virtual_time
async def test_unreadable_specification_is_kept_as_it_was_received(tmp_path):
    class Unreadable(SimulatedSource):
        async def start(self, task):
            await super().start(task)
            raise BadSpecification("unreadable Export Specification: not JSON", received=b"<html>\xff")

    world = World(tmp_path, source=Unreadable)
    await world.exporter().run_until_drained()
    (copy,) = world.folder.copies()[0]
    assert (copy.folder / SPEC_NAME).read_bytes() == b"<html>\xff"
    assert copy.missing == {0: "unreadable Export Specification: not JSON"}
    assert copy.record.state is CopyState.PARKED


@virtual_time
async def test_task_whose_specification_was_not_read_has_no_copy_and_says_why(tmp_path):
    """It is larger than the limit. An empty copy would look like a task without content."""

    class TooLarge(SimulatedSource):
        async def start(self, task):
            await super().start(task)
            raise BadSpecification("larger than 5 bytes, and there is no copy")

    world = World(tmp_path, source=TooLarge)
    await world.exporter().run_until_drained()
    assert world.folder.copies() == ([], [])
    (failed,) = [event for event in world.events if isinstance(event, events.CopyFailed)]
    assert "there is no copy" in str(failed.error)
    (hold,) = [record for record in await world.journal.load() if isinstance(record, HoldRecord)]
    assert (hold.parked, hold.message) == (True, str(failed.error))
    assert world.aluma.count_by_state() == {"pending:start_client_action": 1}


@virtual_time
async def test_hold_has_the_creation_time_of_its_task(tmp_path):
    world = World(tmp_path)
    await world.exporter().run_until_drained()
    (hold,) = [record for record in await world.journal.load() if isinstance(record, HoldRecord)]
    assert hold.created_at == 1_711_385_828.0
    (parked,) = [event for event in world.events if isinstance(event, events.TaskParked)]
    assert parked.hold.created_at == hold.created_at


@virtual_time
async def test_task_whose_start_was_lost_has_no_copy(tmp_path):
    """Without a specification there is nothing to copy."""
    faults = FaultPlan()
    faults.plan("start", [Fault.DROP_AFTER])
    world = World(tmp_path, faults=faults)
    await world.exporter().run_until_drained()
    assert world.kinds(events.CopyFailed, events.CopyStored) == []


@pytest.mark.parametrize("executed", [True, False])
@virtual_time
async def test_copy_stays_if_a_killed_process_had_committed_the_task(executed, tmp_path):
    """Complete is refused: it was executed, or the task is pending again. Nothing shows which version was exported."""
    world = World(tmp_path)
    await world.run_for(100)
    (task_id,) = world.aluma.ids()
    world.destination.works = True
    async with world.destination.open(make_claim(task_id)) as delivery:
        pass
    world.destination.works = False
    committed = ClaimRecord(task_id, ClaimState.COMMITTED, system_clock(), receipt=delivery.receipt)
    await world.journal.write(committed)
    world.aluma.start(task_id)
    (world.aluma.complete if executed else world.aluma.cancel)(task_id)
    await world.run_for(100)
    assert world.kinds(events.TaskCompleted) == [events.TaskCompleted] * executed
    world.check_copies(task_id)


CRASHED = {"crashes": 5, "parked": False}


class Recording(SimulatedSource):
    """A source that keeps what the journal has when Start is sent."""

    holds = ()
    journal = None

    async def start(self, task):
        self.holds = [*self.holds, *[hold for hold in await self.journal.load() if isinstance(hold, HoldRecord)]]
        return await super().start(task)


async def crash(world, **fields):
    """Let the next process find that the first task was in progress in a crash."""
    task_id = world.aluma.ids()[0]
    world.aluma.start(task_id)
    await world.journal.write(
        HoldRecord(task_id, system_clock(), 0.0, **{**CRASHED, **fields}),
        ClaimRecord(task_id, ClaimState.CLAIMED, system_clock()),
    )
    return task_id


@virtual_time
async def test_task_that_is_parked_for_crashes_is_copied_once(tmp_path):
    """Without its destination, which may be the cause. Copying may be it, too, so the attempt is recorded before."""
    world = World(tmp_path, 3, source=Recording, park_after=10)
    world.source.journal = world.journal
    world.destination.works = True
    crashed = await crash(world)
    await world.run_for(600)
    assert set(world.aluma.ids("completed")) == set(world.aluma.ids()[1:])
    assert crashed not in world.destination.tasks
    world.check_copies(crashed)
    assert [(hold.task_id, hold.copy_tried) for hold in world.source.holds[-1:]] == [(crashed, True)]
    assert world.aluma.counts["start"] == 4
    (hold,) = (record for record in await world.journal.load() if isinstance(record, HoldRecord))
    assert (hold.parked, hold.error, hold.crashes) == (True, "Crash", 6)
    assert "ended 6 times" in hold.message
    await world.run_for(PARK_SECONDS + 600)
    assert crashed in world.aluma.ids("completed"), "it is tried again after its hold"


@pytest.mark.parametrize("copied", [True, False], ids=["was copied", "was tried"])
@virtual_time
async def test_task_that_is_parked_for_crashes_is_not_copied_again(copied, tmp_path):
    world = World(tmp_path)
    crashed = await crash(world, copy_tried=not copied)
    if copied:
        await world.run_for(600)
        await world.journal.write(ClaimRecord(crashed, ClaimState.CLAIMED, system_clock()))
        world.aluma.start(crashed)
    starts = world.aluma.counts["start"]
    await world.run_for(600)
    assert world.aluma.counts["start"] == starts
    assert not world.aluma.ids("pending:complete_client_action")


@virtual_time
async def test_task_that_is_parked_for_crashes_stays_parked_when_its_copy_fails(tmp_path):
    faults = FaultPlan()
    faults.plan("start", [Fault.DROP_AFTER])
    world = World(tmp_path, faults=faults)
    crashed = await crash(world)
    await world.run_for(600)
    assert world.kinds(events.CopyFailed) == [events.CopyFailed]
    assert world.aluma.ids("pending:start_client_action") == [crashed], "the claim is released"
    (hold,) = (record for record in await world.journal.load() if isinstance(record, HoldRecord))
    assert (hold.parked, hold.error) == (True, "Crash")


@virtual_time
async def test_copy_of_an_exported_task_is_removed_during_the_run(tmp_path):
    """A service may run for months, and its quarantine has a limit."""
    world = World(tmp_path)
    exporter = world.exporter()
    async with anyio.create_task_group() as group:
        group.start_soon(exporter.run)
        await anyio.sleep(100)
        world.check_copies(*world.aluma.ids())
        world.destination.works = True
        await anyio.sleep(PARK_SECONDS + 100)
        assert world.aluma.count_by_state() == {"completed": 1}
        world.check_copies()
        exporter.stop()
