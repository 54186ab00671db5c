"""Plug-ins that never return: the tasks of the same destination go on, as far as the plug-in handles them."""

import asyncio
from contextlib import asynccontextmanager, suppress

import anyio
import pytest

from aluma_async import events
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World

SICK, HEALTHY = 20, 40
LIMIT = 300


class Silent(MemoryDestination):
    """A destination that never returns from a step of some tasks, while they are sick."""

    def __init__(self, step, wait):
        super().__init__()
        self.step, self.wait, self.sick = step, wait, frozenset()

    async def wait_at(self, step, task_id):
        while step == self.step and task_id in self.sick:
            await self.wait()

    @asynccontextmanager
    async def open(self, claim):
        await self.wait_at("open", claim.task.id)
        async with super().open(claim) as delivery:
            yield SilentDelivery(self, delivery, claim.task.id)
            await self.wait_at("commit", claim.task.id)


class SilentDelivery:
    def __init__(self, destination, delivery, task_id):
        self.destination, self.delivery, self.task_id = destination, delivery, task_id
        self.resumable_size = delivery.resumable_size

    async def save(self, file, chunks):
        await self.destination.wait_at("save", self.task_id)
        await self.delivery.save(file, chunks)


async def ignore_cancellation():
    with suppress(asyncio.CancelledError):
        await anyio.sleep(3600)


def open_world(step, wait, **options):
    world = World(SICK + HEALTHY, destination=Silent(step, wait), exporter={"workers": 16}, **options)
    world.destination.sick = frozenset(world.aluma.ids()[:SICK])
    return world


@pytest.mark.parametrize("step", ["open", "save", "commit"])
@virtual_time
async def test_silent_plugin_delays_healthy_tasks_by_its_limit_only(step):
    """Its tasks are listed first, are blamed, and are exported when it answers again."""
    world = open_world(step, anyio.sleep_forever)
    running = asyncio.ensure_future(world.exporter.run())
    await anyio.sleep(3 * LIMIT)
    assert world.aluma.count_by_state()["completed"] == HEALTHY
    assert "the destination did not respond for" in str(world.events(events.TaskCancelled)[0].error)
    assert not world.count(events.ClaimingPaused)
    await anyio.sleep(12 * 3600)
    assert {event.task.id for event in world.events(events.TaskParked)} == world.destination.sick
    world.destination.sick = frozenset()
    await anyio.sleep(12 * 3600)
    assert world.aluma.count_by_state() == {"completed": SICK + HEALTHY}
    world.exporter.stop()
    await running
    world.check()


@pytest.mark.parametrize("step", ["open", "save", "commit"])
@virtual_time
async def test_worker_of_a_plugin_that_ignores_cancellation_is_replaced(step):
    """Its task stays claimed, and no more than the configured number of workers save at the same time afterwards."""
    world = open_world(step, ignore_cancellation)
    running = asyncio.ensure_future(world.exporter.run())
    await anyio.sleep(3 * LIMIT)
    assert world.aluma.count_by_state()["completed"] == HEALTHY
    world.destination.sick = frozenset()
    await anyio.sleep(8 * 3600)
    assert world.aluma.count_by_state() == {"completed": SICK + HEALTHY}
    world.exporter.stop()
    await running
    world.check()


@virtual_time
async def test_slow_source_is_not_the_fault_of_the_destination():
    """A pause of Aluma may be longer than the limit of the destination."""

    class Slow(SimulatedSource):
        @asynccontextmanager
        async def open_file(self, claim, file):
            async with super().open_file(claim, file) as chunks:

                async def delayed():
                    await anyio.sleep(2 * LIMIT)
                    async for chunk in chunks:
                        yield chunk

                yield delayed()

    world = World(5, source=Slow, profile="small")
    await world.run_for(3600)
    assert world.aluma.count_by_state() == {"completed": 5}
    assert not world.count(events.TaskCancelled)
