"""``before_complete``: the caller's last step of a task. Without its success, a task is not completed."""

import asyncio

import anyio
import pytest

from aluma_async import MemoryJournal, events
from aluma_async.exceptions import (
    BadSpecification,
    ClaimConflict,
    ConfigError,
    DestinationError,
    DestinationUnavailable,
    JournalError,
    SourceError,
    UnexportableTask,
)
from aluma_async.models import ClaimState
from tests.support.clock import virtual_time
from tests.support.world import World

FATAL = type("Fatal", (DestinationError,), {"fatal": True})
ERRORS = [
    ValueError("canary"),
    ExceptionGroup("several", [ValueError("canary"), ClaimConflict("canary")]),
    ClaimConflict("canary"),
    UnexportableTask("canary"),
    BadSpecification("canary"),
    SourceError("canary"),
    JournalError("canary"),
    ConfigError("canary"),
    DestinationError("refused"),
    FATAL("canary"),
    SystemExit(1),
    asyncio.CancelledError(),
]


def failing(error, times=1):
    """Return a hook that raises ``error`` for the first task, ``times`` times, and a list of its calls."""
    calls = []

    async def hook(claim):
        calls.append(claim.task.id)
        if calls.count(calls[0]) <= times and claim.task.id == calls[0]:
            raise error

    return hook, calls


@virtual_time
async def test_hook_runs_once_for_each_task_when_its_files_are_stored():
    """Complete has not been sent then: the task is still claimed."""
    seen = {}

    async def hook(claim):
        await anyio.sleep(1)
        stored = world.destination.tasks[claim.task.id]
        claimed = world.aluma.ids("pending:complete_client_action")
        seen[claim.task.id] = (len(stored) == len(claim.spec.files), claim.task.id in claimed)

    world = World(20, exporter={"before_complete": hook})
    summary = await world.exporter.run_until_drained()
    world.check()
    assert summary.exported == 20
    assert seen == dict.fromkeys(world.aluma.ids("completed"), (True, True))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@virtual_time
async def test_task_is_released_and_cools_down_when_the_hook_fails(error):
    """Whatever it raises: nothing is completed, failed or left claimed, and the other tasks are exported."""
    hook, calls = failing(error)
    world = World(5, exporter={"before_complete": hook, "workers": 1})
    summary = await world.exporter.run_until_drained()
    world.check()
    assert (summary.exported, summary.failed, summary.lost, summary.held_back) == (4, 0, 0, 1)
    assert len(calls) == 5
    (cancelled,) = world.events(events.TaskCancelled)
    assert cancelled.task.id == calls[0]
    assert "canary" not in cancelled.error.text
    assert world.aluma.ids("pending:start_client_action") == [calls[0]]


@virtual_time
async def test_task_is_exported_again_after_its_cool_down_when_the_hook_failed():
    hook, calls = failing(ValueError())
    world = World(3, exporter={"before_complete": hook})
    await world.run_until(lambda: world.count(events.TaskCompleted) == 3, 3600)
    world.check()
    assert calls.count(calls[0]) == 2
    assert isinstance(world.events(events.TaskCancelled)[0].error, DestinationError)


@virtual_time
async def test_claiming_pauses_when_the_hook_reports_an_error_of_all_tasks():
    hook, _ = failing(DestinationUnavailable("the archive is down", for_all=True))
    world = World(3, exporter={"before_complete": hook, "workers": 1})
    await world.run_until(lambda: world.count(events.TaskCompleted) == 3, 7200)
    world.check()
    assert "archive" in world.events(events.ClaimingPaused)[0].error.text


@virtual_time
async def test_hook_is_cancelled_when_it_hangs():
    """It gets the time of a silent destination, from the end of the commit on."""

    async def hook(_):
        await anyio.sleep_forever()

    world = World(1, exporter={"before_complete": hook, "destination_timeout": 60})
    summary = await world.exporter.run_until_drained()
    world.check()
    assert (summary.exported, summary.held_back) == (0, 1)
    assert 60 <= summary.seconds < 90
    assert "before_complete did not respond" in world.events(events.TaskCancelled)[0].error.text


@virtual_time
async def test_claim_counts_as_committed_only_when_the_hook_has_succeeded():
    """A process that crashes in the hook must not complete the task after a restart."""
    committed = set()

    class Recording(MemoryJournal):
        async def write(self, *records):
            committed.update(one.task_id for one in records if getattr(one, "state", "") is ClaimState.COMMITTED)
            await super().write(*records)

    async def hook(claim):
        await anyio.sleep(1)
        assert claim.task.id not in committed

    world = World(3, journal=Recording(), exporter={"before_complete": hook})
    assert (await world.exporter.run_until_drained()).exported == 3
    assert committed == set(world.aluma.ids("completed"))


@virtual_time
async def test_task_is_released_when_the_exporter_stops_during_the_hook():
    async def hook(_):
        started.set()
        await anyio.sleep_forever()

    started = anyio.Event()
    world = World(1, exporter={"before_complete": hook, "drain_timeout": 5})
    async with anyio.create_task_group() as group:
        group.start_soon(world.exporter.run)
        await started.wait()
        world.exporter.stop()
    world.check()
    assert world.aluma.count_by_state() == {"pending:start_client_action": 1}
