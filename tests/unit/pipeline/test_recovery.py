"""``Recovery``: an exporter settles the claims that an earlier process left."""

import anyio

from aluma_async import events
from aluma_async.models import ClaimState
from aluma_async.policy.lease import LATE_START_SECONDS
from aluma_async.testing import Fault, FaultPlan
from tests.support.clock import virtual_time
from tests.support.tasks import make_claim
from tests.support.world import World, claim_record


@virtual_time
async def test_recovery_releases_claims_of_a_crashed_process_within_seconds():
    world = World(5, profile="small")
    for task_id in world.aluma.ids():
        world.aluma.start(task_id)
        await world.journal.write(claim_record(task_id))
    summary = await world.exporter.run_until_drained()
    assert summary.exported == 5
    assert max(world.times(events.TaskReleased)) < 5
    assert summary.seconds < 10
    assert not world.aluma.counts["requeued"]


@virtual_time
async def test_recovery_completes_a_committed_task_without_exporting_it_again():
    world = World(1, profile="small")
    (task_id,) = world.aluma.ids()
    world.aluma.start(task_id)
    async with world.destination.open(make_claim(task_id)) as delivery:
        pass
    receipt = delivery.receipt
    await world.journal.write(claim_record(task_id, ClaimState.COMMITTED, files=2, bytes=20, receipt=receipt))
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.files, summary.bytes) == (1, 2, 20)
    assert world.aluma.counts["start"] == world.aluma.counts["complete"] == 1
    assert world.destination.tasks == {task_id: {}}


@virtual_time
async def test_recovery_does_not_settle_an_expired_claim():
    """Another exporter may have the task by now, and the request would hit its claim."""
    world = World(1, profile="small", claim_timeout_seconds=1800)
    (task_id,) = world.aluma.ids()
    world.aluma.start(task_id)
    await world.journal.write(claim_record(task_id, ClaimState.COMMITTED))
    await anyio.sleep(1801)
    world.aluma.start(task_id)  # by another exporter
    await world.exporter.run_until_drained()
    assert world.aluma.counts["complete"] == world.aluma.counts["cancel"] == 0
    assert world.aluma.count_by_state() == {"pending:complete_client_action": 1}


@virtual_time
async def test_recovery_releases_a_late_start_before_its_lease_expires():
    """Start gets no reply, Cancel is refused, and then Aluma executes the Start."""
    for late in (3, 40, 200, 600):
        faults = FaultPlan()
        faults.plan("start", [Fault.DROP_BEFORE])
        world = World(1, profile="small", faults=faults, exporter={"park_after": 0})
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run)
            while not world.count(events.TaskCancelled):  # noqa: ASYNC110
                await anyio.sleep(0.1)
            world.destination.unavailable = True  # so that the task is not exported meanwhile
            await anyio.sleep(late)
            (task_id,) = world.aluma.ids()
            if world.aluma.count_by_state().get("pending:start_client_action"):
                world.aluma.start(task_id)
            await anyio.sleep(LATE_START_SECONDS)
            world.destination.unavailable = False
            await anyio.sleep(3600)
            world.exporter.stop()
        assert world.aluma.count_by_state() == {"completed": 1}, late
        assert not world.aluma.counts["requeued"], late
