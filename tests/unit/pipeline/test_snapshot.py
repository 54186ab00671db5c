"""``Exporter.snapshot``: the state of an exporter at one moment."""

import anyio
import msgspec
import pytest

from aluma_async import events
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.testing import Fault, FaultPlan
from tests.support.clock import virtual_time
from tests.support.world import World


async def happens(world, kind):
    """Wait for an event."""
    with anyio.fail_after(600):
        while not world.count(kind):  # noqa: ASYNC110
            await anyio.sleep(0.1)


@virtual_time
async def test_snapshot_follows_a_run_from_its_start_to_its_end():
    world = World(20, exporter={"workers": 4}, latency_seconds=1)
    new = world.exporter.snapshot()
    assert (new.state, new.pending, new.workers, new.exported) == ("new", None, 4, 0)
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await happens(world, events.TaskCompleted)
        running = world.exporter.snapshot()
        assert (running.state, running.pending, running.reason) == ("running", 20, "")
        assert running.exported >= 1
        assert 1 <= running.tasks_in_progress <= 8
        world.exporter.stop()
        assert world.exporter.snapshot().state == "draining"
    ended = world.exporter.snapshot()
    assert (ended.state, ended.tasks_in_progress) == ("ended", 0)
    assert ended.exported == world.count(events.TaskCompleted)
    assert ended.bytes == sum(event.bytes for event in world.events(events.TaskCompleted))


@virtual_time
async def test_snapshot_names_the_reason_of_a_pause_until_claiming_resumes():
    world = World(300, latency_seconds=1)
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await happens(world, events.TaskCompleted)
        world.destination.unavailable = True
        await happens(world, events.ClaimingPaused)
        paused = world.exporter.snapshot()
        assert paused.state == "paused"
        assert "memory destination" in paused.reason
        world.destination.unavailable = False
        await happens(world, events.ClaimingResumed)
        resumed = world.exporter.snapshot()
        assert (resumed.state, resumed.reason) == ("running", "")
        world.exporter.stop()


@virtual_time
async def test_snapshot_names_the_reason_of_a_failed_listing():
    """The number of pending tasks stays that of the last complete listing."""
    faults = FaultPlan()
    world = World(3, faults=faults)
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await happens(world, events.TasksListed)
        faults.plan("list", [Fault.DROP_BEFORE] * 9)
        await happens(world, events.ListingFailed)
        failed = world.exporter.snapshot()
        assert failed.reason == world.events(events.ListingFailed)[0].error.text
        assert failed.pending is not None
        listings = world.count(events.TasksListed)
        while world.count(events.TasksListed) == listings:  # noqa: ASYNC110
            await anyio.sleep(1)
        assert world.exporter.snapshot().reason == ""
        world.exporter.stop()


@virtual_time
async def test_snapshot_counts_an_exporter_that_cannot_start_as_ended():
    world = World(3)
    world.destination.unavailable = True
    with pytest.raises(DestinationUnavailable):
        await world.exporter.run()
    assert world.exporter.snapshot().state == "ended"


@virtual_time
async def test_snapshot_is_readable_as_json():
    """A program can serve it as it is."""
    world = World(2)
    await world.exporter.run_until_drained()
    content = msgspec.json.decode(msgspec.json.encode(world.exporter.snapshot()))
    assert (content["state"], content["exported"]) == ("ended", 2)
