"""The contracts of ``aluma_async.ports`` as checks: call one in a test of your own source or destination.

A broken promise is an ``AssertionError`` that names it. What only real hardware can show (durability) is not checked.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio

from aluma_async.exceptions import AlumaAsyncError, ClaimConflict
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.ports import Delivery, Destination, TaskSource

HOSTILE = (
    ("..", "../up.txt"),
    ("/etc", "passwd"),
    ("C:\\x", "..\\up.txt"),
    ("", ""),
    (".", ".."),
    ("a/../../b", "CON"),
    (" x ", "trailing. "),
    ("line\nfeed", "zero\0.txt"),
    ("%2e%2e", "%00.txt?#&"),
    ("'; DROP TABLE files; --", '"quoted".txt'),
    ("ü" * 200, "ß" * 300 + ".txt"),
    ("same", "name.txt"),
    ("same", "name.txt"),
    ("SAME", "NAME.TXT"),
    (".aluma-async", ".aluma-async"),
)
"""Folders and names of files as a scanned page may give them."""


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
    before: tuple[bytes, ...] = (b"changed", b"", b"of another task")
    holds("a task that is delivered again replaces its own files, and only those", *before)
    await _deliver(make(), first, b"changed", b"")
    holds("the same task again leaves what is there as it is, byte for byte", *before)

    try:
        async with destination.open(second) as delivery:
            await delivery.save(second.spec.files[0], _chunks(b"never to be seen"))
            raise ClaimConflict("given up")
    except ClaimConflict:
        holds("a delivery that is given up leaves no trace", *before)
    else:
        raise AssertionError("what is raised in the block comes out unchanged")

    try:
        async with destination.open(second) as delivery:
            await delivery.save(second.spec.files[0], _failing())
    except ClaimConflict:
        holds("a broken download leaves no trace", *before)
    else:
        raise AssertionError("what the chunks raise comes out unchanged")

    third = _claim("third", "a.txt", "c.txt")
    delivered: tuple[bytes, ...] = ()
    new = delivered
    for step in range(1, 10_000):
        new = (f"{step}, one".encode(), f"{step}, two".encode())
        with anyio.CancelScope() as scope:
            await _CancelAtAwait(_deliver(destination, third, *new), scope, step)
        if Counter(visible()) != Counter((*before, *delivered)):
            delivered = new
        holds(
            f"a delivery that is cancelled at its await {step} is there as a whole or not at all", *before, *delivered
        )
        if not scope.cancel_called:
            break
    assert delivered == new, "a delivery that is not cancelled is there"

    before += delivered
    hostile = _claim_of("hostile/../x", *HOSTILE)
    contents = tuple(f"hostile {number}".encode() for number in range(len(HOSTILE)))
    for _ in range(2):
        await _deliver(destination, hostile, *contents)
        holds("files whose names are hostile are all kept, each time alike", *before, *contents)

    many = _claim("many", *(f"{number}.txt" for number in range(1000)))
    contents += tuple(f"many {number}".encode() for number in range(1000))
    await _deliver_at_once(destination, many, *contents[-1000:])
    holds("a task may have a thousand files, some saved at once", *before, *contents)
    await destination.probe()


async def check_memory(destination: Destination, *, size: int = 200_000_000, at_most: int = 150_000_000) -> None:
    """Deliver one big file, and see that this process does not grow by more than ``at_most`` bytes (told by Linux)."""
    await destination.probe()
    claim = _claim("big", "big.bin")
    before = _peak_memory(anew=True)
    async with destination.open(claim) as delivery:
        await delivery.save(claim.spec.files[0], _chunks(*[b"0123456789abcdef" * 4096] * (size // 65536)))
    grown = _peak_memory() - before
    assert grown <= at_most, f"a file of {size:,} bytes takes no more than {at_most:,} bytes of memory: {grown:,}"


def _peak_memory(*, anew: bool = False) -> int:
    """Bytes of memory that this process has had at most, so far or from now on."""
    process = Path("/proc/self")
    if not process.exists():
        return 0
    if anew:
        (process / "clear_refs").write_text("5")
    return int((process / "status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


class _CancelAtAwait:
    """Awaits something, and cancels the scope that it is in at its await number ``at``."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], scope: anyio.CancelScope, at: int) -> None:
        self._coroutine, self._scope, self._at = coroutine, scope, at

    def __await__(self) -> Generator[Any, Any, None]:
        resume: Callable[[], Any] = partial(self._coroutine.send, None)
        for number in count(1):
            try:
                awaited = resume()
            except StopIteration:
                return
            if number == self._at:
                self._scope.cancel()
            try:
                resume = partial(self._coroutine.send, (yield awaited))
            except BaseException as error:  # noqa: BLE001 - it is passed on
                resume = partial(self._coroutine.throw, error)


async def _deliver(destination: Destination, claim: Claim, *data: bytes) -> None:
    async with destination.open(claim) as delivery:
        for file, content in zip(claim.spec.files, data, strict=True):
            await delivery.save(file, _chunks(content))


async def _deliver_at_once(destination: Destination, claim: Claim, *data: bytes) -> None:
    async def some(delivery: Delivery, first: int) -> None:
        for number in range(first, len(data), 8):
            await delivery.save(claim.spec.files[number], _chunks(data[number]))

    async with destination.open(claim) as delivery, anyio.create_task_group() as group:
        for first in range(8):
            group.start_soon(some, delivery, first)


async def check_task_source(source: TaskSource) -> None:
    """Try a source in which at least two tasks wait, the first with a file to download. It exports the first."""
    pending = [task async for tasks in source.list_pending() for task in tasks]
    assert len({task.id for task in pending}) >= 2, "at least two tasks wait"
    task, other = pending[:2]

    await _assert_conflict("only a claimed task can be completed", source.complete, other)
    claim = await source.start(task)
    assert claim.task == task
    assert claim.spec.files, "a claim names its files"
    await _assert_conflict("a claimed task cannot be claimed again", source.start, task)
    listed = {row.id async for tasks in source.list_pending() for row in tasks}
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
    await _assert_conflict("a completed task cannot be completed again", source.complete, task)
    await _assert_conflict("a completed task cannot be claimed", source.start, task)
    assert await source.state(task) in ("running", "completed", None), "a completed task is done or gone"
    assert await source.state(ExportTask("no-such-task")) is None, "an unknown task has no state"


async def _assert_conflict(promise: str, verb: Callable[[ExportTask], object], task: ExportTask) -> None:
    try:
        await verb(task)  # type: ignore[misc]
    except ClaimConflict:
        return
    except AlumaAsyncError as error:
        raise AssertionError(f"{promise}: {error!r} instead of ClaimConflict") from error
    raise AssertionError(promise)


def _claim(task_id: str, *filenames: str) -> Claim:
    return _claim_of(task_id, *(("a folder", name) for name in filenames))


def _claim_of(task_id: str, *names: tuple[str, str]) -> Claim:
    files = tuple(ExportFile(i, 0, folder, name, "url", url="/f") for i, (folder, name) in enumerate(names))
    return Claim(ExportTask(task_id), ExportSpec(files), anyio.current_time())


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _failing() -> AsyncIterator[bytes]:
    yield b"half of it"
    raise ClaimConflict("broken off")
