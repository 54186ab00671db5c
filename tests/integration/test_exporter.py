"""``Exporter``: whole runs in virtual time, without and with faults, and changes of the number of workers."""

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import Exporter, events
from aluma_async.exceptions import DestinationUnavailable, SourceError
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource, check_task_source
from tests.support.clock import virtual_time
from tests.support.stack import simulated
from tests.support.world import World


@virtual_time
async def test_simulated_source_keeps_the_contract_of_a_task_source():
    await check_task_source(SimulatedSource(simulated(3)))


@virtual_time
async def test_exporter_exports_every_pending_task_with_every_byte():
    world = World(50)
    summary = await world.exporter.run_until_drained()
    world.check()
    assert summary.everything_exported
    assert summary.exported == 50
    assert summary.bytes == sum(len(d) for i in world.aluma.ids() for _, _, d in world.aluma.expected(i))
    assert world.aluma.count_by_state() == {"completed": 50}


@virtual_time
async def test_exporter_keeps_all_workers_busy_while_one_task_is_slow():
    """One download of 100 s does not delay the short ones."""

    class OneSlow(SimulatedSource):
        @asynccontextmanager
        async def open_file(self, claim, file):
            if claim.task.id == self._aluma.ids()[0]:
                await anyio.sleep(100)
            async with super().open_file(claim, file) as chunks:
                yield chunks

    world = World(200, source=OneSlow, profile="small", latency_seconds=0.1)
    summary = await world.exporter.run_until_drained()
    assert 100 < summary.seconds < 101


@virtual_time
async def test_exporter_saves_as_many_tasks_at_once_as_it_has_workers():
    """No slot waits for a Complete; the number of claims is limited, too."""

    class Counting(MemoryDestination):
        now = peak = 0

        @asynccontextmanager
        async def open(self, claim):
            self.now += 1
            self.peak = max(self.peak, self.now)
            async with super().open(claim) as delivery:
                yield delivery
            self.now -= 1

    world = World(100, profile="small", latency_seconds=0.1, destination=Counting(), exporter={"workers": 7})
    summary = await world.exporter.run_until_drained()
    assert world.destination.peak == 7
    assert world.aluma.in_flight_peak <= 2 * 7
    ideal = 100 / 7 * 2 * 0.1
    assert ideal <= summary.seconds < ideal * 1.2


@virtual_time
async def test_exporter_limits_claims_when_complete_is_slow():
    class SlowComplete(SimulatedSource):
        open = peak = 0

        async def start(self, task):
            self.open += 1
            type(self).peak = max(self.peak, self.open)
            return await super().start(task)

        async def complete(self, task):
            await anyio.sleep(20)
            await super().complete(task)
            self.open -= 1

    world = World(40, source=SlowComplete, profile="small", exporter={"workers": 3})
    await world.exporter.run_until_drained()
    assert SlowComplete.peak == 6
    world.check()


@virtual_time
async def test_exporter_reports_the_first_error_of_its_listener_only():
    """The event loop logs it; the export goes on."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
    exporter = Exporter(SimulatedSource(simulated(5)), MemoryDestination(), on_event=lambda event: 1 / 0)
    assert (await exporter.run_until_drained()).exported == 5
    assert [type(error) for error in reported] == [ZeroDivisionError]


@virtual_time
async def test_exporter_raises_when_it_cannot_start():
    world = World(1)
    world.destination.unavailable = True
    with pytest.raises(DestinationUnavailable):
        await world.exporter.run()
    for run in ("run", "run_until_drained"):
        faults = FaultPlan()
        faults.plan("list", [Fault.DROP_BEFORE] * 9)
        with pytest.raises(SourceError):
            await getattr(World(1, faults=faults).exporter, run)()


@virtual_time
async def test_two_exporters_with_one_account_share_the_tasks():
    world = World(40, latency_seconds=0.05)
    other = Exporter(SimulatedSource(world.aluma), world.destination, uniform=random.Random(1).uniform)
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run_until_drained)
        group.start_soon(other.run_until_drained)
    assert world.aluma.count_by_state() == {"completed": 40}
    assert world.aluma.counts["start"] == 40
    world.check()


@virtual_time
async def test_two_exporters_run_in_one_event_loop():
    one, other = World(10), World(20)
    async with anyio.create_task_group() as group:
        group.start_soon(one.exporter.run_until_drained)
        group.start_soon(other.exporter.run_until_drained)
    one.check()
    other.check()
    assert len(one.destination.tasks) == 10
    assert len(other.destination.tasks) == 20


@pytest.mark.parametrize("seed", range(40))
@virtual_time
async def test_exporter_exports_everything_in_the_end_under_faults(seed):
    """Whatever the faults are, no task is lost and no file differs."""
    kinds = [fault for fault in Fault if fault is not Fault.UNAUTHORISED]
    chance = random.Random(seed)
    rates = {kind: chance.choice([0, 0, 0.02, 0.1]) for kind in kinds}
    faults = FaultPlan(rates, seed=seed, burst=chance.choice([0, 0.5]))
    world = World(15, faults=faults, profile="small", seed=seed, latency_seconds=0.1)
    await world.run_for(6 * 3600)
    for task_id in world.aluma.ids("completed"):
        assert Counter(data for _, _, data in world.aluma.expected(task_id)) == Counter(
            world.destination.tasks[task_id].values()
        )
    assert world.aluma.count_by_state() == {"completed": 15}


@pytest.mark.parametrize(("first", "then"), [(4, 12), (12, 4), (12, 1)])
@virtual_time
async def test_set_workers_takes_effect_during_a_run(first, then):
    """No claim is dropped for it; as many claims again may be waiting for their Complete."""
    world = World(400, profile="small", latency_seconds=1, exporter={"workers": first})
    peaks = []

    async def watch(seconds):
        peak = 0
        for _ in range(seconds * 10):
            peak = max(peak, world.destination.open_deliveries)
            await anyio.sleep(0.1)
        peaks.append(peak)

    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await watch(21)  # a task takes 2 s, the first one for Start, so new workers must begin together with the others
        world.exporter.set_workers(then)
        await anyio.sleep(10)
        await watch(20)
        world.exporter.set_workers(first)
        world.exporter.set_workers(8)
        await anyio.sleep(10)
        await watch(20)
        world.exporter.stop()
    assert peaks == [first, then, 8]
    assert not world.aluma.counts["cancel"]
    assert not world.count(events.TaskReleased)
    world.check()


@virtual_time
async def test_set_workers_takes_effect_before_a_run():
    for first, then in ((2, 6), (6, 2)):
        world = World(40, profile="small", latency_seconds=1, exporter={"workers": first})
        world.exporter.set_workers(then)
        async with anyio.create_task_group() as group:
            group.start_soon(world.exporter.run_until_drained)
            await anyio.sleep(3.5)
            assert world.destination.open_deliveries <= then
        world.check()
        assert world.aluma.count_by_state() == {"completed": 40}


@pytest.mark.parametrize("workers", [1, 20])
@virtual_time
async def test_set_workers_has_no_effect_after_a_run(workers):
    """A reload of the configuration may come at the very end."""
    world = World(5)
    await world.exporter.run_until_drained()
    world.exporter.set_workers(workers)
    world.check()
