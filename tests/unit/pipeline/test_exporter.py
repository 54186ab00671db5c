"""``Exporter``: how long a run continues after ``stop``."""

from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import DestinationError
from aluma_async.testing import MemoryDestination, SimulatedSource, run_virtual
from aluma_async.testing.virtual_loop import DeadlockError
from tests.support.clock import virtual_time
from tests.support.world import World


class SlowDestination(MemoryDestination):
    """Each delivery takes 40 s before it begins."""

    @asynccontextmanager
    async def open(self, claim):
        await anyio.sleep(40)
        async with super().open(claim) as delivery:
            yield delivery


class Refusing(MemoryDestination):
    """A destination that refuses the first deliveries."""

    def __init__(self, refusals):
        super().__init__()
        self._refusals = refusals

    def open(self, claim):
        self._refusals -= 1
        if self._refusals >= 0:
            raise DestinationError("no")
        return super().open(claim)


@pytest.mark.parametrize(("drain_timeout", "exported", "seconds"), [(20, 0, 20), (60, 4, 40)])
@virtual_time
async def test_stop_gives_tasks_in_progress_the_drain_timeout(drain_timeout, exported, seconds):
    """A task that does not end within it is released; one that does is exported, and nothing more is awaited."""
    world = World(
        4, profile="small", destination=SlowDestination(), exporter={"drain_timeout": drain_timeout, "workers": 4}
    )
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        while world.exporter.tasks_in_progress < 4:  # noqa: ASYNC110
            await anyio.sleep(0.1)
        stopped_at = anyio.current_time()
        world.exporter.stop()
    assert seconds - 1 <= anyio.current_time() - stopped_at <= seconds + 2
    assert world.aluma.counts["complete"] == exported
    assert world.aluma.counts["cancel"] == 4 - exported
    assert [event.tasks_in_progress for event in world.events(events.DrainStarted)] == [4]
    world.check()


@pytest.mark.parametrize("refusals", [1, 99], ids=["exported", "on hold"])
def test_exporter_leaves_no_timers_of_holds_after_its_run(refusals):
    """A program may go on for long after it, and the journal has the holds. The timer of the last lease remains."""
    idle_until = []

    async def main():
        world = World(1, profile="small", destination=Refusing(refusals))
        await world.run_for(200)
        assert world.aluma.counts["complete"] == (refusals == 1)
        ended_at = anyio.current_time()
        try:
            await anyio.Event().wait()
        finally:
            idle_until.append(anyio.current_time() - ended_at)

    with pytest.raises(DeadlockError):
        run_virtual(main)
    assert 0 < idle_until[0] <= 1500


@virtual_time
async def test_stop_during_a_listing_leaves_no_task_on_hold():
    class Endless(SimulatedSource):
        async def list_pending(self):
            await anyio.sleep_forever()
            yield []

    world = World(3, profile="small", source=Endless)
    await world.run_for(10)
    (ended,) = world.events(events.RunEnded)
    assert (ended.summary.exported, ended.summary.held_back) == (0, 0)
