"""Stopping an exporter: claimed tasks are finished or released, and no task is left claimed."""

import anyio
import pytest

from tests.support.clock import virtual_time
from tests.support.world import World


@virtual_time
async def test_stop_finishes_claimed_tasks_and_claims_no_other():
    world = World(100, profile="small", latency_seconds=1)
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await anyio.sleep(5.5)
        started = world.aluma.counts["start"]
        world.exporter.stop()
    assert world.aluma.counts["start"] == world.aluma.counts["complete"] == started < 100
    assert not world.aluma.counts["cancel"]
    world.check()


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5, 3.5, 4.2])
@virtual_time
async def test_stop_releases_tasks_that_exceed_the_drain_timeout(seconds):
    """Whenever it comes: a Start in flight is awaited and its claim is cancelled, so that no task is left claimed."""
    world = World(100, profile="small", latency_seconds=1, exporter={"drain_timeout": 0.1})
    await world.run_for(seconds)
    world.check()
    assert world.aluma.counts["start"] == world.aluma.counts["complete"] + world.aluma.counts["cancel"]


@virtual_time
async def test_cancelled_run_leaves_no_task_claimed():
    for tenths in range(0, 80, 3):
        world = World(40, profile="small", latency_seconds=1)
        with anyio.move_on_after(tenths / 10):
            await world.exporter.run()
        world.check()
