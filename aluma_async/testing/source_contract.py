"""``check_task_source``: call it in a test of your own source of tasks.

A violation raises an ``AssertionError`` that names the rule.
"""

from collections.abc import Callable

from aluma_async.exceptions import AlumaAsyncError, ClaimConflict
from aluma_async.models import ExportTask
from aluma_async.ports import TaskSource


async def check_task_source(source: TaskSource) -> None:
    """Check that a source keeps its contract. This completes one task.

    Args:
        source: A source with at least two pending tasks, of which the first has a file to download.
    """
    pending = [task async for tasks in source.list_pending() for task in tasks]
    assert len({task.id for task in pending}) >= 2, "at least two tasks are pending"
    task, other = pending[:2]

    await _assert_conflict("only a claimed task can be completed", source.complete, other)
    claim = await source.start(task)
    assert claim.task == task
    assert claim.spec.files, "a claim lists its files"
    await _assert_conflict("a claimed task cannot be claimed again", source.start, task)
    listed = {row.id async for tasks in source.list_pending() for row in tasks}
    assert task.id not in listed, "a claimed task is not listed as pending"
    await source.cancel(task)
    claim = await source.start(task)  # A released task can be claimed again.

    for file in claim.spec.files:
        if file.source == "url":
            sizes = []
            for _ in range(2):  # A file can be opened again.
                async with source.open_file(claim, file) as chunks:
                    sizes.append(sum([len(chunk) async for chunk in chunks]))
            assert sizes[0] == sizes[1] > 0, "a file is not empty and has the same size each time"
    await source.complete(task)
    await _assert_conflict("a completed task cannot be completed again", source.complete, task)
    await _assert_conflict("a completed task cannot be claimed", source.start, task)
    assert await source.state(task) in ("running", "completed", None), (
        "a completed task is running, completed or deleted"
    )
    assert await source.state(ExportTask("no-such-task")) is None, "an unknown task has no state"


async def _assert_conflict(rule: str, request: Callable[[ExportTask], object], task: ExportTask) -> None:
    try:
        await request(task)  # type: ignore[misc]
    except ClaimConflict:
        return
    except AlumaAsyncError as error:
        raise AssertionError(f"{rule}: {error!r} instead of ClaimConflict") from error
    raise AssertionError(rule)
