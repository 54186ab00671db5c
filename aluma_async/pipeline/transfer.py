"""``FileTransfer``: downloads the files of a claim into a destination, several at once, and retries each of them."""

import hashlib
from asyncio import CancelledError, current_task
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator
from typing import NamedTuple, Self

import anyio

from aluma_async.clock import loop_time
from aluma_async.events import BytesReceived, FileStaged
from aluma_async.exceptions import DestinationError, primary_error
from aluma_async.models import Claim, ExportFile
from aluma_async.pipeline.defect import plugin_defect
from aluma_async.pipeline.destination_watch import FILE_BYTES, DestinationWatch, WatchedStep
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.ports import CHECK_LEASE, BeforeComplete, Delivery, Destination, OnEvent

_REPORT_BYTES = 1024 * 1024
_REPORT_SECONDS = 10.0
_MAX_STALL_SECONDS = 300.0


class Delivered(NamedTuple):
    """The result of a delivery."""

    bytes: int
    """Total size of the files."""
    destinations: tuple[str, ...]
    """Names of the destinations that have the files; empty if the delivery does not name them."""
    receipt: str
    """Lets a later process verify that the files are still there; empty if the destination issues no receipts."""


class FileTransfer:
    """Transfers files from ``source``, with at most ``concurrency`` downloads of one task at a time.

    ``lease_check`` returns a function that raises an error if the files of a claim must not be committed any more;
    ``watch`` cancels the steps in which a destination makes no progress. The hashes of the downloads of the tasks
    ``copied`` are stored in ``hashes``, by task id and file number, to be compared with their safety copies.
    ``before_complete`` is awaited as the last step of a delivery.
    """

    def __init__(
        self,
        source: RetryingSource,
        *,
        concurrency: int = 4,
        lease_check: Callable[[Claim], Callable[[], object]] = lambda _: lambda: None,
        watch: DestinationWatch | None = None,
        copied: Collection[str] = (),
        hashes: dict[str, dict[int, str]] | None = None,
        before_complete: BeforeComplete | None = None,
        on_event: OnEvent,
    ) -> None:
        self._before_complete = before_complete
        self._source = source
        self._lease_check = lease_check
        self._concurrency = concurrency
        self._copied = copied
        self._hashes = {} if hashes is None else hashes
        self._watch = watch or DestinationWatch(_MAX_STALL_SECONDS)
        self._on_event = on_event

    async def deliver(self, claim: Claim, destination: Destination) -> Delivered:
        """Deliver all files of a claim durably. Raises ``SourceError`` or ``DestinationError``."""
        sizes: list[int] = []
        check_lease = self._lease_check(claim)
        token = CHECK_LEASE.set(check_lease)
        step = WatchedStep()
        step.running, step.claim = current_task(), claim
        self._watch.steps[step] = None  # without a call, as all that is done for each task or file
        if not self._watch.is_looking:
            self._watch.look_later()
        try:
            async with destination.open(claim) as delivery:
                # Files whose content came with the specification first, because they need no download.
                for file in claim.spec.files:
                    if file.source == "content":
                        step.total = len(file.content)
                        sizes.append(await self._save(claim, file, delivery))
                        step.looks = 0
                step.is_at_destination, step.total = False, 0  # but in the steps of the downloads
                downloads = [file for file in claim.spec.files if file.source == "url"]
                queue = iter(downloads)
                if len(downloads) <= 1:
                    await self._save_next(claim, queue, delivery, sizes, step)
                else:
                    async with anyio.create_task_group() as group:
                        for _ in downloads[: self._concurrency]:
                            group.start_soon(self._save_next, claim, queue, delivery, sizes, step)
                check_lease()
                step.is_at_destination, step.looks = True, 0
                step.total = sum(sizes) + FILE_BYTES * len(sizes)
            if len(sizes) != len(claim.spec.files):  # a destination has suppressed the exception of a download
                raise DestinationError(f"task {claim.task.id}: the destination has not stored all files")
            if self._before_complete:
                step.subject, step.looks, step.total = "before_complete", 0, 0
                await _run_hook(self._before_complete, claim)
        except BaseExceptionGroup as group:
            raise primary_error(group) from None
        except CancelledError:
            self._watch.raise_if_expired(step)
            raise
        finally:
            CHECK_LEASE.reset(token)
            del self._watch.steps[step]
            if step.is_replaced:
                self._watch.give_back()
        return Delivered(sum(sizes), getattr(delivery, "destinations", ()), receipt_of(delivery))

    async def _save_next(
        self, claim: Claim, queue: Iterator[ExportFile], delivery: Delivery, sizes: list[int], step: WatchedStep
    ) -> None:
        for file in queue:  # shared with the other downloads, so that each takes the next file
            try:
                sizes.append(
                    await self._source.retry(
                        f"download file {file.number} of task {claim.task.id}", self._save, claim, file, delivery, step
                    )
                )
            except (SystemExit, CancelledError) as error:  # in a task of its own, it would not reach the worker
                if defect := plugin_defect(error):
                    raise defect from None
                raise

    async def _save(self, claim: Claim, file: ExportFile, delivery: Delivery, step: WatchedStep | None = None) -> int:
        if file.source == "content":
            data = file.content.encode()
            chunk = SingleChunk(data)
            await delivery.save(file, chunk)
            if not chunk.is_read:
                raise _unread(file)
            size = len(data)
            self._on_event(BytesReceived(claim.task, file, size))
        else:
            async with self._source.open_file(claim, file) as chunks:
                hashed = HashedChunks(chunks) if claim.task.id in self._copied else None
                kept = None if hashed else delivery.resumable_size(file)
                if kept is not None and is_same_version(chunks, file, delivery):
                    return kept
                meter = ProgressMeter(hashed or chunks, claim, file, self._on_event)
                meter.running, meter.claim, meter.delivery = current_task(), claim, step
                self._watch.steps[meter] = None
                try:
                    await delivery.save(file, meter)
                except CancelledError:
                    self._watch.raise_if_expired(meter)
                    raise
                finally:
                    del self._watch.steps[meter]
                if not meter.is_read:
                    raise _unread(file)
                if hashed:
                    self._hashes.setdefault(claim.task.id, {})[file.number] = hashed.sha256
            size = meter.total
        self._on_event(FileStaged(claim.task, file, size))
        return size


async def _run_hook(hook: BeforeComplete, claim: Claim) -> None:
    """Run the caller's last step. Raises ``DestinationError``: any other error could settle the claim differently."""
    try:
        await hook(claim)
    except Exception as error:
        if isinstance(error, DestinationError) and not error.fatal:
            raise
        raise DestinationError(f"before_complete: unexpected {type(error).__name__}") from error


def _unread(file: ExportFile) -> DestinationError:
    return DestinationError(f"file {file.number}: the destination has not read it to its end")


def is_same_version(chunks: AsyncIterator[bytes], file: ExportFile, delivery: Delivery) -> bool:
    """Return whether the file that a delivery can resume with is certainly the one that the server has now."""
    version_of = getattr(delivery, "resumable_version", None)
    version = getattr(chunks, "version", "")
    return bool(version and version_of and version_of(file) == version)


def receipt_of(delivery: Delivery) -> str:
    """Return the receipt of a delivery that has been committed; empty if it has none."""
    receipt = getattr(delivery, "receipt", "")
    return receipt if receipt.__class__ is str else ""  # anything else would make the journal unreadable


class ProgressMeter(WatchedStep):
    """Counts the bytes of a file and emits ``BytesReceived`` for each MiB, or every ten seconds if they arrive slowly.

    This and ``SingleChunk`` are classes, because starting an async generator for each small file costs more than all
    its other work.
    """

    def __init__(self, chunks: AsyncIterator[bytes], claim: Claim, file: ExportFile, on_event: OnEvent) -> None:
        self._chunks = chunks
        self._task = claim.task
        self._file = file
        self._on_event = on_event
        self._reported, self._reported_at = 0, 0.0
        self.total = 0
        self.is_read = False
        """Whether the file was read to its end."""

    @property
    def version(self) -> str:
        """Identifier of the file's version; empty if unknown."""
        return getattr(self._chunks, "version", "")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.is_at_destination = False
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self.is_read = True
            self._report()
            raise
        finally:
            self.is_at_destination, self.looks = True, 0
        if self.total > self._reported:  # never true for a file in one chunk, which therefore needs no clock
            now = loop_time()
            self._reported_at = self._reported_at or now
            if self.total - self._reported >= _REPORT_BYTES or now - self._reported_at >= _REPORT_SECONDS:
                self._report()
                self._reported_at = now
        self.total += len(chunk)
        return chunk

    def _report(self) -> None:
        if self.total > self._reported:
            self._on_event(BytesReceived(self._task, self._file, self.total - self._reported))
            self._reported = self.total


class HashedChunks:
    """Passes chunks on and computes their hash."""

    def __init__(self, chunks: AsyncIterable[bytes]) -> None:
        self.version: str = getattr(chunks, "version", "")
        self._chunks = aiter(chunks)
        self._hash = hashlib.sha256()
        self.size = 0
        """Number of bytes so far."""

    @property
    def sha256(self) -> str:
        """Hash of the bytes so far."""
        return self._hash.hexdigest()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self.size += len(chunk)
        self._hash.update(chunk)
        return chunk


class SingleChunk:
    """The content of a file as an async iterator of one chunk."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    @property
    def is_read(self) -> bool:
        """Whether the chunk was read."""
        return self._data is None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, None
        if data is None:
            raise StopAsyncIteration
        return data
