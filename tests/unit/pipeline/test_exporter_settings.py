"""``Exporter``: the defaults of its arguments, and the number of workers."""

from inspect import signature

import anyio
import pytest

from aluma_async import Backoff, Exporter, MemoryJournal, RetryPolicy, events
from aluma_async.aluma.download import DownloadLimits
from aluma_async.config.sections import ExporterConfig, LimitsConfig, RetryConfig
from aluma_async.models import BreakerRecord
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import simulated
from tests.support.world import ImpossibleSource, World


def test_exporter_defaults_are_those_of_the_configuration():
    """An exporter made in code behaves as the program without a config file."""
    default = {name: parameter.default for name, parameter in signature(Exporter).parameters.items()}
    exporter, retry = ExporterConfig(), RetryConfig()
    assert default["workers"] == exporter.workers == 16
    assert default["queue_size"] == exporter.queue_size == 0
    assert default["drain_timeout"] == exporter.drain_timeout_seconds == 60
    assert default["polling"] == Backoff(exporter.poll_wait_initial_seconds, exporter.poll_wait_max_seconds)
    assert default["polling"] == Backoff(2, 60, jitter=0.2)
    assert default["retry"] == RetryPolicy(retry.attempts, retry.wait_initial_seconds, retry.wait_max_seconds)
    assert default["retry"] == RetryPolicy(5, 0.5, 30)
    assert default["cooldown"] == Backoff(retry.cooldown_initial_seconds, retry.cooldown_max_seconds)
    assert default["cooldown"] == Backoff(60, 3600, jitter=0.2)
    assert (default["park_after"], default["park_seconds"]) == (retry.park_after, retry.park_seconds) == (10, 21600)
    assert (default["claim_timeout"], default["quarantine_max_bytes"]) == (1800, 0)


def test_limits_of_downloads_are_those_of_the_configuration():
    downloads, limits = DownloadLimits(), LimitsConfig()
    assert downloads.max_specification_bytes == limits.max_specification_bytes == 64 * 1024**2
    assert (downloads.max_bytes, downloads.hosts, downloads.verify_content) == (0, (), True)
    assert downloads.min_bytes_per_second == 0, "a client that is used on its own has no minimum"


class Slow(MemoryDestination):
    """Each delivery takes a second; ``peak`` is the largest number of deliveries at the same time."""

    peak = 0

    async def probe(self):
        """Accept files."""

    def open(self, claim):
        return _SlowDelivery(self, super().open(claim))


class _SlowDelivery:
    def __init__(self, destination, delivery):
        self._destination, self._delivery = destination, delivery

    async def __aenter__(self):
        delivery = await self._delivery.__aenter__()
        self._destination.peak = max(self._destination.peak, self._destination.open_deliveries)
        await anyio.sleep(1)
        return delivery

    async def __aexit__(self, *error):
        return await self._delivery.__aexit__(*error)


@pytest.mark.parametrize("queue_size", [0, 1, 50])
@virtual_time
async def test_queue_size_limits_the_tasks_that_wait_unclaimed(queue_size):
    """0: twice the workers. Tasks are listed once, and the rest waits in the backlog."""
    world = World(60, profile="small", destination=Slow(), exporter={"workers": 4, "queue_size": queue_size})
    summary = await world.exporter.run_until_drained()
    assert summary.exported == 60
    assert world.destination.peak == 4
    assert 15 <= summary.seconds < 20


@pytest.mark.parametrize(("workers", "peak"), [(1, 1), (3, 3)])
@virtual_time
async def test_exporter_saves_as_many_tasks_at_the_same_time_as_workers(workers, peak):
    world = World(12, profile="small", destination=Slow(), exporter={"workers": workers})
    assert (await world.exporter.run_until_drained()).exported == 12
    assert world.destination.peak == peak


@virtual_time
async def test_set_workers_before_and_during_a_run_changes_the_number_of_savings():
    world = World(200, profile="small", destination=Slow(), exporter={"workers": 2})
    world.exporter.set_workers(4)
    world.exporter.set_workers(3)
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await anyio.sleep(5)
        assert world.destination.peak == 3
        world.exporter.set_workers(6)
        await anyio.sleep(5)
        assert world.destination.peak == 6
        world.exporter.set_workers(2)
        await anyio.sleep(3)
        world.destination.peak = 0
        await anyio.sleep(5)
        assert world.destination.peak == 2
        world.exporter.set_workers(1)
        world.exporter.stop()
        world.exporter.set_workers(9)
    world.check()


@virtual_time
async def test_summary_counts_tasks_files_bytes_and_time():
    world = World(3, profile="small", latency_seconds=1)
    await anyio.sleep(1000)
    summary = await world.exporter.run_until_drained()
    completed = world.events(events.TaskCompleted)
    assert summary.exported == len(completed) == 3
    assert summary.files == sum(event.files for event in completed) > 3 - 1
    assert summary.bytes == sum(event.bytes for event in completed) > 0
    assert 3 < summary.seconds < 20
    assert (summary.failed, summary.cancelled, summary.lost, summary.deferred, summary.held_back) == (0, 0, 0, 0, 0)
    assert world.events(events.RunEnded) == [events.RunEnded(summary)]
    assert world.exporter.tasks_in_progress == 0


@virtual_time
async def test_exporter_works_without_a_listener_and_makes_records_durable():
    """The journal is flushed when no task is in progress, not only at the end of the run."""
    flushed, journal = [], MemoryJournal()
    flush = journal.flush

    async def record():
        flushed.append(anyio.current_time())
        await flush()

    journal.flush = record
    exporter = Exporter(SimulatedSource(simulated(2, "small")), MemoryDestination(), journal=journal)
    async with anyio.create_task_group() as group:
        group.start_soon(exporter.run)
        await anyio.sleep(30)
        assert flushed
        assert not await journal.load()
        before = len(flushed)
        exporter.stop()
    assert len(flushed) > before


@virtual_time
async def test_places_of_failed_tasks_outlive_the_process():
    """Otherwise each restart would let three more tasks of a kind be failed."""
    world = await World(1, source=ImpossibleSource, profile="small").find_unexportable()
    for number in range(3):
        await world.journal.write(BreakerRecord(f"t{number}", "UnexportableTask", project_of(world), ()))
    await world.exporter.run_until_drained()
    assert not world.aluma.counts["fail"]
    assert world.count(events.TaskParked) == 1


def project_of(world):
    return world.aluma.sample_data.project(0)[0]


@virtual_time
async def test_second_run_of_an_exporter_is_refused():
    """Also while the first one runs, which goes on."""
    world = World(5, latency_seconds=1)
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await anyio.sleep(1)
        with pytest.raises(RuntimeError, match="an exporter runs once"):
            await world.exporter.run()
        await anyio.sleep(30)
        world.exporter.stop()
    with pytest.raises(RuntimeError, match="an exporter runs once"):
        await world.exporter.run_until_drained()
    assert len(world.aluma.ids("completed")) == 5


@virtual_time
async def test_exporter_without_workers_is_refused():
    with pytest.raises(ValueError, match="workers: 0 is less than 1"):
        World(1, exporter={"workers": 0})
