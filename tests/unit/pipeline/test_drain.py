"""Stopping an exporter: claimed tasks are finished or released, and no task is left claimed."""

import anyio
import pytest

from aluma_async import events
from aluma_async.models import ClaimState
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World, claim_record


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
    assert world.count(events.TaskReleased) == world.aluma.counts["cancel"]


@virtual_time
async def test_cancelled_run_leaves_no_task_claimed():
    for tenths in range(0, 80, 7):
        world = World(20, profile="small", latency_seconds=1)
        with anyio.move_on_after(tenths / 10):
            await world.exporter.run()
        world.check()


class SilentSource(SimulatedSource):
    """No request is answered, as while a token request hangs."""

    async def list_pending(self):
        """List no task."""
        await anyio.sleep_forever()
        yield ()

    async def state(self, task):
        """Return no state."""
        await anyio.sleep_forever()

    async def complete(self, task):
        """Confirm nothing."""
        await anyio.sleep_forever()

    async def cancel(self, task):
        """Confirm nothing."""
        await anyio.sleep_forever()


class SilentDestination(MemoryDestination):
    """A destination that does not answer its probe."""

    async def probe(self):
        """Return nothing."""
        await anyio.sleep_forever()


@pytest.mark.parametrize("destination", [MemoryDestination, SilentDestination])
@pytest.mark.parametrize("state", [None, ClaimState.CLAIMED, ClaimState.COMMITTED])
@virtual_time
async def test_stop_ends_an_idle_run_at_once_when_no_server_answers(state, destination):
    """Claims of an earlier process that Aluma did not confirm stay in the journal; a committed one stays committed."""
    world = World(3, source=SilentSource, destination=destination())
    if state:
        await world.journal.write(claim_record("a", state))
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await anyio.sleep(10)
        world.exporter.stop()
        stopped_at = anyio.current_time()
    assert anyio.current_time() - stopped_at <= 2
    records = await world.journal.load()
    assert [record.task_id for record in records if record.task_id == "a" and hasattr(record, "sent_at")] == (
        ["a"] if state else []
    )
    if state is ClaimState.COMMITTED and destination is SilentDestination:
        assert ClaimState.COMMITTED in [getattr(record, "state", None) for record in records]
