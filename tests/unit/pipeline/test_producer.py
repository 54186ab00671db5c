"""``Producer``: when it lists pending tasks, and what it does if Aluma is away."""

from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import pytest

from aluma_async import Backoff, RetryPolicy, events
from aluma_async.exceptions import Unreachable
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World


@virtual_time
async def test_producer_lists_a_backlog_once():
    world = World(100, profile="small", latency_seconds=0.05)
    await world.exporter.run_until_drained()
    assert world.aluma.counts["list"] == 2  # the second listing finds nothing more


@virtual_time
async def test_producer_queues_a_task_once_when_it_is_listed_twice():
    class Doubled(SimulatedSource):
        async def list_pending(self):
            async for tasks in super().list_pending():
                yield [*tasks, *tasks]

    world = World(30, source=Doubled, profile="small")
    await world.exporter.run_until_drained()
    assert world.aluma.counts["start"] == 30
    assert not world.count(events.ClaimRefused)


@virtual_time
async def test_producer_ignores_completed_tasks_of_a_stale_listing():
    """Complete is answered with 202 (accepted), so the task may be listed for some time."""
    world = World(30, profile="small", list_stale_seconds=5)
    await world.exporter.run_until_drained()
    assert world.aluma.counts["start"] == 30


@virtual_time
async def test_producer_lists_less_often_while_nothing_is_pending():
    world = World(1, exporter={"polling": Backoff(2, 60, jitter=0)})
    await world.run_for(3600)
    # One listing with work, one at once after it, then after 2, 4, 8, 16, 32, 60, 60, ... seconds.
    assert 60 <= world.aluma.counts["list"] <= 70


class Timed(SimulatedSource):
    """A source that records when pending tasks are listed."""

    listed_at = ()

    async def list_pending(self):
        self.listed_at = (*self.listed_at, anyio.current_time())
        async for tasks in super().list_pending():
            yield tasks


@virtual_time
async def test_producer_lists_often_again_after_an_exported_task():
    world = World(1, source=Timed, profile="small", exporter={"polling": Backoff(2, 60, jitter=0)})
    await world.run_for(100)
    gaps = [round(after - before) for before, after in pairwise(world.source.listed_at)]
    assert gaps[:6] == [2, 0, 2, 4, 8, 16]


@virtual_time
async def test_producer_lists_slowly_while_all_tasks_fail():
    faults = FaultPlan({Fault.ERROR_BEFORE: 1.0})
    faults.plan("list", [None] * 1000)
    world = World(50, faults=faults, exporter={"cooldown": Backoff(1, 1), "retry": RetryPolicy(1)})
    await world.run_for(600)
    assert world.aluma.counts["list"] < 60


@virtual_time
async def test_producer_retries_a_failed_listing():
    faults = FaultPlan()
    faults.plan("list", [None, None] + [Fault.DROP_BEFORE] * 6)
    world = World(1, faults=faults)
    await world.run_for(300)
    assert world.count(events.ListingFailed) == 1
    assert world.aluma.counts["list"] > 3


class AwaySource(SimulatedSource):
    """Aluma cannot be reached for two hours, from the tenth Start on."""

    async def start(self, task):
        if self._aluma.counts["start"] >= 10 and anyio.current_time() < 7200:
            raise Unreachable("no connection")
        return await super().start(task)


@virtual_time
async def test_producer_raises_when_aluma_is_away_in_a_run_until_drained():
    world = World(60, source=AwaySource, profile="small", latency_seconds=0.1, exporter={"workers": 4})
    with pytest.raises(Unreachable):
        await world.exporter.run_until_drained()
    assert world.count(events.RequestRetried) <= 4 * 4, "the backlog is not tried task by task"
    world.check()


@virtual_time
async def test_producer_waits_while_aluma_is_away():
    """No task counts as failed, and the run continues by itself."""
    world = World(60, source=AwaySource, profile="small", latency_seconds=0.1, exporter={"workers": 4})
    await world.run_for(7200 + 120)
    assert world.aluma.count_by_state() == {"completed": 60}
    assert not world.count(events.TaskCancelled)
    assert world.aluma.counts["list"] < 150


class Slow(MemoryDestination):
    """Each delivery takes ten seconds."""

    @asynccontextmanager
    async def open(self, claim):
        await anyio.sleep(10)
        async with super().open(claim) as delivery:
            yield delivery


@virtual_time
async def test_producer_lists_again_when_half_of_the_queue_is_free():
    """Not while it is fuller, because the tasks in it would be listed again and again."""
    world = World(20, source=Timed, profile="small", destination=Slow(), exporter={"workers": 1, "queue_size": 8})
    await world.run_for(300)
    assert world.aluma.count_by_state() == {"completed": 20}
    assert world.source.listed_at[:2] == (0, 140), "twelve tasks are exported before all are in the queue, then two"
