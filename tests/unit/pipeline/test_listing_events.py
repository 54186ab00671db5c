"""``Producer``: what it reports of a listing, and in which order it feeds tasks."""

from itertools import pairwise

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import DestinationError, RequestRejected, Unreachable
from aluma_async.models import ExportTask, HoldRecord
from aluma_async.pipeline.producer import MAX_REJECTIONS
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World, system_time


class Dated(SimulatedSource):
    """A source whose tasks were created at ``dates``, by their number; pages have two tasks."""

    dates = (300.0, None, 200.0, 400.0, 100.0)

    async def list_pending(self):
        async for tasks in super().list_pending():
            dated = [
                ExportTask(task.id, task.name, task.project_id, task.project_name, self.dates[self._number(task)])
                for task in tasks
            ]
            for start in range(0, len(dated), 2):
                yield dated[start : start + 2]

    def _number(self, task):
        return self._aluma.ids().index(task.id)


@virtual_time
async def test_listing_reports_counts_and_the_oldest_tasks():
    """Of all listed tasks, and of those that are parked."""
    world = World(5, source=Dated, profile="small")
    ids = world.aluma.ids()
    for number, parked in ((0, True), (1, True), (2, False), (3, True)):
        await world.journal.write(HoldRecord(ids[number], system_time(), 5000.0, failures=1, parked=parked))
    summary = await world.exporter.run_until_drained()
    first, *_, last = world.events(events.TasksListed)
    assert (first.listed, first.admitted, first.held_back, first.parked) == (5, 1, 4, 3)
    assert (first.oldest_created_at, first.oldest_parked_created_at) == (100.0, 300.0)
    assert (last.listed, last.admitted, last.held_back, last.parked) == (4, 0, 4, 3)
    assert (last.oldest_created_at, last.oldest_parked_created_at) == (200.0, 300.0)
    assert (summary.exported, summary.held_back) == (1, 4)


@virtual_time
async def test_listing_without_dates_reports_none():
    world = World(0)
    await world.exporter.run_until_drained()
    (listed,) = world.events(events.TasksListed)
    assert (listed.listed, listed.admitted, listed.held_back, listed.parked) == (0, 0, 0, 0)
    assert (listed.oldest_created_at, listed.oldest_parked_created_at) == (None, None)


@virtual_time
async def test_tasks_that_have_failed_are_tried_last():
    world = World(10, profile="small", exporter={"workers": 1})
    ids = world.aluma.ids()
    await world.journal.write(HoldRecord(ids[0], system_time(), 0.0, failures=1))
    await world.exporter.run_until_drained()
    started = [event.task.id for event in world.events(events.TaskStarted)]
    assert sorted(started) == sorted(ids)
    assert ids[0] in started[-2:]
    assert world.events(events.TasksListed)[0].admitted == 10


class Failing(SimulatedSource):
    """A source whose listings raise ``errors``, in turn; None: no error."""

    errors = ()

    def __init__(self, aluma, faults=None):
        super().__init__(aluma, faults)
        self.listed_at = []

    async def list_pending(self):
        self.listed_at.append(anyio.current_time())
        number = len(self.listed_at) - 1
        if number < len(self.errors) and self.errors[number]:
            raise self.errors[number]
        async for tasks in super().list_pending():
            yield tasks


@pytest.mark.parametrize("error", [Unreachable("no connection"), RequestRejected("403")])
@virtual_time
async def test_first_listing_that_fails_ends_the_run(error):
    world = World(3, source=Failing)
    world.source.errors = [error] * 9
    with pytest.raises(type(error)), anyio.fail_after(300):
        await world.exporter.run()
    (ended,) = world.events(events.RunEnded)
    assert ended.summary.held_back == 0


@virtual_time
async def test_later_listing_that_fails_is_repeated_after_growing_delays():
    """The event names the delay, and claiming does not pause."""
    world = World(1, source=Failing, profile="small")
    world.source.errors = [None, None, *[RequestRejected("403")] * 4]
    await world.run_for(400)
    failed = world.events(events.ListingFailed)
    assert len(failed) == 4
    delays = [event.retry_in for event in failed]
    assert delays == sorted(delays)
    assert delays[0] >= 2
    times = world.source.listed_at[2:7]
    assert [after - before for before, after in pairwise(times)] == pytest.approx(delays, abs=0.01)
    assert not world.count(events.ClaimingPaused)


class Rejecting(SimulatedSource):
    """A source that rejects every Start."""

    async def start(self, task):
        self._aluma.counts["rejected"] += 1
        raise RequestRejected("403")


@virtual_time
async def test_drained_run_ends_after_three_pauses_in_a_row():
    world = World(50, source=Rejecting, profile="small", exporter={"workers": 1})
    with pytest.raises(RequestRejected):
        await world.exporter.run_until_drained()
    assert MAX_REJECTIONS == 3
    assert world.count(events.ClaimingPaused) == 1
    assert world.count(events.ClaimingStillPaused) == 2
    assert world.aluma.counts["rejected"] == 4


@virtual_time
async def test_completed_task_allows_three_further_pauses():
    """Only rejections in a row end the run."""

    class Sometimes(Rejecting):
        async def start(self, task):
            if self._aluma.counts["rejected"] == 3 and not self._aluma.counts["start"]:
                return await SimulatedSource.start(self, task)
            return await super().start(task)

    world = World(50, source=Sometimes, profile="small", exporter={"workers": 1})
    with pytest.raises(RequestRejected):
        await world.exporter.run_until_drained()
    assert world.count(events.TaskCompleted) == 1
    assert world.count(events.ClaimingPaused) + world.count(events.ClaimingStillPaused) == 3 + 3


class Unavailable(MemoryDestination):
    """A destination that refuses tasks and its probe until ``works_at``."""

    works_at = 0.0
    probes = 0

    async def probe(self):
        self.unavailable = bool(self.probes) and anyio.current_time() < self.works_at
        self.probes += 1
        await super().probe()

    def open(self, claim):
        self.unavailable = anyio.current_time() < self.works_at
        return super().open(claim)


@virtual_time
async def test_unavailable_destination_is_probed_before_tasks_are_listed_again():
    world = World(30, profile="small", destination=Unavailable(), exporter={"workers": 2})
    world.destination.works_at = 100.0
    await world.run_for(400)
    assert world.aluma.count_by_state() == {"completed": 30}
    assert world.aluma.counts["start"] <= 30 + 4, "few tasks are tried while nothing can be saved"
    assert world.destination.probes > 4
    assert world.count(events.ClaimingPaused) == world.count(events.ClaimingResumed) == 1
    ends = (events.ClaimingPaused, events.TaskCompleted, events.ClaimingResumed)
    kinds = [type(event) for event in world.events(ends)]
    completed = kinds[: kinds.index(events.ClaimingResumed)].count(events.TaskCompleted)
    assert completed + 1 == 4, "it resumes at the completion of as many tasks as the queue holds, twice the workers"
    assert all(isinstance(event.error, DestinationError) for event in world.events(events.ClaimingStillPaused))
