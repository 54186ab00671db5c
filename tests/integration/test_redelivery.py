"""Copies in the quarantine, delivered by the normal pipeline to a real folder."""

from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async import Backoff, Config, Exporter, FolderDestination, events
from aluma_async.exceptions import ConfigError, DestinationError, DestinationUnavailable
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.testing import MemoryDestination, SimulatedSource
from aluma_async.wiring import open_redelivery
from tests.support.clock import real_time
from tests.support.folders import exported_files
from tests.support.stack import simulated


class Refusing(MemoryDestination):
    """A destination that refuses the tasks in ``refused``; ``error`` is what it raises."""

    def __init__(self, refused=(), error=DestinationError):
        super().__init__()
        self.refused, self.error = set(refused), error

    @asynccontextmanager
    async def open(self, claim):
        if claim.task.id in self.refused:
            self.unavailable = self.error is DestinationUnavailable
            raise self.error("the column is too narrow")
        async with super().open(claim) as delivery:
            yield delivery


@pytest.fixture
def config(tmp_path):
    return Config.from_toml(
        f"""
        [exporter]
        state = "{tmp_path}/state"
        workers = 2
        [destinations.default]
        type = "folder"
        path = "{tmp_path}/out"
        """,
        "config.toml",
    )


async def park(aluma, config, **options):
    """Run an exporter that parks all tasks of Aluma, and keeps copies of them."""
    quarantine = FolderDestination(config.quarantine_folder(), on_conflict="overwrite")
    exporter = Exporter(
        SimulatedSource(aluma),
        Refusing(aluma.ids()),
        quarantine=quarantine,
        quarantine_folder=config.quarantine_folder(),
        park_after=1,
        cooldown=Backoff(0.05, 0.05),
        **options,
    )
    assert (await exporter.run_until_drained()).held_back == len(aluma.ids()) == len(copies(config))


def copies(config):
    found, problems = QuarantineFolder(config.quarantine_folder()).copies()
    assert not problems
    return found


def expected(aluma):
    return sorted(data for task_id in aluma.ids() for *_, data in aluma.expected(task_id))


async def redeliver(config, chosen, **options):
    async with open_redelivery(config, chosen, **options) as (exporter, _):
        return await exporter.run_until_drained()


@real_time
async def test_copies_are_delivered_twice_with_the_same_result(tmp_path, config):
    aluma = simulated(5)
    await park(aluma, config)
    aluma.time_out()
    results = []
    for _ in range(2):
        summary = await redeliver(config, copies(config))
        assert (summary.exported, summary.everything_exported) == (5, True)
        results.append(exported_files(tmp_path / "out"))
    assert results[0] == results[1]
    assert sorted(results[0].values()) == expected(aluma)
    assert all(copy.is_complete and copy.record.redelivered_at for copy in copies(config))


@real_time
async def test_task_that_is_pending_again_is_exported_with_the_same_result(tmp_path, config):
    """It was redelivered while Aluma still has it: the export changes nothing and removes the copy."""
    aluma = simulated(3)
    await park(aluma, config)
    await redeliver(config, copies(config))
    before = exported_files(tmp_path / "out")
    destination = FolderDestination(tmp_path / "out")
    exporter = Exporter(
        SimulatedSource(aluma),
        destination,
        quarantine=FolderDestination(config.quarantine_folder(), on_conflict="overwrite"),
        quarantine_folder=config.quarantine_folder(),
    )
    assert (await exporter.run_until_drained()).exported == 3
    assert exported_files(tmp_path / "out") == before
    assert copies(config) == []


@real_time
async def test_task_that_the_destination_refuses_is_tried_once_and_the_others_are_delivered(config):
    aluma = simulated(4)
    await park(aluma, config)
    from aluma_async.quarantine.source import QuarantineSource

    bad = aluma.ids()[0]
    emitted = []
    source = QuarantineSource(QuarantineFolder(config.quarantine_folder()), copies(config))
    summary = await Exporter(source, Refusing([bad]), park_after=0, on_event=emitted.append).run_until_drained()
    assert (summary.exported, summary.held_back, summary.failed) == (3, 1, 0)
    assert [event.task.id for event in emitted if isinstance(event, events.TaskCancelled)] == [bad]
    assert {copy.task_id for copy in copies(config) if not copy.record.redelivered_at} == {bad}


@real_time
async def test_redelivery_ends_when_the_destination_becomes_unavailable(config):
    aluma = simulated(4)
    await park(aluma, config)
    from aluma_async.quarantine.source import QuarantineSource

    source = QuarantineSource(QuarantineFolder(config.quarantine_folder()), copies(config))
    destination = Refusing(aluma.ids()[1:2], DestinationUnavailable)
    with pytest.raises(DestinationUnavailable):
        await Exporter(source, destination, workers=1, park_after=0).run_until_drained()
    delivered = {copy.task_id for copy in copies(config) if copy.record.redelivered_at}
    assert delivered == destination.tasks.keys()
    assert len(delivered) < 4


@real_time
async def test_stop_finishes_the_tasks_in_progress(config):
    aluma = simulated(30)
    await park(aluma, config)
    async with open_redelivery(config, copies(config)) as (exporter, _), anyio.create_task_group() as group:
        group.start_soon(exporter.run_until_drained)
        await anyio.sleep(0.05)
        exporter.stop()
    for copy in copies(config):
        assert copy.is_complete


@real_time
async def test_redelivery_into_the_quarantine_is_refused(config):
    from msgspec.structs import replace

    bad = replace(config, destinations={"default": replace(config.destinations["default"], path=config.state_folder())})
    with pytest.raises(ConfigError):
        await redeliver(bad, [])
