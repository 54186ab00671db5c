"""The contracts of ``aluma_async.ports`` as checks: call one in a test of your own source or destination.

A broken promise is an ``AssertionError`` that names it. What only real hardware can show (durability) is not checked.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable

import anyio

from aluma_async.exceptions import AlumaAsyncError, Refused
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.ports import Destination, TaskSource


async def check_destination(make: Callable[[], Destination], visible: Callable[[], Iterable[bytes]]) -> None:
    """Try a destination, empty at first. ``visible`` returns the bytes of every file that is to be seen in it."""

    def holds(promise: str, *expected: bytes) -> None:
        assert Counter(visible()) == Counter(expected), promise

    destination = make()
    await destination.probe()
    first, second = _claim("first", "a.txt", "b.bin"), _claim("second", "a.txt")

    async with destination.open(first) as delivery:
        await delivery.save(first.spec.files[0], _chunks(b"one"))
        holds("a file is visible only when all of its task are")
        await delivery.save(first.spec.files[1], _chunks(b"broken off"))
        await delivery.save(first.spec.files[1], _chunks(b"t" * 3_000_000, b"wo"))
    two = b"t" * 3_000_000 + b"wo"
    holds("a file that is saved again starts from nothing", b"one", two)

    async with destination.open(second) as delivery:
        await delivery.save(second.spec.files[0], _chunks(b"of another task"))
    holds("files of two tasks that want one name are both kept", b"one", two, b"of another task")

    async with make().open(first) as delivery:
        for file, data in zip(first.spec.files, (b"changed", b""), strict=True):
            await delivery.save(file, _chunks(data))
    holds("a task that is delivered again replaces its own files, and only those", b"changed", b"", b"of another task")

    try:
        async with destination.open(second) as delivery:
            await delivery.save(second.spec.files[0], _chunks(b"never to be seen"))
            raise Refused("given up")
    except Refused:
        holds("a delivery that is given up leaves no trace", b"changed", b"", b"of another task")
    else:
        raise AssertionError("what is raised in the block comes out unchanged")

    with anyio.CancelScope() as scope:
        async with destination.open(second) as delivery:
            await delivery.save(second.spec.files[0], _chunks(b"never to be seen"))
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    holds("a delivery that is cancelled leaves no trace", b"changed", b"", b"of another task")

    try:
        async with destination.open(second) as delivery:
            await delivery.save(second.spec.files[0], _failing())
    except Refused:
        holds("a broken download leaves no trace", b"changed", b"", b"of another task")
    else:
        raise AssertionError("what the chunks raise comes out unchanged")


async def check_task_source(source: TaskSource) -> None:
    """Try a source in which at least two tasks wait, the first with a file to download. It exports the first."""
    pending = [task async for tasks in source.list_pending() for task in tasks]
    assert len({task.id for task in pending}) >= 2, "at least two tasks wait"
    task, other = pending[:2]

    await _refuses("only a claimed task can be completed", source.complete, other)
    claim = await source.start(task)
    assert claim.task == task
    assert claim.spec.files, "a claim names its files"
    await _refuses("a claimed task cannot be claimed again", source.start, task)
    listed = {found.id async for tasks in source.list_pending() for found in tasks}
    assert task.id not in listed, "a claimed task does not wait"
    await source.cancel(task)
    claim = await source.start(task)  # a task that is given back can be claimed again

    for file in claim.spec.files:
        if file.source == "url":
            sizes = []
            for _ in range(2):  # a file can be opened again
                async with source.open_file(claim, file) as chunks:
                    sizes.append(sum([len(chunk) async for chunk in chunks]))
            assert sizes[0] == sizes[1] > 0, "a file has bytes, and the same each time"
    await source.complete(task)
    await _refuses("a completed task cannot be completed again", source.complete, task)
    await _refuses("a completed task cannot be claimed", source.start, task)
    assert await source.state(task) in ("running", "completed", None), "a completed task is done or gone"
    assert await source.state(ExportTask("no-such-task")) is None, "an unknown task has no state"


async def _refuses(promise: str, verb: Callable[[ExportTask], object], task: ExportTask) -> None:
    try:
        await verb(task)  # type: ignore[misc]
    except Refused:
        return
    except AlumaAsyncError as error:
        raise AssertionError(f"{promise}: {error!r} instead of Refused") from error
    raise AssertionError(promise)


def _claim(task_id: str, *filenames: str) -> Claim:
    files = tuple(ExportFile(i, 0, "a folder", name, "url", url="/f") for i, name in enumerate(filenames))
    return Claim(ExportTask(task_id), ExportSpec(files), anyio.current_time())


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _failing() -> AsyncIterator[bytes]:
    yield b"half of it"
    raise Refused("broken off")
