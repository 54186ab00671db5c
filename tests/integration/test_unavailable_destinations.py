"""One of several destinations is unavailable or hangs: the tasks of the others are exported."""

import threading
from pathlib import Path

import anyio
import pytest

from aluma_async import FolderDestination, events
from aluma_async.concurrency.daemon_threads import DaemonThreads
from aluma_async.destinations.folder import fs
from aluma_async.destinations.router import DestinationRouter
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.models import TaskState
from aluma_async.policy.routing import Route, Routing
from aluma_async.testing import MemoryDestination
from tests.integration.test_sick_places import HEALTHY, SICK, Source
from tests.support.clock import real_time, virtual_time
from tests.support.world import World

ROUTING = Routing((Route(("sick",), folder="sick"),), "healthy")
OUTAGE_SECONDS = 9 * 3600


class Unavailable(MemoryDestination):
    """A destination that is unavailable for some hours, soon after the start."""

    def __init__(self, probe):
        super().__init__()
        self.end_probe, self.opened = probe, 0

    @property
    def is_down(self):
        return 0.5 < anyio.current_time() < OUTAGE_SECONDS

    async def probe(self):
        if self.is_down:
            await self.end_probe(self)

    def open(self, claim):
        self.opened += 1
        if self.is_down:
            raise DestinationUnavailable("the server is down")
        return super().open(claim)


async def fail(_):
    raise DestinationUnavailable("the server is down")


async def raise_anything(_):
    raise SystemExit


async def hang(_):
    await anyio.sleep_forever()


async def ignore_cancellation(destination):
    while destination.is_down:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60)


@pytest.mark.parametrize("probe", [fail, raise_anything, hang, ignore_cancellation])
@virtual_time
async def test_unavailable_destination_stops_no_task_of_another(probe):
    """Its tasks are listed first. They are not blamed, are tried more and more rarely, and exported at last."""
    healthy, sick = MemoryDestination(), Unavailable(probe)
    router = DestinationRouter({"healthy": healthy, "sick": sick}, ROUTING)
    world = World(
        SICK + HEALTHY,
        source=Source,
        destination=router,
        profile="small",
        exporter={"workers": 4},
        latency_seconds=0.1,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await anyio.sleep(OUTAGE_SECONDS)
        early = SICK - world.aluma.count_by_state()[TaskState.PENDING]
        assert len(world.aluma.ids("completed")) == HEALTHY + early
        assert early < SICK / 2
        assert max(world.times(events.TaskCompleted)) < 120
        assert sick.opened < early + 2 * OUTAGE_SECONDS / 3600 * 60, "not each attempt of a task asks it"
        assert world.aluma.counts["start"] < HEALTHY + SICK * 20
        assert not world.count(events.ClaimingPaused)
        assert not world.count(events.TaskParked)
        await anyio.sleep(2 * 3600)
        assert len(world.aluma.ids("completed")) == HEALTHY + SICK
        world.exporter.stop()


@real_time
async def test_hanging_folder_stops_no_task_of_another(tmp_path, monkeypatch):
    """Also the end of the run does not wait for it."""
    may_return, open_folder = threading.Event(), fs.open_folder

    def hang_below_sick(name, *, inside=None):
        path = Path(name) if inside is None else Path(f"/proc/self/fd/{inside}").readlink()
        if world.count(events.TaskStarted) and path.is_relative_to(tmp_path / "sick"):
            may_return.wait(60)
        return open_folder(name, inside=inside)

    with DaemonThreads(16, "sick") as threads:
        sick = FolderDestination(tmp_path / "sick", executor=threads, hang_seconds=1)
        healthy = FolderDestination(tmp_path / "healthy")
        router = DestinationRouter({"healthy": healthy, "sick": sick}, ROUTING)
        world = World(SICK + HEALTHY, source=Source, destination=router, profile="small")
        monkeypatch.setattr(fs, "open_folder", hang_below_sick)
        try:
            await world.run_until(lambda: len(world.aluma.ids("completed")) == HEALTHY, 30)
            assert world.aluma.count_by_state() == {"completed": HEALTHY, TaskState.PENDING: SICK}
            assert "does not respond" in str(world.events(events.TaskCancelled)[0].error)
            assert not world.count(events.ClaimingPaused)
        finally:
            may_return.set()
        healthy.close()


@virtual_time
async def test_claiming_pauses_while_all_destinations_are_unavailable():
    """It resumes when one of them works, although the other one is still unavailable."""

    class Healthy(Unavailable):
        @property
        def is_down(self):
            return 0.5 < anyio.current_time() < 1000

    healthy, sick = Healthy(fail), Unavailable(fail)
    router = DestinationRouter({"healthy": healthy, "sick": sick}, ROUTING)
    world = World(SICK + HEALTHY, source=Source, destination=router, profile="small", latency_seconds=1)
    await world.run_for(3600)
    assert world.aluma.count_by_state() == {"completed": HEALTHY, TaskState.PENDING: SICK}
    assert world.count(events.ClaimingPaused) == 1
    assert world.count(events.ClaimingResumed) == 1


@virtual_time
async def test_full_destination_stops_no_task_of_another():
    """It has room for the few bytes of its probe, but for no task."""

    class Full(Unavailable):
        def open(self, claim):
            self.opened += 1
            if self.is_down:
                raise DestinationUnavailable("the disk is full", for_all=True)
            return MemoryDestination.open(self, claim)

        async def probe(self):
            pass

    healthy, full = MemoryDestination(), Full(fail)
    router = DestinationRouter({"healthy": healthy, "sick": full}, ROUTING)
    world = World(SICK + HEALTHY, source=Source, destination=router, profile="small", latency_seconds=1)
    await world.run_for(3600)
    assert world.aluma.count_by_state() == {"completed": HEALTHY, TaskState.PENDING: SICK}
    assert not world.count(events.ClaimingPaused)
    assert full.opened < 200
    world.restart()
    await world.run_for(OUTAGE_SECONDS + 2 * 3600)
    assert world.aluma.count_by_state() == {"completed": HEALTHY + SICK}
