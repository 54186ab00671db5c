"""``DestinationProbe``: whether an error concerns all tasks, or only the one that reported it."""

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.models import TaskState
from aluma_async.pipeline.destination_probe import DestinationProbe
from aluma_async.testing import MemoryDestination
from tests.support.clock import virtual_time
from tests.support.world import World


class SlowProbe(MemoryDestination):
    """A destination whose probe takes some seconds; it counts the probes."""

    probes = 0
    seconds = 1.0

    async def probe(self):
        self.probes += 1
        await anyio.sleep(self.seconds)
        await super().probe()


class SickPlaces(MemoryDestination):
    """A destination that is unavailable for some tasks only, which its probe does not see."""

    sick = frozenset()
    opened = ()

    def open(self, claim):
        self.opened = (*self.opened, claim.task.id)
        if claim.task.id in self.sick:
            raise DestinationUnavailable("the folder is read-only")
        return super().open(claim)


@virtual_time
async def test_probe_serves_all_callers_that_wait_when_it_begins():
    """A caller that comes while a probe runs needs the next one, because its error may be newer than this result."""
    destination = SlowProbe()
    probe = DestinationProbe(destination)
    async with anyio.create_task_group() as group:
        for delay in (0.0, 0.5, 0.5, 0.6):

            async def call(delay=delay):
                await anyio.sleep(delay)
                assert await probe.find_error() is None

            group.start_soon(call)
    assert destination.probes == 2


@virtual_time
async def test_probe_without_a_result_counts_as_failed():
    destination = SlowProbe()
    destination.seconds = 1e6
    with pytest.raises(DestinationUnavailable, match="did not answer"):
        await DestinationProbe(destination).run()
    assert anyio.current_time() == 60


@virtual_time
async def test_probe_that_raises_anything_counts_as_failed():
    class Defect(MemoryDestination):
        async def probe(self):
            raise ZeroDivisionError("division by a secret")

    with pytest.raises(DestinationUnavailable, match="unexpected ZeroDivisionError"):
        await DestinationProbe(Defect()).run()


@virtual_time
async def test_sick_tasks_do_not_stop_the_healthy_ones():
    """They cool down one by one, and claiming does not pause, while the probe succeeds."""
    world = World(70, destination=SickPlaces(), profile="small", exporter={"park_after": 4})
    world.destination.sick = frozenset(world.aluma.ids()[:30])
    await world.run_for(60)
    assert world.aluma.count_by_state() == {"completed": 40, TaskState.PENDING: 30}
    assert not world.count(events.ClaimingPaused)
    assert max(world.times(events.TaskCompleted)) < 10
    world.restart()
    await world.run_for(3600)
    assert {event.task.id for event in world.events(events.TaskParked)} == world.destination.sick
    world.check()


@virtual_time
async def test_outage_blames_no_task_and_ends_with_one_that_has_not_failed():
    """While the probe fails, claiming pauses and no task counts a failure."""

    class Outage(MemoryDestination):
        opened = ()

        def open(self, claim):
            self.opened = (*self.opened, (anyio.current_time(), claim.task.id))
            self.unavailable = anyio.current_time() < 600
            return super().open(claim)

        async def probe(self):
            self.unavailable = self.opened and anyio.current_time() < 600
            await super().probe()

    world = World(70, destination=Outage(), profile="small", exporter={"workers": 4})
    await world.run_for(3600)
    assert world.aluma.count_by_state() == {"completed": 70}
    assert {event.failures for event in world.events(events.TaskCancelled)} == {1}
    assert not world.count(events.TaskParked)
    before = {task_id for time, task_id in world.destination.opened if time < 600}
    first = next(task_id for time, task_id in world.destination.opened if time >= 600)
    assert first not in before


@virtual_time
async def test_full_disk_pauses_claiming_although_the_probe_succeeds():
    """Every failed task gives its space back, so there is always room for the probe, and never for a task."""

    class Full(SickPlaces):
        def open(self, claim):
            self.opened = (*self.opened, claim.task.id)
            if anyio.current_time() < 600:
                raise DestinationUnavailable("the disk is full", for_all=True)
            return MemoryDestination.open(self, claim)

    world = World(70, destination=Full(), profile="small", exporter={"workers": 4})
    await world.run_for(600)
    assert len(world.destination.opened) < 8 + 12, "one trial after each pause"
    assert world.count(events.ClaimingPaused) == 1
    world.restart()
    await world.run_for(3600)
    assert world.aluma.count_by_state() == {"completed": 70}


def test_probe_covers_several_destinations_of_a_router():
    """Then some tasks may be exported while others cannot."""
    destination = MemoryDestination()
    assert not DestinationProbe(destination).covers_several
    for names, several in (((), False), (("a",), False), (("a", "b"), True)):
        destination.names = names
        assert DestinationProbe(destination).covers_several is several
