"""``NodeHooks``: claims, holds and listings of other exporters that share the work."""

import anyio
import pytest
from msgspec.structs import replace

from aluma_async import events
from aluma_async.models import ClaimState, HoldRecord
from tests.support.clock import virtual_time
from tests.support.world import World, claim_record, system_time


async def run_with(world, step):
    """Run the exporter of a world, and a step a second after its start; end it after 20 seconds more."""
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await anyio.sleep(1)
        await step()
        await anyio.sleep(20)
        world.exporter.stop()


@pytest.mark.parametrize("is_unconfirmed", [False, True])
@virtual_time
async def test_orphaned_claim_of_another_exporter_is_released_and_exported(is_unconfirmed):
    """Also if the outcome of its Start is not known, so that the claim stays open for a while."""
    world = World(1, profile="small")
    (task_id,) = world.aluma.ids()
    world.aluma.start(task_id)

    async def take_over():
        now = system_time()
        record = replace(claim_record(task_id, ClaimState.ORPHANED), sent_at=now)
        if is_unconfirmed:
            record = replace(record, start_unconfirmed_at=now)
        world.exporter.node_hooks.add_orphaned(record, is_interrupted=True)
        assert not world.exporter.node_hooks.is_tracked("another")

    await run_with(world, take_over)
    assert world.count(events.TaskReleased) == 1
    assert world.count(events.TaskCompleted) == 1


@virtual_time
async def test_hold_of_another_exporter_applies_unless_the_own_one_is_younger():
    world = World(2, profile="small", exporter={"park_after": 0})
    own, other = world.aluma.ids()
    now = system_time()
    hold = HoldRecord(other, now, 10.0)
    await world.exporter.node_hooks.merge_holds([hold])
    await world.exporter.node_hooks.merge_holds(
        [replace(hold, since=replace(now, boottime=now.boottime - 9), seconds=0)]
    )
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.held_back) == (1, 1)
    assert world.destination.tasks.keys() == {own}


@virtual_time
async def test_listing_of_another_exporter_ends_the_wait_for_the_next_one():
    world = World(0)

    async def poll():
        await anyio.sleep(10)
        before = world.count(events.TasksListed)
        world.exporter.node_hooks.show_listing(70, 5.0)
        world.exporter.node_hooks.poll_now()
        await anyio.sleep(0.5)
        assert world.count(events.TasksListed) == before + 1

    await run_with(world, poll)
    last = world.events(events.TasksListed)[-1]
    assert (last.listed, last.oldest_created_at, last.admitted) == (70, 5.0, 0)
