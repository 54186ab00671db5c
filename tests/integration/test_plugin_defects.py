"""Plug-ins that raise anything: the task is blamed, and neither a worker nor the run ends."""

import asyncio
from collections import Counter
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from aluma_async import Exporter, RetryPolicy, events
from aluma_async.destinations.router import DestinationRouter
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ClaimState, ExportTask, TaskState
from aluma_async.policy.routing import Route, Routing
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import simulated
from tests.support.world import ImpossibleSource, World, claim_record


class Abort(BaseException):
    """Some libraries use such classes, so that ``except Exception`` does not catch them."""


class Defective(MemoryDestination):
    """A destination that raises an exception for some tasks, at one of its steps."""

    def __init__(self, error, step):
        super().__init__()
        self.error, self.step, self.bad = error, step, frozenset()

    def raise_at(self, step, task_id):
        if step == self.step and task_id in self.bad:
            raise self.error

    async def probe(self):
        if self.step == "probe" and self.bad:
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
@pytest.mark.parametrize(
    "error", [asyncio.CancelledError, SystemExit, GeneratorExit, Abort, ZeroDivisionError, StopAsyncIteration]
)
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


class Cancelling(Defective):
    """A destination that cancels the asyncio task in which it is called, at once or a moment later."""

    def __init__(self, step, delay):
        super().__init__(None, step)
        self.delay = delay

    def raise_at(self, step, task_id):
        if step == self.step and task_id in self.bad:
            asyncio.get_running_loop().call_later(self.delay, asyncio.current_task().cancel)
            if not self.delay:
                asyncio.current_task().cancel()


@pytest.mark.parametrize("delay", [0, 0.5, 3])
@pytest.mark.parametrize("step", ["open", "resume", "save", "commit"])
@virtual_time
async def test_run_goes_on_when_a_plugin_cancels_its_asyncio_task(step, delay):
    """Whatever the worker does at that moment; a task that is hit by it is exported later."""
    world = World(60, destination=Cancelling(step, delay), latency_seconds=0.2)
    world.destination.bad = frozenset(world.aluma.ids()[:40:4])
    running = asyncio.ensure_future(world.exporter.run())
    await anyio.sleep(40)
    assert len(world.aluma.ids("completed")) >= 50
    world.destination.bad = frozenset()
    await anyio.sleep(1200)
    assert len(world.aluma.ids("completed")) == 60
    assert not running.done()
    world.exporter.stop()
    await running
    world.check()


@pytest.mark.parametrize("run", ["run", "run_until_drained"])
@virtual_time
async def test_run_raises_when_its_asyncio_tasks_are_cancelled(run):
    """Only a run that was stopped, or is drained, returns without an error."""
    host, world = asyncio.current_task(), World(60, latency_seconds=1)

    def cancel_tasks():
        for task in asyncio.all_tasks() - {host}:
            task.cancel()

    asyncio.get_running_loop().call_later(3, cancel_tasks)
    with pytest.raises(AlumaAsyncError, match="the run ended without a reason"):
        await getattr(world.exporter, run)()
    world.restart()
    await world.run_for(3600)
    assert len(world.aluma.ids("completed")) == 60


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


@pytest.mark.parametrize("step", ["open", "save", "commit", "probe"])
@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, Abort, ZeroDivisionError])
@virtual_time
async def test_exception_of_a_quarantine_only_parks_its_task(error, step):
    """Neither a Fail is sent nor the run ended, and the next task that is failed gets its copy."""
    world = await World(5, source=ImpossibleSource, quarantine=Defective(error, step)).find_unexportable()
    bad = world.aluma.ids()[0]
    world.quarantine.bad = frozenset({bad})
    await world.run_for(3600)
    assert world.aluma.count_by_state() == {"completed": 4, TaskState.PENDING: 1}
    assert [event.task.id for event in world.events(events.QuarantineFailed)] == [bad]
    world.quarantine.bad = frozenset()
    world.restart()
    await world.run_for(12 * 3600)
    assert world.aluma.ids("failed") == [bad]


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, ZeroDivisionError])
@virtual_time
async def test_exception_of_a_verification_lets_the_claim_be_cancelled(error):
    """The files that an earlier process committed are not proven to be there."""

    class Unverifiable(MemoryDestination):
        async def verify(self, receipt):
            raise error

    world = World(1, destination=Unverifiable())
    task_id = world.aluma.ids()[0]
    world.aluma.start(task_id)
    await world.journal.write(claim_record(task_id, ClaimState.COMMITTED, receipt="r"))
    await world.run_for(3600)
    assert world.aluma.counts["cancel"] == 1
    assert world.aluma.ids("completed") == [task_id]


class DefectiveSource(SimulatedSource):
    """A source that raises an exception before or after each tenth request."""

    error: type[BaseException] = ZeroDivisionError
    requests = 0
    healthy = False

    async def _defective(self, request, *args):
        self.requests += 1
        if self.requests % 10 == 3 and not self.healthy:
            raise self.error
        result = await request(*args)
        if self.requests % 10 == 7 and not self.healthy:
            raise self.error
        return result

    async def start(self, task):
        return await self._defective(super().start, task)

    async def complete(self, task):
        await self._defective(super().complete, task)

    async def cancel(self, task):
        await self._defective(super().cancel, task)

    async def state(self, task):
        return await self._defective(super().state, task)

    async def list_pending(self):
        self.requests += 1
        if self.requests % 3 == 2 and not self.healthy:
            raise self.error
        async for tasks in super().list_pending():
            yield tasks


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, ZeroDivisionError, KeyError])
@virtual_time
async def test_exception_of_a_source_ends_neither_a_worker_nor_the_run(error):
    """The outcome of the request is unknown, so the claim is settled, and no task is lost or exported twice."""
    world = World(60, source=DefectiveSource)
    world.source.error = error
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await anyio.sleep(3600)
        world.source.healthy = True
        await anyio.sleep(7200)
        world.exporter.stop()
    assert world.aluma.count_by_state() == {"completed": 60}
    world.check()


class Careless(MemoryDestination):
    """A destination whose author has handled exceptions wrongly, or does not read files to their end."""

    def __init__(self, mistake):
        super().__init__()
        self.mistake = mistake

    @asynccontextmanager
    async def open(self, claim):
        store = super().open(claim)
        delivery = await store.__aenter__()
        try:
            yield CarelessDelivery(delivery, self.mistake)
        except Exception as error:
            await store.__aexit__(type(error), error, None)
            if self.mistake != "suppresses errors":
                raise
            return
        await store.__aexit__(None, None, None)


class CarelessDelivery:
    def __init__(self, delivery, mistake):
        self.delivery, self.mistake = delivery, mistake
        self.resumable_size = delivery.resumable_size

    async def save(self, file, chunks):
        async with aclosing(self.read(chunks)) as part:
            await self.delivery.save(file, part)

    async def read(self, chunks):
        try:
            async for chunk in chunks:
                yield chunk
                if self.mistake == "reads one chunk":
                    return
        except Exception:
            if self.mistake != "keeps part of a file":
                raise


class BrokenDownloads(FaultPlan):
    """Some downloads break off in the middle."""

    def next(self, verb):
        return super().next(verb) if verb == "file" else None


@pytest.mark.parametrize("routed", [False, True])
@pytest.mark.parametrize("mistake", ["suppresses errors", "keeps part of a file", "reads one chunk"])
@virtual_time
async def test_careless_plugin_completes_no_task_that_it_has_not_stored(mistake, routed):
    """Beside a careless destination, a good one commits no part of a task."""
    faults = BrokenDownloads({Fault.TRUNCATE: 0.3}, seed=1)
    careless, good = Careless(mistake), MemoryDestination()
    destination = careless
    if routed:
        routing = Routing((Route(to=("careless", "good")),))
        destination = DestinationRouter({"careless": careless, "good": good}, routing)
    world = World(30, destination=destination, faults=faults, exporter={"retry": RetryPolicy(1)})
    await world.run_for(3600)
    completed = world.aluma.ids("completed")
    assert completed or mistake == "reads one chunk"
    for store in (careless, good) if routed else (careless,):
        for task_id in completed:
            stored = Counter((f, n, data) for (f, n, _), data in store.tasks[task_id].items())
            assert stored == Counter(world.aluma.expected(task_id))


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, GeneratorExit, Abort])
@virtual_time
async def test_exception_of_a_listener_does_not_end_the_run(error):
    """A listener is not awaited, so that its ``CancelledError`` is no cancellation of the exporter."""

    def listener(_):
        raise error

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    aluma = simulated(20)
    summary = await Exporter(SimulatedSource(aluma), MemoryDestination(), on_event=listener).run_until_drained()
    assert summary.exported == 20


@pytest.mark.parametrize("page", [None, 5, [None], ["a task"]])
@virtual_time
async def test_listing_of_another_type_does_not_end_the_run(page):
    class Careless(SimulatedSource):
        listings = 0

        async def list_pending(self):
            self.listings += 1
            async for tasks in super().list_pending():
                yield tasks
            if self.listings == 2:
                yield page

    world = World(20, source=Careless)
    await world.run_for(3600)
    assert len(world.aluma.ids("completed")) == 20
    assert {str(event.error) for event in world.events(events.ListingFailed)} == {"list tasks: unexpected TypeError"}


@virtual_time
async def test_endless_listing_does_not_delay_a_stop():
    """Its next rows are always there, so that it never waits."""

    class Endless(SimulatedSource):
        rows = 0

        async def list_pending(self):
            while True:
                self.rows += 1
                assert self.rows < 1000
                if self.rows == 500:
                    asyncio.get_running_loop().call_soon(world.exporter.stop)
                yield [ExportTask(f"t{self.rows}")]

    world = World(0, source=Endless)
    await world.exporter.run()
