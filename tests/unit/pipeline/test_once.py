"""``run_until_drained``: it does not wait for tasks on hold, and reports each task that it has not exported."""

from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import Backoff, RetryPolicy
from aluma_async.exceptions import DestinationError
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World

SHORT = {"cooldown": Backoff(0.5, 0.5, jitter=0), "retry": RetryPolicy(1)}


class Refusing(MemoryDestination):
    """A destination that refuses each task ``times`` times."""

    def __init__(self, times):
        super().__init__()
        self.times = times
        self.refused = []

    @asynccontextmanager
    async def open(self, claim):
        if self.refused.count(claim.task.id) < self.times:
            self.refused.append(claim.task.id)
            raise DestinationError("refused")
        async with super().open(claim) as delivery:
            yield delivery


class Lagging(SimulatedSource):
    """A source whose listing does not have a released task yet."""

    def __init__(self, *args):
        super().__init__(*args)
        self._released = {}

    async def cancel(self, task):
        await super().cancel(task)
        self._released[task.id] = anyio.current_time()

    async def list_pending(self):
        async for tasks in super().list_pending():
            yield [task for task in tasks if self._released.get(task.id, -9) + 5 < anyio.current_time()]


@pytest.mark.parametrize("source", [SimulatedSource, Lagging])
@virtual_time
async def test_run_until_drained_reports_tasks_on_hold(source):
    """Also if Aluma accepts a Cancel before it lists the task again."""
    world = World(3, source=source, destination=Refusing(100), exporter=SHORT)
    summary = await world.exporter.run_until_drained()
    assert summary.held_back == 3
    assert not summary.everything_exported
    assert summary.seconds < 5, "tasks on hold are not waited for"


@virtual_time
async def test_run_until_drained_tries_again_what_is_not_on_hold_any_more():
    """While other tasks are in progress, a hold may end."""
    world = World(3, destination=Refusing(1), latency_seconds=1, exporter=SHORT)
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.held_back) == (3, 0)
    assert summary.everything_exported


@virtual_time
async def test_run_until_drained_reports_a_task_that_is_released_at_its_end():
    """The reply to Start was lost and Cancel unconfirmed, so that the task is not listed as pending."""
    faults = FaultPlan()
    faults.plan("start", [Fault.DROP_AFTER])
    faults.plan("cancel", [Fault.DROP_BEFORE])
    world = World(1, faults=faults, exporter=SHORT)
    summary = await world.exporter.run_until_drained()
    assert world.aluma.count_by_state() == {"pending:start_client_action": 1}
    assert (summary.exported, summary.held_back, summary.deferred) == (0, 1, 0)
    assert not summary.everything_exported
