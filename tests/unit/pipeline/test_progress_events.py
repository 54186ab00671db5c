"""The events by which health checks see that a transfer or a paused exporter is alive."""

import random
from collections import Counter
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

from aluma_async import Exporter, RetryPolicy, events
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.transfer import FileTransfer, ProgressMeter
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import simulated


class SlowSource(SimulatedSource):
    """Sends 100 bytes every three seconds, for half an hour."""

    @asynccontextmanager
    async def open_file(self, claim, file):
        async def chunks():
            for _ in range(600):
                await anyio.sleep(3)
                yield b"x" * 100

        yield chunks()


@virtual_time
async def test_transfer_reports_progress_every_ten_seconds_of_a_slow_download():
    """However few bytes arrive; whether they are enough is decided elsewhere."""
    received = []
    source = RetryingSource(
        SlowSource(simulated(0)), RetryPolicy(), uniform=random.Random(0).uniform, on_event=received.append
    )
    file = ExportFile(0, 0, "", "a.pdf", "url", url="/a")
    transfer = FileTransfer(source, on_event=received.append)
    await transfer.deliver(Claim(ExportTask("task-1"), ExportSpec((file,)), 0.0), MemoryDestination())
    progress = [event for event in received if isinstance(event, events.BytesReceived)]
    assert sum(event.count for event in progress) == 60_000
    assert 120 <= len(progress) <= 180


@virtual_time
async def test_exporter_resumes_claiming_once_when_all_tasks_are_exported():
    """Even if fewer tasks are pending than are exported one at a time after a pause."""
    counts = Counter()
    destination = MemoryDestination()

    def on_event(event):
        counts[type(event)] += 1
        if isinstance(event, events.TasksListed) and counts[events.TasksListed] == 1:
            destination.unavailable = True

    exporter = Exporter(SimulatedSource(simulated(3)), destination, on_event=on_event)
    async with anyio.create_task_group() as group:
        group.start_soon(exporter.run)
        await anyio.sleep(3600)
        assert counts[events.ClaimingPaused] == 1
        assert counts[events.ClaimingStillPaused] > 10
        destination.unavailable = False
        await anyio.sleep(7200)
        exporter.stop()
    assert counts[events.TaskCompleted] == 3
    assert counts[events.ClaimingResumed] == counts[events.ClaimingPaused] == 1


@virtual_time
async def test_transfer_reports_progress_after_each_mib_of_a_fast_download():
    """And the rest at the end of the file; a file in one chunk is reported once."""
    for sizes, reported in (
        ([2**20 - 1, 1, 5], [2**20, 5]),
        ([2**20 - 2, 1, 5], [2**20 + 4]),
        ([100], [100]),
        ([2**21, 2**21, 1], [2**21, 2**21, 1]),
        ([], []),
    ):
        received = []

        async def chunks(sizes=sizes):
            for size in sizes:
                yield b"x" * size

        file = ExportFile(0, 0, "", "a.pdf", "url", url="/a")
        meter = ProgressMeter(chunks(), Claim(ExportTask("t"), ExportSpec((file,)), 0.0), file, received.append)
        assert not meter.is_read
        assert [len(chunk) async for chunk in meter] == sizes
        assert [event.count for event in received] == reported
        assert (meter.is_read, meter.total) == (True, sum(sizes))


@virtual_time
async def test_transfer_reports_progress_ten_seconds_after_the_first_bytes():
    received = []

    async def chunks():
        for _ in range(25):
            await anyio.sleep(1)
            yield b"x"

    file = ExportFile(0, 0, "", "a.pdf", "url", url="/a")
    meter = ProgressMeter(
        chunks(),
        Claim(ExportTask("t"), ExportSpec((file,)), 0.0),
        file,
        lambda event: received.append((anyio.current_time(), event.count)),
    )
    await anyio.sleep(100)
    async for _ in meter:
        pass
    assert [count for _, count in received] == [11, 10, 4]
    assert [time for time, _ in received] == [112, 122, 125]
