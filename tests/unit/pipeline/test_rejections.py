"""Requests that Aluma or a proxy rejects for no reason in the task's state: claims are kept, and claiming pauses."""

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import (
    AuthenticationFailed,
    DestinationError,
    FileMissing,
    RequestRejected,
    SourceError,
    Unavailable,
    WrongContent,
)
from aluma_async.models import TaskState
from aluma_async.service.stats import RunStats
from aluma_async.testing import Behaviour, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World

HOUR = 3600


class Proxy(SimulatedSource):
    """Rejects the requests for which ``rejects(verb, task)`` is true, and counts all requests."""

    error = RequestRejected("403")

    def __init__(self, aluma, faults=None):
        super().__init__(aluma, faults)
        self.rejects = lambda verb, task: False
        self.sent = []

    async def _checked(self, verb, task):
        self.sent.append((anyio.current_time(), verb, task.id))
        await anyio.sleep(0.05)
        if self.rejects(verb, task):
            raise type(self.error)(f"{verb} task {task.id}: Aluma answered 403")

    def times(self, verb):
        return [time for time, sent, _ in self.sent if sent == verb]

    async def start(self, task):
        await self._checked("start", task)
        return await super().start(task)

    async def complete(self, task):
        await self._checked("complete", task)
        await super().complete(task)

    async def cancel(self, task):
        await self._checked("cancel", task)
        await super().cancel(task)

    async def state(self, task):
        await self._checked("get", task)
        return await super().state(task)


class FailingOnce(MemoryDestination):
    """A destination that cannot store the first claim."""

    failed = False

    def open(self, claim):
        if not self.failed:
            self.failed = True
            raise DestinationError("not now")
        return super().open(claim)


def verb_until(rejected, end):
    """Return a rule that rejects a verb until a time."""
    return lambda verb, task: verb == rejected and anyio.current_time() < end


@pytest.mark.parametrize("error", [RequestRejected(""), AuthenticationFailed("")], ids=["403", "401"])
@virtual_time
async def test_rejected_start_is_repeated_once_for_each_growing_pause(error):
    """Not once for every task each minute: that would be thousands of requests. No task is blamed."""
    world = World(60, source=Proxy, profile="small")
    world.source.error, world.source.rejects = error, verb_until("start", HOUR)
    await world.run_for(HOUR)
    starts = world.source.times("start")
    first = [time for time in starts if time < 1]
    later = [time for time in starts if time >= 1]
    assert len(first) <= 16
    assert len(later) < 80
    gaps = [after - before for before, after in pairwise(later)]
    assert min(gaps) > 1, "no two at the same time"
    assert sum(gaps[-5:]) > 5 * 40, "the pause grows"
    assert world.count(events.ClaimingPaused) == 1
    assert not world.count(events.ClaimRefused)
    assert not world.count(events.TaskParked)
    assert {event.failures for event in world.events(events.TaskCancelled)} == {1}
    world.restart()
    await world.run_for(HOUR)
    assert world.aluma.count_by_state() == {"completed": 60}


@virtual_time
async def test_rejection_of_one_project_does_not_stop_the_others():
    world = World(40, source=Proxy, profile="small")
    forbidden = world.aluma.sample_data.project(0)[0]
    world.source.rejects = lambda verb, task: verb == "start" and task.project_id == forbidden
    await world.run_for(HOUR)
    of_project = [n for n in range(40) if world.aluma.sample_data.project(n)[0] == forbidden]
    assert world.aluma.count_by_state() == {"completed": 40 - len(of_project), TaskState.PENDING: len(of_project)}
    assert max(world.times(events.TaskCompleted)) < 10 * 60
    assert len(world.source.times("start")) < 30 + 16 + 30


@virtual_time
async def test_rejection_of_one_task_does_not_stop_the_others():
    world = World(40, source=Proxy, profile="small")
    (first, *_) = world.aluma.ids()
    world.source.rejects = lambda verb, task: verb == "start" and task.id == first
    await world.run_for(3 * HOUR)
    assert world.aluma.count_by_state() == {"completed": 39, TaskState.PENDING: 1}
    assert max(world.times(events.TaskCompleted)) < 10 * 60
    assert len(world.source.times("start")) < 39 + 3 * 13


class Files(SimulatedSource):
    """Refuses the downloads of the tasks in ``sick``."""

    error: SourceError
    sick = frozenset()

    @asynccontextmanager
    async def open_file(self, claim, file):
        if claim.task.id in self.sick:
            raise self.error
        async with super().open_file(claim, file) as chunks:
            yield chunks


@pytest.mark.parametrize("error", [Unavailable("500"), SourceError("403"), FileMissing("404"), WrongContent("a page")])
@virtual_time
async def test_claiming_pauses_while_all_downloads_fail(error):
    """Not the whole queue is claimed and released meanwhile; tasks are tried one at a time until one is exported."""
    world = World(150, source=Files, profile="small", latency_seconds=0.1)
    world.source.error, world.source.sick = error, frozenset(world.aluma.ids())
    stats = RunStats()
    running = asyncio.ensure_future(world.exporter.run())
    await anyio.sleep(300)
    assert world.aluma.counts["start"] < 40 + 32 + 12
    assert world.count(events.ClaimingPaused) == 1
    stats(world.events(events.ClaimingPaused)[0])
    assert "the downloads of 40 tasks have failed" in str(stats.rejection)
    world.source.sick = frozenset()
    await anyio.sleep(600)
    assert world.count(events.ClaimingResumed) == 1
    assert len(world.aluma.ids("completed")) == 150
    world.exporter.stop()
    await running


@virtual_time
async def test_tasks_are_parked_while_all_downloads_fail():
    """So that they get a safety copy; and the pause is reported once, however long it lasts."""
    world = World(45, source=Files, profile="small", latency_seconds=0.1)
    world.source.error, world.source.sick = FileMissing("404"), frozenset(world.aluma.ids())
    await world.run_for(3 * HOUR)
    assert world.count(events.ClaimingPaused) == 1
    assert world.aluma.counts["start"] < 400
    assert world.count(events.TaskParked) > 20


@virtual_time
async def test_healthy_tasks_are_exported_behind_many_old_sick_ones():
    """In a pause for failed downloads, the newest tasks are tried first: many of the oldest ones have failed."""
    world = World(320, source=Files, profile="small", latency_seconds=0.1)
    world.source.error, world.source.sick = FileMissing("404"), frozenset(world.aluma.ids()[:300])
    await world.run_for(HOUR)
    assert len(world.aluma.ids("completed")) == 20


@virtual_time
async def test_failed_downloads_of_some_tasks_do_not_pause_claiming():
    """Also if the same ones fail again and again while nothing else is pending."""
    world = World(70, source=Files, profile="small", latency_seconds=0.1)
    world.source.error, world.source.sick = Unavailable("500"), frozenset(world.aluma.ids()[:30])
    await world.run_for(3 * HOUR)
    assert len(world.aluma.ids("completed")) == 40
    assert not world.count(events.ClaimingPaused)


@virtual_time
async def test_claim_is_kept_and_completed_when_complete_was_rejected():
    world = World(40, source=Proxy, profile="small", exporter={"workers": 4})
    world.source.rejects = verb_until("complete", 600)
    await world.run_for(HOUR)
    assert world.aluma.count_by_state() == {"completed": 40}
    assert world.aluma.counts["start"] == 40, "no task was exported again"
    assert not world.aluma.counts["cancel"]
    started = [time for time in world.times(events.TaskStarted) if time < 600]
    assert len(started) < 8 + 15, "few further tasks are claimed meanwhile"
    assert world.count(events.ClaimingPaused) == 1
    assert world.count(events.ClaimingResumed) == 1
    world.check()


@virtual_time
async def test_claim_is_kept_and_cancelled_when_cancel_was_rejected():
    world = World(1, source=Proxy, destination=FailingOnce())
    world.source.rejects = verb_until("cancel", 300)
    await world.run_for(HOUR)
    assert world.count(events.SettlementDeferred) == 1
    assert world.aluma.counts["cancel"] == 1
    assert world.aluma.count_by_state() == {"completed": 1}
    world.check()


@virtual_time
async def test_drained_run_counts_claims_that_were_not_settled():
    world = World(6, source=Proxy, exporter={"workers": 4})
    world.source.rejects = lambda verb, _: verb == "complete"
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.deferred) == (0, 6)
    assert not summary.everything_exported
    assert {event.task.id for event in world.events(events.SettlementDeferred)} == set(world.aluma.ids())


@virtual_time
async def test_drained_run_ends_with_the_rejection_when_it_goes_on():
    world = World(200, source=Proxy, exporter={"workers": 2})
    world.source.rejects = lambda verb, _: verb == "complete"
    with pytest.raises(RequestRejected):
        await world.exporter.run_until_drained()
    assert world.aluma.counts["start"] <= 4 + 3
    (ended,) = world.events(events.RunEnded)
    assert ended.summary.deferred == world.aluma.counts["start"]


@virtual_time
async def test_drained_run_outlasts_a_short_rejection():
    world = World(20, source=Proxy, exporter={"workers": 2})
    world.source.rejects = verb_until("complete", 4)
    summary = await world.exporter.run_until_drained()
    assert summary.everything_exported
    assert world.aluma.count_by_state() == {"completed": 20}


@virtual_time
async def test_drained_run_counts_tasks_whose_start_was_rejected_or_refused():
    world = World(6, source=Proxy)
    forbidden = world.aluma.sample_data.project(0)[0]
    world.source.rejects = lambda verb, task: verb == "start" and task.project_id == forbidden
    of_project = [n for n in range(6) if world.aluma.sample_data.project(n)[0] == forbidden]
    world.aluma.start(world.aluma.ids()[1])  # by another exporter, after the listing of a server that lags
    world.aluma.behaviour = Behaviour(list_stale_seconds=1e9)
    summary = await world.exporter.run_until_drained()
    assert summary.held_back >= len(of_project)
    assert summary.lost == 1
    assert not summary.everything_exported
