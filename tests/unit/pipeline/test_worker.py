"""``Worker`` and ``FailureHandler``: what becomes of a task after an error or a lost reply."""

from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest

from aluma_async import Backoff, FolderDestination, events
from aluma_async.exceptions import DestinationError
from aluma_async.models import ExportFile, ExportSpec, TaskState
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.world import World


@virtual_time
async def test_worker_cancels_after_a_transient_error_and_doubles_the_cooldown():
    class Broken(MemoryDestination):
        @asynccontextmanager
        async def open(self, claim):
            raise DestinationError("not now")
            yield

    world = World(1, destination=Broken(), exporter={"cooldown": Backoff(60, 3600, jitter=0)})
    await world.run_for(700)
    cancelled = world.events(events.TaskCancelled)
    assert [(event.failures, event.retry_in) for event in cancelled] == [(1, 60), (2, 120), (3, 240), (4, 480)]
    assert world.aluma.counts["start"] == world.aluma.counts["cancel"] == 4
    world.check()


@virtual_time
async def test_run_until_drained_reports_tasks_that_cool_down():
    """It does not wait for the end of a cool-down."""
    faults = FaultPlan()
    faults.plan("file", [Fault.DROP_BEFORE] * 5)
    world = World(10, faults=faults, profile="small", exporter={"workers": 1})
    summary = await world.exporter.run_until_drained()
    assert (summary.exported, summary.cancelled, summary.held_back) == (9, 1, 1)
    assert not summary.everything_exported
    world.check()


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.ERROR_BEFORE, Fault.TRUNCATE, Fault.DROP_AFTER])
@virtual_time
async def test_worker_restarts_a_broken_download(fault):
    faults = FaultPlan()
    faults.plan("file", [fault] * 3)
    world = World(1, faults=faults, profile="small")
    summary = await world.exporter.run_until_drained()
    assert summary.everything_exported
    assert world.count(events.RequestRetried) == 3
    world.check()


class SlowDownload:
    """A download of 900 s."""

    def __init__(self, source, byte):
        self.version = source.version
        self._chunks = self._read(source, byte)

    def __aiter__(self):
        return self._chunks

    def __anext__(self):
        return anext(self._chunks)

    async def _read(self, source, byte):
        await anyio.sleep(900)
        source.downloads += 1
        yield bytes([byte]) * 1_200_000


@pytest.mark.parametrize(
    ("versions", "downloads", "state"),
    [
        (["1"], 8, "completed"),
        (["1", "2"], 12, "completed"),
        ([""], 0, TaskState.PENDING),
        (["1", ""], 0, TaskState.PENDING),
    ],
)
@virtual_time
async def test_worker_resumes_a_task_that_takes_longer_than_a_lease(versions, downloads, state, tmp_path):
    """Eight files of 900 s each, four at a time; a claim is cancelled after 1,500 s, and its files are resumed.

    That is so only if the server confirms that they still have the version that was saved.
    """

    class Slow(SimulatedSource):
        version = ""
        downloads = 0

        async def start(self, task):
            self.version = versions.pop(0) if len(versions) > 1 else versions[0]
            claim = await super().start(task)
            files = (ExportFile(number, 0, "", f"{number}.pdf", "url", url="/f") for number in range(8))
            return msgspec.structs.replace(claim, spec=ExportSpec(tuple(files), b"the same"))

        @asynccontextmanager
        async def open_file(self, claim, file):
            yield SlowDownload(self, file.number)

    world = World(1, source=Slow, destination=FolderDestination(tmp_path))
    await world.run_for(5000)
    world.destination.close()
    assert list(world.aluma.count_by_state()) == [state]
    if state != "completed":
        return
    assert world.source.downloads == downloads
    assert {path.name: path.read_bytes()[-1] for path in tmp_path.glob("*.pdf")} == {
        f"{number}.pdf": number for number in range(8)
    }


@virtual_time
async def test_worker_cancels_an_unconfirmed_start_and_never_repeats_it():
    for fault in (Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_AFTER, Fault.TRUNCATE):
        faults = FaultPlan()
        faults.plan("start", [fault])
        world = World(1, faults=faults)
        summary = await world.exporter.run_until_drained()
        assert summary.held_back == 1
        assert world.aluma.counts["start"] <= 1
        world.check()


@pytest.mark.parametrize("fault", [Fault.DROP_AFTER, Fault.ERROR_AFTER, Fault.DROP_BEFORE, Fault.THROTTLE])
@virtual_time
async def test_worker_repeats_an_unconfirmed_complete(fault):
    """If the first one was executed, the second one is refused, and the task counts as exported."""
    faults = FaultPlan()
    faults.plan("complete", [fault])
    world = World(1, faults=faults)
    summary = await world.exporter.run_until_drained()
    assert summary.exported == world.aluma.counts["complete"] == 1
    assert not world.aluma.counts["cancel"]
    world.check()


@virtual_time
async def test_worker_does_not_settle_a_claim_that_has_ended():
    class Reassigned(SimulatedSource):
        async def complete(self, task):
            self._aluma.cancel(task.id)  # by another exporter
            await super().complete(task)

    world = World(1, source=Reassigned)
    summary = await world.exporter.run_until_drained()
    assert summary.lost == 1
    assert world.aluma.counts["cancel"] == 1
    assert len(world.destination.tasks) == 1, "the saved files stay"


@virtual_time
async def test_worker_survives_a_defect_of_a_plugin():
    """An unexpected exception fails one attempt of one task, not the run."""

    class Defective(MemoryDestination):
        def open(self, claim):
            return super().open(claim) if len(self.tasks) != 1 else 1 / 0

    world = World(5, destination=Defective(), exporter={"workers": 1})
    summary = await world.exporter.run_until_drained()
    assert summary.exported == 1
    assert summary.held_back == 4
    assert len(world.destination.tasks) == 1
