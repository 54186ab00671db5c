"""Destinations that upload when the delivery is committed, over a slow line that all tasks share: they are healthy."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.pipeline.destination_watch import DestinationWatch
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.pipeline.worker_pool import WorkerPool
from aluma_async.service.health import HealthMonitor
from aluma_async.service.stats import RunStats
from tests.support.clock import virtual_time

WORKERS = 16
LIMIT, LEASE = 300, 1500
MBIT = 125_000
"""Bytes per second."""


class Source:
    """Files whose content arrives at once, in chunks of 100 kB."""

    def __init__(self, sizes):
        self.sizes = sizes

    async def retry(self, operation, call, *arguments):
        return await call(*arguments)

    @asynccontextmanager
    async def open_file(self, claim, file):
        async def chunks():
            for _ in range(0, self.sizes[claim.task.id], 100_000):
                yield bytes(min(100_000, self.sizes[claim.task.id]))

        yield chunks()


class SlowLine:
    """A destination that uploads at the commit: all tasks at once (``shared``), or one after the other."""

    def __init__(self, bytes_per_second, *, shared, seconds_per_file=0.0):
        self.bytes_per_second, self.seconds_per_file = bytes_per_second, seconds_per_file
        self.line = anyio.Semaphore(WORKERS if shared else 1)
        self.uploads = 0

    @asynccontextmanager
    async def open(self, claim):
        delivery = SlowDestination()
        yield delivery
        async with self.line:
            self.uploads += 1
            await anyio.sleep(len(claim.spec.files) * self.seconds_per_file)
            while delivery.size > 0:
                await anyio.sleep(1)
                delivery.size -= self.bytes_per_second / self.uploads
            self.uploads -= 1


class SlowDestination:
    def __init__(self):
        self.size = 0

    def resumable_size(self, file):
        return None

    async def save(self, file, chunks):
        async for chunk in chunks:
            self.size += len(chunk)


def claim_of(task_id, *, files=1, source="url"):
    spec = ExportSpec(tuple(ExportFile(i, 0, "", f"{i}.txt", source, url="x") for i in range(files)), b"x")
    return Claim(ExportTask(task_id), spec, 0.0)


def open_transfer(sizes, watch=None):
    watch = watch or DestinationWatch(LIMIT, max_seconds=LEASE)
    return FileTransfer(Source(sizes), watch=watch, on_event=lambda event: None)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("size", "mbits"), [(6_000_000, 2), (10_000_000, 1), (20_000_000, 2)])
@virtual_time
async def test_watch_lets_uploads_end_that_share_a_slow_line(size, mbits, shared):
    """Each upload lasts as long as all together, or waits for all others."""
    sizes = {f"t{i}": size for i in range(WORKERS)}
    transfer, destination = open_transfer(sizes), SlowLine(mbits * MBIT, shared=shared)
    delivered = Counter()

    async def deliver(task_id):
        delivered[task_id] = (await transfer.deliver(claim_of(task_id), destination)).bytes

    async with anyio.create_task_group() as group:
        for task_id in sizes:
            group.start_soon(deliver, task_id)
    assert delivered == sizes
    assert LIMIT < anyio.current_time() < LEASE


@virtual_time
async def test_watch_lets_a_big_upload_end_beside_many_small_ones():
    """The small ones are always others, so that the total at one time is small."""
    sizes = {f"t{i}": 300_000 for i in range(WORKERS)} | {"big": 8_000_000}
    transfer, destination = open_transfer(sizes), SlowLine(MBIT, shared=True)
    async with anyio.create_task_group() as group:

        async def deliver_small(task_id):
            while True:
                await transfer.deliver(claim_of(task_id), destination)

        for i in range(1, WORKERS):
            group.start_soon(deliver_small, f"t{i}")
        await transfer.deliver(claim_of("big"), destination)
        assert 2 * LIMIT < anyio.current_time() < LEASE
        group.cancel_scope.cancel()


@pytest.mark.parametrize("source", ["url", "content"])
@virtual_time
async def test_watch_lets_the_commit_of_many_files_end(source):
    """A slow file server needs a part of a second for each file, and there is no progress that could be seen."""
    transfer = open_transfer({"t": 1})
    await transfer.deliver(claim_of("t", files=4000, source=source), SlowLine(MBIT, shared=True, seconds_per_file=0.3))
    assert 4 * LIMIT <= anyio.current_time() < LEASE


@pytest.mark.parametrize(("size", "limit"), [(1000, LIMIT), (50_000_000, LEASE)])
@virtual_time
async def test_watch_ends_a_commit_that_never_returns(size, limit):
    """At the end of the lease, however large the files are."""
    transfer, silent = open_transfer({"t": size}), SlowLine(MBIT, shared=True, seconds_per_file=1e9)
    with pytest.raises(DestinationUnavailable, match=r"did not respond for \d+ s"):
        await transfer.deliver(claim_of("t"), silent)
    assert limit <= anyio.current_time() <= limit + LIMIT / 5


@pytest.mark.parametrize("downloads", [1, 4])
@virtual_time
async def test_watch_replaces_one_worker_for_all_downloads_of_a_task(downloads):
    """Otherwise more tasks would be saved at the same time than configured."""
    is_ignored = True

    class Ignoring(SlowDestination):
        async def save(self, file, chunks):
            await super().save(file, chunks)
            while is_ignored:
                with suppress(asyncio.CancelledError):
                    await anyio.sleep(10)

    started = []
    pool = WorkerPool(WORKERS, started.append)
    watch = DestinationWatch(LIMIT, pool.replace, pool.give_back)
    transfer = open_transfer({"t": 1}, watch)
    destination = SlowLine(MBIT, shared=True)
    destination.open = partial(open_with, Ignoring())
    async with anyio.create_task_group() as group:
        pool.open(group)
        before = len(started)

        async def work():
            async with pool.slots:
                with suppress(asyncio.CancelledError):  # the plug-in has returned all the same
                    await transfer.deliver(claim_of("t", files=downloads), destination)

        group.start_soon(work)
        await anyio.sleep(4 * LIMIT)
        replaced, free = len(started) - before, pool.slots.value
        is_ignored = False
    assert (replaced, free) == (1, WORKERS)
    assert pool.slots.value == WORKERS


@asynccontextmanager
async def open_with(delivery, claim):
    yield delivery


@virtual_time
async def test_slow_commit_does_not_count_as_stuck():
    """Otherwise the service would be restarted, and the upload with it."""
    stats = RunStats(clock=anyio.current_time)
    health = HealthMonitor(stats, poll_seconds=1e9, stuck_after_seconds=2 * LIMIT)
    watch = DestinationWatch(LIMIT, max_seconds=LEASE, on_event=stats)
    transfer, claim = open_transfer({"t": 1}, watch), claim_of("t", files=4000)
    stats(events.TaskStarted(claim.task, 4000))
    async with anyio.create_task_group() as group:
        group.start_soon(transfer.deliver, claim, SlowLine(MBIT, shared=True, seconds_per_file=0.3))
        for _ in range(12):
            await anyio.sleep(100)
            assert not health.stuck_reason()
    assert stats.received == 0
