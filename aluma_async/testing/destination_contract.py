"""``check_destination`` and ``check_memory``: call them in a test of your own destination.

A violation raises an ``AssertionError`` that names the rule. Durability is not checked, because only a power failure on
real hardware can show it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup
from msgspec import structs

from aluma_async.exceptions import AlreadyExported, ClaimConflict, DestinationError
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.ports import Delivery, Destination, VerifyingDestination

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
"""Folder names and filenames that could come from a scanned page."""

OVERLAPPING = (b"of both deliveries", b"of both deliveries, too")
"""Content of the files of ``_check_overlap``."""


async def check_destination(make: Callable[[], Destination], visible: Callable[[], Iterable[bytes]]) -> None:
    """Check that a destination keeps its contract.

    Args:
        make: Returns a ``Destination`` object. All objects must use the same storage, which is empty at first.
        visible: Returns the content of each file that is visible in the storage.
    """

    def assert_visible(rule: str, *expected: bytes) -> None:
        assert Counter(visible()) == Counter(expected), rule

    destination = make()
    await destination.probe()
    first, second = _claim("first", "a.txt", "b.bin"), _claim("second", "a.txt")

    async with destination.open(first) as delivery:
        await delivery.save(first.spec.files[0], _chunks(b"one"))
        assert_visible("no file is visible before all files of its task are saved")
        await delivery.save(first.spec.files[1], _chunks(b"discarded"))
        await delivery.save(first.spec.files[1], _chunks(b"t" * 3_000_000, b"wo"))
    two = b"t" * 3_000_000 + b"wo"
    assert_visible("saving a file again replaces what the first call received", b"one", two)

    async with destination.open(second) as delivery:
        await delivery.save(second.spec.files[0], _chunks(b"of another task"))
    assert_visible("files of two tasks with the same name are both kept", b"one", two, b"of another task")

    receipt = await _deliver(destination, second, b"of another task")
    await _check_receipt(make, receipt)

    await _deliver(make(), first, b"changed", b"")
    before: tuple[bytes, ...] = (b"changed", b"", b"of another task")
    assert_visible("delivering a task again replaces its own files and no others", *before)
    await _deliver(make(), first, b"changed", b"")
    assert_visible("delivering a task again without changes leaves every byte as it is", *before)

    try:
        async with destination.open(second) as delivery:
            await delivery.save(second.spec.files[0], _chunks(b"discarded"))
            raise ClaimConflict("raised in the block")
    except ClaimConflict:
        assert_visible("a delivery that ends with an exception changes no visible file", *before)
    else:
        raise AssertionError("an exception raised in the block is passed on unchanged")

    try:
        async with destination.open(second) as delivery:
            await delivery.save(second.spec.files[0], _failing())
    except ClaimConflict:
        assert_visible("a delivery whose download breaks changes no visible file", *before)
        assert not getattr(delivery, "receipt", ""), "a delivery that did not commit has no receipt"
    else:
        raise AssertionError("an exception raised by the chunks is passed on unchanged")

    third = _claim("third", "a.txt", "c.txt")
    delivered: tuple[bytes, ...] = ()
    new = delivered
    for step in range(1, 10_000):
        new = (f"{step}, one".encode(), f"{step}, two".encode())
        with anyio.CancelScope() as scope:
            await _InterruptAtAwait(_deliver(destination, third, *new), _cancel(scope), step)
        if Counter(visible()) != Counter((*before, *delivered)):
            delivered = new
        assert_visible(f"a delivery cancelled at await {step} commits all files or none", *before, *delivered)
        if not scope.cancel_called:
            break
    assert delivered == new, "a delivery that is not cancelled commits its files"

    if receipt:
        await _deliver(destination, second, b"of another task, changed")
        assert not await _is_verified(destination, receipt), "a receipt is not valid when the files have changed"
        await _deliver(destination, second, b"of another task")

    await _check_overlap(make, third, assert_visible, before)
    before += OVERLAPPING
    hostile = _claim_of("hostile/../x", *HOSTILE)
    contents = tuple(f"hostile {number}".encode() for number in range(len(HOSTILE)))
    for _ in range(2):
        await _deliver(destination, hostile, *contents)
        assert_visible("files with hostile names are all kept, and replaced when delivered again", *before, *contents)

    await _check_redelivery(destination, first, assert_visible, (*before, *contents))

    many = _claim("many", *(f"{number}.txt" for number in range(1000)))
    contents += tuple(f"many {number}".encode() for number in range(1000))
    await _deliver_concurrently(destination, many, *contents[-1000:])
    assert_visible("a task may have 1,000 files, several of them saved concurrently", *before, *contents)
    await destination.probe()


async def _check_overlap(
    make: Callable[[], Destination], claim: Claim, assert_visible: Callable[..., None], stored: tuple[bytes, ...]
) -> None:
    """Interrupt a delivery at each of its awaits, after another exporter has delivered the same files."""
    destination, other = make(), make()
    await destination.probe()
    await other.probe()
    interrupted = True
    for step in count(1):
        if not interrupted:
            return
        await _deliver(other, claim, f"{step}, one".encode(), f"{step}, two".encode())
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                overlap = _Overlap(group, scope, partial(_deliver, other, claim, *OVERLAPPING))
                await _InterruptAtAwait(_deliver(destination, claim, *OVERLAPPING), overlap.run(), step)
            interrupted = scope.cancel_called
        if overlap.error:
            await _deliver(other, claim, *OVERLAPPING)  # as after a cool-down
        rule = f"a delivery that ends at await {step} leaves the files that another delivery of the task has committed"
        assert_visible(rule, *stored, *OVERLAPPING)


async def _check_redelivery(
    destination: Destination, claim: Claim, assert_visible: Callable[..., None], stored: tuple[bytes, ...]
) -> None:
    """Check deliveries that must not replace anything. The files of ``claim`` contain b"changed" and nothing."""
    older = structs.replace(claim, may_replace=False)
    await _deliver(destination, older, b"changed", b"")
    assert_visible("a delivery that must not replace anything succeeds if nothing is different", *stored)
    try:
        await _deliver(destination, older, b"changed", b"an older version")
    except AlreadyExported:
        assert_visible("a delivery that must not replace anything changes nothing", *stored)
    else:
        raise AssertionError("a delivery that must not replace anything raises AlreadyExported if a file is different")
    with suppress(AlreadyExported):
        await _deliver(destination, structs.replace(older, spec=ExportSpec(claim.spec.files[:1])), b"changed")
    assert_visible("a delivery that must not replace anything removes nothing", *stored)


async def check_memory(destination: Destination, *, size: int = 200_000_000, at_most: int = 150_000_000) -> None:
    """Check that delivering a large file does not increase the memory of this process too much (Linux only).

    Args:
        destination: The destination to check.
        size: Size of the file, in bytes.
        at_most: Maximum increase of memory, in bytes.
    """
    await destination.probe()
    claim = _claim("big", "big.bin")
    before = _peak_memory(reset=True)
    async with destination.open(claim) as delivery:
        await delivery.save(claim.spec.files[0], _chunks(*[b"0123456789abcdef" * 4096] * (size // 65536)))
    grown = _peak_memory() - before
    assert grown <= at_most, f"a file of {size:,} bytes needs at most {at_most:,} bytes of memory, not {grown:,}"


def _peak_memory(*, reset: bool = False) -> int:
    """Return the peak memory of this process in bytes. ``reset``: start a new measurement."""
    process = Path("/proc/self")
    if not process.exists():
        return 0
    if reset:
        (process / "clear_refs").write_text("5")
    return int((process / "status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


class _InterruptAtAwait:
    """Awaits a coroutine, and ``interruption`` in the midst of it, before its await number ``at``."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, object], interruption: Coroutine[Any, Any, None], at: int
    ) -> None:
        self._coroutine, self._interruption, self._at = coroutine, interruption, at

    def __await__(self) -> Generator[Any, Any, None]:
        resume: Callable[[], Any] = partial(self._coroutine.send, None)
        for number in count(1):
            try:
                awaited = resume()
            except StopIteration:
                self._interruption.close()
                return
            if number == self._at:
                yield from self._interruption.__await__()
            try:
                resume = partial(self._coroutine.send, (yield awaited))
            except BaseException as error:  # noqa: BLE001 - passed on to the coroutine
                resume = partial(self._coroutine.throw, error)


async def _cancel(scope: anyio.CancelScope) -> None:
    scope.cancel()


class _Overlap:
    """Lets another delivery end, unless it waits for the interrupted one, and then cancels the interrupted one."""

    error: DestinationError | None = None

    def __init__(self, group: TaskGroup, scope: anyio.CancelScope, deliver: Callable[[], Awaitable[object]]) -> None:
        self._group, self._scope, self._deliver = group, scope, deliver
        self._ended = anyio.Event()

    async def run(self) -> None:
        self._group.start_soon(self._deliver_other)
        with anyio.move_on_after(0.1):
            await self._ended.wait()
        self._scope.cancel()

    async def _deliver_other(self) -> None:
        try:
            await self._deliver()
        except DestinationError as error:
            self.error = error
        self._ended.set()


async def _deliver(destination: Destination, claim: Claim, *data: bytes) -> str:
    """Deliver files and return the receipt; empty if there is none."""
    async with destination.open(claim) as delivery:
        for file, content in zip(claim.spec.files, data, strict=True):
            await delivery.save(file, _chunks(content))
        assert not getattr(delivery, "receipt", ""), "a receipt is issued when the files are committed, and not before"
    receipt = getattr(delivery, "receipt", "")
    assert isinstance(receipt, str), "a receipt is a text"
    return receipt


async def _check_receipt(make: Callable[[], Destination], receipt: str) -> None:
    """Check that another process can verify the receipt of files that are there, and no other text."""
    if not receipt:
        return
    destination = make()
    await destination.probe()
    assert isinstance(destination, VerifyingDestination), "a destination that issues receipts can verify them"
    assert "a.txt" not in receipt, "a receipt contains no names of documents in clear"
    assert await _is_verified(destination, receipt), "a receipt is valid while the files are there"
    for text in ("", "{}", receipt[:-2], receipt + "x", "[" * 10_000):
        assert not await _is_verified(destination, text), "a text that is not a receipt is never valid"


async def _is_verified(destination: Destination, receipt: str) -> bool:
    assert isinstance(destination, VerifyingDestination)
    try:
        return await destination.verify(receipt)
    except DestinationError:
        return False


async def _deliver_concurrently(destination: Destination, claim: Claim, *data: bytes) -> None:
    async def save_every_eighth(delivery: Delivery, first: int) -> None:
        for number in range(first, len(data), 8):
            await delivery.save(claim.spec.files[number], _chunks(data[number]))

    async with destination.open(claim) as delivery, anyio.create_task_group() as group:
        for first in range(8):
            group.start_soon(save_every_eighth, delivery, first)


def _claim(task_id: str, *filenames: str) -> Claim:
    return _claim_of(task_id, *(("a folder", name) for name in filenames))


def _claim_of(task_id: str, *names: tuple[str, str]) -> Claim:
    files = tuple(ExportFile(i, 0, folder, name, "url", url="/f") for i, (folder, name) in enumerate(names))
    return Claim(ExportTask(task_id), ExportSpec(files), anyio.current_time())


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _failing() -> AsyncIterator[bytes]:
    yield b"incomplete"
    raise ClaimConflict("raised by the chunks")
