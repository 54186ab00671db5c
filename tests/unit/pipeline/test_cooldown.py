"""``Cooldown``: holds survive the process, and parked tasks wait for the administrator."""

import anyio

from aluma_async import Backoff, MemoryJournal, events
from aluma_async.exceptions import SourceError
from aluma_async.models import HoldRecord
from aluma_async.pipeline.cooldown import SUSPECT_AFTER, Cooldown
from aluma_async.testing import Fault, FaultPlan
from tests.support.clock import virtual_time
from tests.support.world import World, system_time


@virtual_time
async def test_cooldown_and_failures_survive_a_restart():
    faults = FaultPlan()
    faults.plan("file", [Fault.DROP_BEFORE] * 5)
    world = World(1, profile="small", faults=faults)
    first = await world.exporter.run_until_drained()
    assert first.held_back == 1
    second = await world.restart().run_until_drained()
    assert (second.held_back, second.exported) == (1, 0), "still cooling down"
    await anyio.sleep(100)
    third = await world.restart().run_until_drained()
    assert third.exported == 1
    assert not await world.journal.load()


@virtual_time
async def test_parked_task_waits_until_the_administrator_releases_it():
    faults = FaultPlan()
    faults.plan("file", [Fault.DROP_BEFORE] * 10)
    world = World(1, profile="small", faults=faults, exporter={"park_after": 2, "park_seconds": 99_999})
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await anyio.sleep(5000)
        (parked,) = world.events(events.TaskParked)
        assert (parked.hold.failures, parked.hold.seconds) == (2, 99_999)
        world.journal.release(parked.task.id)
        await anyio.sleep(100)
        assert world.aluma.count_by_state() == {"completed": 1}
        world.exporter.stop()


@virtual_time
async def test_listing_counts_the_crash_suspects_that_wait_as_on_hold():
    """One of them is tried at a time."""
    world = World(5, profile="small")
    for task_id in world.aluma.ids()[:3]:
        await world.journal.write(HoldRecord(task_id, system_time(), 0.0, crashes=SUSPECT_AFTER))
    assert (await world.exporter.run_until_drained()).exported == 5
    listed = [(event.listed, event.admitted, event.held_back) for event in world.events(events.TasksListed)]
    assert listed[0] == (5, 3, 2)
    assert (2, 1, 1) in listed
    assert (1, 1, 0) in listed


@virtual_time
async def test_cooldown_forgets_tasks_that_are_never_listed_again():
    """Each of them has failed once and vanished; their number must not grow for ever."""
    journal = MemoryJournal()
    cooldown = Cooldown(
        Backoff(60, 3600), journal, park_seconds=21600, park_after=10, clock=system_time, uniform=lambda low, _: low
    )
    for number in range(3000):
        await cooldown.start(f"t{number}", SourceError("lost"))
        await anyio.sleep(60)
    assert len(list(cooldown.task_ids())) < 300
    assert len(await journal.load()) < 300
    assert (await cooldown.get("t2999")).failures == 1
