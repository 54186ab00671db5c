"""Plug-ins that raise anything: the task is blamed, and neither a worker nor the run ends."""

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import events
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.world import World


class Defective(MemoryDestination):
    """A destination that raises an exception for some tasks, at one of its steps."""

    def __init__(self, error, step):
        super().__init__()
        self.error, self.step, self.bad = error, step, frozenset()

    def raise_at(self, step, task_id):
        if step == self.step and task_id in self.bad:
            raise self.error

    @asynccontextmanager
    async def open(self, claim):
        self.raise_at("open", claim.task.id)
        async with super().open(claim) as delivery:
            yield DefectiveDelivery(self, delivery, claim.task.id)
            self.raise_at("commit", claim.task.id)


class DefectiveDelivery:
    def __init__(self, destination, delivery, task_id):
        self.destination, self.delivery, self.task_id = destination, delivery, task_id

    def resumable_size(self, file):
        self.destination.raise_at("resume", self.task_id)
        return self.delivery.resumable_size(file)

    async def save(self, file, chunks):
        await self.delivery.save(file, chunks)
        self.destination.raise_at("save", self.task_id)


@pytest.mark.parametrize("step", ["open", "resume", "save", "commit"])
@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, ZeroDivisionError, StopAsyncIteration])
@virtual_time
async def test_exception_of_a_plugin_affects_only_its_task(error, step):
    world = World(60, destination=Defective(error, step))
    world.destination.bad = frozenset(world.aluma.ids()[:40])  # more than there are workers
    await world.run_for(20)
    assert len(world.aluma.ids("completed")) == 20
    cancelled = world.events(events.TaskCancelled)
    assert {event.task.id for event in cancelled} == world.destination.bad
    assert {str(event.error) for event in cancelled} <= {f"unexpected {error.__name__}", "unexpected RuntimeError"}
    assert not world.aluma.ids("pending:complete_client_action")
    world.destination.bad = frozenset()
    world.restart()
    await world.run_for(3600)
    assert len(world.aluma.ids("completed")) == 60
    world.check()


@virtual_time
async def test_cancellation_of_the_exporter_still_ends_it():
    world = World(60, destination=Defective(ZeroDivisionError, "open"), latency_seconds=1)
    with anyio.move_on_after(5) as scope:
        await world.exporter.run()
    assert scope.cancelled_caught
    running = asyncio.ensure_future(world.restart().run())
    await anyio.sleep(5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    world.check()
