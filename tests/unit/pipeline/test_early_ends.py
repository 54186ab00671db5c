"""Requests that the client ends early because other tasks wait: what that means for their task, and for copies."""

from contextlib import asynccontextmanager

import pytest

from aluma_async import events
from aluma_async.exceptions import Ambiguous, Unavailable
from aluma_async.models import ExportTask
from aluma_async.pipeline.admission import MAX_FAILED_DOWNLOADS
from aluma_async.ports import OTHERS_WAIT
from aluma_async.testing import SimulatedSource
from tests.support.clock import virtual_time
from tests.support.failures import TASK, Parts
from tests.support.parking import World


def ended_early(kind=Unavailable):
    error = kind("given up")
    error.spares_others = error.ended_early = True
    return error


@pytest.mark.parametrize(("kind", "claimed"), [(Unavailable, True), (Ambiguous, False)])
@virtual_time
async def test_early_end_is_no_failure_of_its_task(kind, claimed):
    """The connection may be slow. The task waits longer each time, so that it does not come again and again."""
    parts, delays = Parts(), []
    for _ in range(12):
        _, sent, emitted = await parts.handle(ended_early(kind), claimed=claimed)
        assert (sent, emitted) == (["cancel"] if claimed else [], [events.TaskCancelled])
        delays.append(parts.events[0].retry_in)
        assert parts.events[0].failures == 1
    assert delays == [60, 120, 240, 480, 960, 1920] + [3600] * 6
    await parts.cooldown.close()


@virtual_time
async def test_early_end_waits_no_shorter_than_the_failures_before_it():
    parts = Parts()
    for error in (Ambiguous("x"), Ambiguous("x"), ended_early()):
        await parts.handle(error)
    assert parts.events[0].retry_in == 120
    await parts.cooldown.close()


@virtual_time
async def test_early_ends_of_many_downloads_do_not_pause_claiming():
    parts = Parts()
    for number in range(2 * MAX_FAILED_DOWNLOADS):
        await parts.handle(ended_early(), task=ExportTask(str(number)))
    assert parts.admission.blocking_error is None
    await parts.cooldown.close()


@virtual_time
async def test_copy_is_fetched_by_requests_that_do_not_end_early(tmp_path):
    """It would lack the file for hours."""
    patient = []

    class Files(SimulatedSource):
        async def start(self, task):
            patient.append(OTHERS_WAIT.get() is None)
            return await super().start(task)

        @asynccontextmanager
        async def open_file(self, claim, file):
            patient.append(OTHERS_WAIT.get() is None)
            async with super().open_file(claim, file) as chunks:
                yield chunks

        async def cancel(self, task):
            patient.append(OTHERS_WAIT.get() is None)
            await super().cancel(task)

    world = World(tmp_path, source=Files)
    await world.run_for(100)
    world.check_copies(*world.aluma.ids())
    assert patient == [False, True, False]


@virtual_time
async def test_copy_of_a_crash_suspect_is_started_without_an_early_end():
    """It is tried once."""
    parts, patient = Parts(), []
    start = parts.requests.start

    async def record(task):
        patient.append(OTHERS_WAIT.get() is None)
        return await start(task)

    parts.requests.start = record
    await parts.cooldown.record_crashes([TASK.id])
    await parts.handler.copy_crashed(TASK)
    assert patient == [True]
    assert parts.stored
    await parts.cooldown.close()
