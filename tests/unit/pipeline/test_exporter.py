"""``Exporter``: how long a run continues after ``stop``."""

from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import events
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.world import World


class SlowDestination(MemoryDestination):
    """Each delivery takes 40 s before it begins."""

    @asynccontextmanager
    async def open(self, claim):
        await anyio.sleep(40)
        async with super().open(claim) as delivery:
            yield delivery


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
