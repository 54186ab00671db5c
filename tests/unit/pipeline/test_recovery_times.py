"""``Recovery``: when a claim that no worker owns is settled, and when nothing more is sent for it."""

from itertools import pairwise

import anyio
import pytest

from aluma_async import RetryPolicy, events
from aluma_async.exceptions import Unavailable
from aluma_async.models import ClaimState
from aluma_async.testing import SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World, claim_record


class Away(SimulatedSource):
    """A source that refuses Cancel until ``until``, and records when it was sent."""

    until = 0.0

    def __init__(self, aluma, faults=None):
        super().__init__(aluma, faults)
        self.cancelled_at = []

    async def cancel(self, task):
        self.cancelled_at.append(anyio.current_time())
        if anyio.current_time() < self.until:
            raise Unavailable("503")
        await super().cancel(task)


async def world_of(until, state=ClaimState.CLAIMED, tasks=1):
    """Return a world whose tasks were claimed by a process that has crashed."""
    world = World(tasks, source=Away, profile="small", exporter={"retry": RetryPolicy(1)})
    world.source.until = until
    for task_id in world.aluma.ids():
        world.aluma.start(task_id)
        await world.journal.write(claim_record(task_id, state))
    return world


@virtual_time
async def test_unconfirmed_cancel_is_repeated_after_growing_delays_up_to_80_seconds():
    world = await world_of(1000)
    await world.run_for(1200)
    gaps = [after - before for before, after in pairwise(world.source.cancelled_at)]
    assert gaps[:5] == pytest.approx([10, 20, 40, 80, 80], abs=1)
    assert max(gaps) <= 81
    assert world.aluma.count_by_state() == {"completed": 1}
    assert world.count(events.TaskReleased) == 1


@virtual_time
async def test_last_attempt_is_made_a_second_before_the_lease_ends():
    """Nothing is sent after it, because another exporter may have the task; the operator is told."""
    world = await world_of(9e9)
    await world.run_for(2400)
    assert 1798.5 <= world.source.cancelled_at[-1] < 1800
    (deferred,) = world.events(events.SettlementDeferred)
    assert 1798 <= world.times(events.SettlementDeferred)[0] < 1800
    assert isinstance(deferred.error, Unavailable)
    assert not [record for record in await world.journal.load() if hasattr(record, "sent_at")]


@virtual_time
async def test_released_task_is_exported_two_seconds_later():
    world = await world_of(0, tasks=3)
    summary = await world.exporter.run_until_drained()
    assert summary.exported == 3
    released = max(world.times(events.TaskReleased))
    assert released < 1
    assert released + 2 <= min(world.times(events.TaskStarted)) < released + 3


class Forgetful(SimulatedSource):
    """A source whose Complete gets no reply until ``until``."""

    until = 0.0

    def __init__(self, aluma, faults=None):
        super().__init__(aluma, faults)
        self.completed_at = []

    async def complete(self, task):
        self.completed_at.append(anyio.current_time())
        if anyio.current_time() < self.until:
            raise Unavailable("503")
        await super().complete(task)


@virtual_time
async def test_exported_task_is_completed_later_and_counted_once():
    """Its claim is not cancelled meanwhile, and it is not exported again."""
    world = World(1, source=Forgetful, profile="small", exporter={"retry": RetryPolicy(1)})
    world.source.until = 500.0
    await world.run_for(700)
    assert world.aluma.count_by_state() == {"completed": 1}
    assert world.aluma.counts["start"] == world.count(events.TaskCompleted) == 1
    assert not world.aluma.counts["cancel"]
    assert world.count(events.SettlementUnconfirmed) == 1
    first, second, *_ = world.source.completed_at
    assert second - first == pytest.approx(5, abs=1)
    (completed,) = world.events(events.TaskCompleted)
    assert completed.files == len(world.destination.contents(completed.task.id))
