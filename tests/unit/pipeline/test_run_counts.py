"""``RunCounts``: which numbers the summary of a run has."""

import asyncio

import pytest

from aluma_async import events
from aluma_async.exceptions import AlumaAsyncError, ClaimConflict, SourceError
from aluma_async.models import ExportTask
from aluma_async.pipeline.run_counts import RunCounts
from tests.support.clock import virtual_time
from tests.support.world import World

ONE, TWO, THREE = map(ExportTask, ("t1", "t2", "t3"))
NO_EVENTS = {"gone": 1, "deferred": 2, "held_back": 0, "seconds": 3.0}


def test_summary_counts_a_task_by_its_last_attempt():
    """Of two tasks that were released, one is exported later; the claim of a third one is lost."""
    seen, completed = [], []
    counts = RunCounts(seen.append)
    counts.on_task_completed = lambda: completed.append(len(seen))
    for event in (
        events.TaskReleased(ONE),
        events.TaskReleased(TWO),
        events.ClaimLost(THREE, ClaimConflict("409")),
        events.TaskCancelled(ONE, SourceError("x"), 1, 60.0),
        events.TaskCompleted(ONE, 2, 30, 1.0, ("out",)),
        events.TaskFailed(ExportTask("t4"), SourceError("x")),
    ):
        counts.emit(event)
    summary = counts.summary(**NO_EVENTS)
    assert (summary.exported, summary.files, summary.bytes) == (1, 2, 30)
    assert (summary.cancelled, summary.failed, summary.lost, summary.held_back) == (1, 1, 1, 1)
    assert (summary.gone, summary.deferred, summary.seconds) == (1, 2, 3.0)
    assert counts.summary(**{**NO_EVENTS, "held_back": 5}).held_back == 5
    assert len(seen) == 6
    assert completed == [4], "before the listener"


@virtual_time
async def test_error_of_the_listener_changes_no_count():
    """It is reported once, as an error of a callback."""
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))

    def listener(event):
        raise ZeroDivisionError

    counts = RunCounts(listener)
    for _ in range(2):
        counts.emit(events.TaskCompleted(ONE, 1, 10, 1.0))
    assert counts.summary(**NO_EVENTS).exported == 2
    assert len(reported) == 1


@virtual_time
async def test_run_that_ends_without_a_reason_reports_no_task_on_hold():
    """Its listing did not end, so that it knows of none."""
    host, world = asyncio.current_task(), World(60, latency_seconds=1)

    def cancel_tasks():
        for task in asyncio.all_tasks() - {host}:
            task.cancel()

    asyncio.get_running_loop().call_later(0.5, cancel_tasks)  # during the first listing
    with pytest.raises(AlumaAsyncError, match="without a reason"):
        await world.exporter.run_until_drained()
    assert [event.summary.held_back for event in world.events(events.RunEnded)] == [0]
