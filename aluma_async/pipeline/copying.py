"""``CopyWriter``: fetches what a claim contains into a delivery of the quarantine, and writes the copy's record."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

import anyio
from msgspec.structs import replace

from aluma_async.exceptions import AlumaAsyncError, DestinationError, SourceError
from aluma_async.models import Claim, ExportFile, ExportSpec
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.transfer import HashedChunks, ProgressMeter, SingleChunk
from aluma_async.ports import Delivery, OnEvent
from aluma_async.quarantine.records import (
    CopiedFile,
    CopyState,
    Digest,
    QuarantineRecord,
    copy_files,
    copy_paths,
    encode_record,
)

_CONCURRENCY = 4
"""Downloads of one task at a time."""


class QuarantineFull(DestinationError):
    """The quarantine would exceed ``quarantine_max_bytes``."""


class Budget:
    """The bytes of the quarantine, including those of copies that are being written; ``max_bytes`` 0: no limit."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used = 0

    def reserve(self, count: int) -> None:
        """Reserve bytes. Raises ``QuarantineFull``."""
        if self.max_bytes and self.used + count > self.max_bytes:
            raise QuarantineFull(
                f"the quarantine is full: it would exceed {self.max_bytes} bytes",
                hint="Raise quarantine_max_bytes under [exporter], or remove copies with 'aluma-async quarantine'.",
            )
        self.used += count


class NothingNew(DestinationError):
    """An earlier copy has everything that could be fetched, so that copy stays."""


class CopiesDiffer(DestinationError):
    """A file of a task was fetched twice with different content, so that it is unknown which is right."""

    def __init__(self, task_id: str, number: int) -> None:
        super().__init__(
            f"task {task_id}: file {number} was fetched twice with different content; the quarantine has both",
            hint="Compare them with 'aluma-async quarantine export', and remove the wrong one, or both.",
        )


class ExportDiffers(DestinationError):
    """A task was exported with other content than its safety copy has, so that the copy stays."""

    def __init__(self, task_id: str, number: int) -> None:
        super().__init__(
            f"task {task_id}: file {number} was exported with other content than its safety copy has; the copy stays",
            hint="Compare them with 'aluma-async quarantine export', and remove the copy if the export is right.",
        )


class EarlierCopy(NamedTuple):
    """An earlier copy of the same Export Specification."""

    missing: frozenset[int]
    """Numbers of the files that it lacks."""
    read: Callable[[int], AsyncGenerator[bytes, None]]
    """Returns the content of another file; raises ``SourceError`` unless it is as it was stored."""


class CopyWriter:
    """One copy in progress, in the folder ``name``. ``claim`` describes the files that its destination stores.

    Args:
        source: Fetches the files.
        claim: The claim of the task.
        name: Name of the copy's folder.
        state: What will happen to the task.
        earlier: A copy whose files are used if they cannot be fetched. Each one that can is, because it may be another.
        budget: The size of the quarantine.
        on_event: Receives the events.
    """

    def __init__(
        self,
        source: RetryingSource,
        claim: Claim,
        name: str,
        state: CopyState,
        earlier: EarlierCopy | None,
        budget: Budget,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._original = claim
        self.name = name
        self.state = state
        self._earlier = earlier
        self._budget = budget
        self._on_event = on_event
        files = claim.spec.files
        stored = copy_files(name, [(file.folder, file.filename) for file in files])
        first = 1 + max((file.number for file in files), default=-1)
        numbers = [*(file.number for file in files), first, first + 1]
        stored = [replace(file, number=number) for file, number in zip(stored, numbers, strict=True)]
        *placed, self._spec_file, self._record_file = stored
        self._placed = {file.number: file for file in placed}
        self.claim = Claim(claim.task, ExportSpec(tuple(stored), claim.spec.received), claim.sent_at)
        self.missing: dict[int, str] = {}
        """Number of each file that could not be fetched, with the reason."""
        self._digests: dict[int, Digest] = {}
        self._reserved = 0

    async def fetch(self, delivery: Delivery) -> None:
        """Save the specification and all files that can be fetched. Raises ``AlumaAsyncError``."""
        await self._save_data(self._spec_file, self._original.spec.received, delivery)
        files = self._original.spec.files
        for file in files:
            if file.problem and not file.is_whole_text:
                await self._omit(file, file.problem, delivery)
            elif file.source == "content":
                try:
                    # A lone surrogate cannot be encoded; the specification has it unchanged.
                    await self._save_data(self._placed[file.number], file.content.encode(errors="replace"), delivery)
                except QuarantineFull as error:
                    await self._omit(file, str(error), delivery)
        await self._fetch_all([file for file in files if not file.problem and file.source == "url"], delivery)

    async def finish(self, delivery: Delivery, error: AlumaAsyncError, now: float) -> None:
        """Save the record: a task that lacks a file must not be failed, so its state is ``PARKED``."""
        files = self._original.spec.files
        stored = [file for file in files if file.number not in self.missing]
        paths = copy_paths(self.name, [(file.folder, file.filename) for file in stored])
        path_of = {file.number: "/".join(parts[1:]) for file, parts in zip(stored, paths, strict=False)}
        record = QuarantineRecord(
            self._original.task,
            type(error).__name__,
            str(error),
            tuple(self._copied_file(file, path_of.get(file.number, "")) for file in files),
            state=CopyState.PARKED if self.missing else self.state,
            stored_at=now,
            specification=self._digests[self._spec_file.number],
        )
        data = encode_record(record)
        await delivery.save(self._record_file, SingleChunk(data))
        self._budget.used += len(data)  # without a limit, because a copy without its record is worth nothing
        self._reserved += len(data)

    @property
    def hashes(self) -> Mapping[int, str]:
        """The hash of each file of the task that was saved, by its number."""
        return {number: digest.sha256 for number, digest in self._digests.items() if number in self._placed}

    @property
    def size(self) -> int:
        """Total size of the saved files in bytes."""
        return sum(digest.size for digest in self._digests.values())

    def free_bytes(self) -> None:
        """Free the reserved bytes, because the copy is discarded."""
        self._free(self._reserved)

    def _copied_file(self, file: ExportFile, path: str) -> CopiedFile:
        digest = self._digests.get(file.number)
        if digest is None:
            return CopiedFile(file.number, file.folder, file.filename, missing=self.missing[file.number])
        return CopiedFile(file.number, file.folder, file.filename, "", path, digest.size, digest.sha256)

    async def _fetch_all(self, files: Sequence[ExportFile], delivery: Delivery) -> None:
        queue = iter(files)
        async with anyio.create_task_group() as group:
            for _ in files[:_CONCURRENCY]:
                group.start_soon(self._fetch_next, queue, delivery)

    async def _fetch_next(self, queue: Iterator[ExportFile], delivery: Delivery) -> None:
        for file in queue:  # shared with the other downloads, so that each takes the next file
            try:
                operation = f"copy file {file.number} of task {self._original.task.id}"
                await self._source.retry(operation, self._download, file, delivery)
            except (SourceError, QuarantineFull) as error:
                if not await self._copy_earlier(file, delivery):
                    await self._omit(file, str(error), delivery)

    async def _copy_earlier(self, file: ExportFile, delivery: Delivery) -> bool:
        """Save a file from the earlier copy; return whether that was possible."""
        if self._earlier is None or file.number in self._earlier.missing:
            return False
        try:
            async with aclosing(self._earlier.read(file.number)) as blocks:
                await self._save(self._placed[file.number], blocks, delivery)
        except (SourceError, QuarantineFull):
            return False
        return True

    async def _download(self, file: ExportFile, delivery: Delivery) -> None:
        placed = self._placed[file.number]
        async with self._source.open_file(self._original, file) as chunks:
            # Also if the delivery has the file of an earlier attempt, because that has no digest to compare.
            await self._save(placed, ProgressMeter(chunks, self._original, file, self._on_event), delivery)

    async def _save_data(self, placed: ExportFile, data: bytes, delivery: Delivery) -> None:
        await self._save(placed, SingleChunk(data), delivery)

    async def _save(self, placed: ExportFile, chunks: AsyncIterable[bytes], delivery: Delivery) -> None:
        digest = _Digesting(chunks, self._reserve)
        try:
            await delivery.save(placed, digest)
        except BaseException:
            self._free(digest.size)
            raise
        self._digests[placed.number] = digest.result()

    async def _omit(self, file: ExportFile, reason: str, delivery: Delivery) -> None:
        omit = getattr(delivery, "omit", None)
        if omit is None:
            raise DestinationError(f"file {file.number} is missing: {reason}")
        await omit(self._placed[file.number])
        self.missing[file.number] = reason

    def _reserve(self, count: int) -> None:
        self._budget.reserve(count)
        self._reserved += count

    def _free(self, count: int) -> None:
        self._budget.used -= count
        self._reserved -= count


class _Digesting(HashedChunks):
    """Passes chunks on, reserves their bytes and computes their digest."""

    def __init__(self, chunks: AsyncIterable[bytes], reserve: Callable[[int], None]) -> None:
        super().__init__(chunks)
        self._reserve = reserve

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self._reserve(len(chunk))
        self.size += len(chunk)
        self._hash.update(chunk)
        return chunk

    def result(self) -> Digest:
        return Digest(self.size, self.sha256)
