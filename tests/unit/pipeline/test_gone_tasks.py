"""Tasks on hold that Aluma deletes are reported once, however long ago they were put on hold."""

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import FileMissing
from aluma_async.models import HoldRecord, TaskState
from aluma_async.pipeline.gone_tasks import GoneTasks
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.testing import Fault, FaultPlan, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.failures import Parts
from tests.support.stack import simulated
from tests.support.world import World, system_time

PARKING = {"park_after": 1, "park_seconds": 9999}


async def parked_world():
    faults = FaultPlan()
    faults.plan("file", [Fault.DROP_BEFORE] * 5)
    world = World(1, profile="small", faults=faults, exporter=PARKING)
    assert (await world.exporter.run_until_drained()).held_back == 1
    return world


class Absent(SimulatedSource):
    """A source that lists nothing, and whose tasks are all in one state."""

    def __init__(self, state):
        super().__init__(simulated(0, "small"))
        self._state, self.looked_up = state, []

    async def state(self, task):
        self.looked_up.append(task.id)
        return self._state


def gone_ids(world):
    return [event.task.id for event in world.events(events.TaskGone)]


@pytest.mark.parametrize("seconds", [1, 90_000])
@virtual_time
async def test_deleted_task_is_reported_once_by_the_next_run(seconds):
    """Also when the hold is so old that it has no effect any more."""
    world = await parked_world()
    world.aluma.time_out()
    await anyio.sleep(seconds)
    summary = await world.restart().run_until_drained()
    assert (summary.gone, summary.everything_exported) == (1, False)
    assert gone_ids(world) == world.aluma.ids()
    summary = await world.restart().run_until_drained()
    assert (summary.gone, summary.everything_exported) == (0, True)
    assert not await world.journal.load()


@virtual_time
async def test_deleted_task_is_reported_while_the_exporter_runs():
    world = await parked_world()
    exporter = world.restart()
    async with anyio.create_task_group() as group:
        group.start_soon(exporter.run)
        await anyio.sleep(300)
        assert not gone_ids(world)
        world.aluma.time_out()
        await anyio.sleep(1000)
        assert gone_ids(world) == world.aluma.ids()
        exporter.stop()


@virtual_time
async def test_absent_task_is_not_gone_when_it_is_claimed_or_completed_elsewhere():
    """A claim of another exporter may be released again."""
    world = await parked_world()
    (task_id,) = world.aluma.ids()
    world.aluma.start(task_id)
    summary = await world.restart().run_until_drained()
    assert (summary.gone, len(await world.journal.load())) == (0, 1)
    world.aluma.complete(task_id)
    await anyio.sleep(1)
    summary = await world.restart().run_until_drained()
    assert (summary.gone, summary.everything_exported) == (0, True)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (None, "or another exporter has settled it"),
        ("failed", "another exporter or program has failed it"),
        ("timed-out", "it was overdue"),
        ("canceled", "it was cancelled"),
    ],
)
@virtual_time
async def test_reason_of_a_gone_task_is_what_its_state_shows(state, reason):
    """A task that Aluma does not know any more may have been exported by another exporter days ago."""
    source = Absent(state)
    world = World(0, source=lambda *_: source)
    await world.journal.write(HoldRecord("t", system_time(), 9999.0, failures=1))
    assert (await world.exporter.run_until_drained()).gone == 1
    assert [reason in event.reason for event in world.events(events.TaskGone)] == [True]


@pytest.mark.parametrize("state", ["pending:start_client_action", "completed"])
@virtual_time
async def test_hold_without_effect_is_looked_up_once_unless_it_is_claimed(state):
    """A task of another project stays pending for as long as nobody exports it."""
    source = Absent(state)
    world = World(0, source=lambda *_: source)
    await world.journal.write(HoldRecord("t", system_time(), 1.0, failures=1))
    await anyio.sleep(80_000)
    await world.run_for(7200)
    assert source.looked_up == ["t"]
    assert not gone_ids(world)


@virtual_time
async def test_many_gone_tasks_are_looked_up_over_several_runs():
    world = World(0)
    holds = [HoldRecord(f"t{n}", system_time(), 9999.0, failures=1) for n in range(101)]
    await world.journal.write(*holds)
    assert (await world.exporter.run_until_drained()).gone == 100
    assert (await world.restart().run_until_drained()).gone == 1


@virtual_time
async def test_absent_task_is_looked_up_again_after_ten_minutes():
    parts, source = Parts(), Absent(TaskState.CLAIMED)
    gone = GoneTasks(source, parts.cooldown, TaskTracker(), parts.claims, parts.events.append)
    await parts.cooldown.start("t", FileMissing("404"), park=True)
    for seconds, lookups in ((0, 1), (599, 1), (1, 2), (599, 2), (1, 3)):
        await anyio.sleep(seconds)
        await gone.report(())
        assert source.looked_up == ["t"] * lookups
    await parts.cooldown.close()


@pytest.mark.parametrize("state", ["completed", "timed-out", None])
@virtual_time
async def test_ended_task_is_not_admitted_from_a_listing_before_its_end(state):
    """Its hold has ended, but the listing that is being exported may still have it."""
    parts, tracker = Parts(), TaskTracker()
    gone = GoneTasks(Absent(state), parts.cooldown, tracker, parts.claims, parts.events.append)
    await parts.cooldown.start("t", FileMissing("404"))
    await gone.report(())
    assert tracker.blocks("t")
    await anyio.sleep(61)
    assert not tracker.blocks("t")
