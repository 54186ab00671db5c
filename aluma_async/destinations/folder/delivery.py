"""``FolderDelivery``: stages the files of one claim, and publishes them together with those of other claims."""

import hashlib
from collections.abc import AsyncIterable
from contextlib import suppress
from functools import partial
from typing import Self

from aluma_async.concurrency.batcher import Batcher
from aluma_async.destinations.common.chunks import BLOCK, iter_blocks, to_crlf
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.staging import StagedTask
from aluma_async.destinations.folder.threads import FileThreads, StagedFile
from aluma_async.exceptions import DestinationError
from aluma_async.models import ExportFile

_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
"""Small files of all tasks that are kept in memory until they are published."""
WORK_BYTES_PER_SECOND = 1024 * 1024
"""Speed at which even a slow file system makes data durable."""


class FolderDelivery:
    """A delivery of one claim's files: leaving the block publishes them, an error removes them."""

    receipt = ""
    """The receipt for ``FolderDestination.verify``; empty until the files are published."""

    def __init__(
        self, task: StagedTask, threads: FileThreads, batcher: Batcher[StagedTask], usage: "Usage", *, crlf: bool
    ) -> None:
        self._task = task
        self._threads = threads
        self._batcher = batcher
        self._usage = usage
        self._crlf = crlf

    async def __aenter__(self) -> Self:
        if self._task.may_resume:
            step = self._threads.start(self._task.restore)
            try:
                await self._threads.wait(step)
            except BaseException as error:
                if step.is_abandoned:  # it may move further files to the staging folder
                    self._threads.after(step, self._task.save_for_resume)
                else:
                    await self._end(type(error))
                raise
        return self

    async def __aexit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if not failed:
                await self._batcher.submit(self._task)
                self.receipt = self._task.receipt
        except DestinationError as error:
            failed = type(error)
            self._record_refusal(error.__cause__, 0)
            raise
        except BaseException as error:
            failed = type(error)
            raise
        finally:
            await self._end(failed)

    async def _end(self, failed: type[BaseException] | None) -> None:
        """Release the memory. After a failure, remove the staged files that a later attempt cannot use."""
        self._usage.memory -= sum(map(len, self._task.in_memory.values()))
        if not failed and self._task.files is not self._task.claim.spec.files:
            await self._threads.clean_up(self._task.discard_omitted)
        if failed and not self._task.is_abandoned:  # otherwise its hanging operation still uses the files
            # After a cancellation (a stop, the end of the lease) the finished files are still correct.
            end = self._task.discard if issubclass(failed, Exception) else self._task.save_for_resume
            await self._threads.clean_up(end)

    def _record_refusal(self, error: BaseException | None, unfinished: int) -> None:
        """Record the size of the task, with ``unfinished`` bytes of a file, if the disk has no space for it."""
        if isinstance(error, OSError) and error.errno in fs.FULL:
            finished = sum(map(len, self._task.in_memory.values())) + sum(self._task.sizes.values())
            self._usage.refused_bytes = max(self._usage.refused_bytes, finished + unfinished)

    def resumable_size(self, file: ExportFile) -> int | None:
        """Return the size of a file that an earlier attempt at the same specification has finished."""
        kept = self._task.resumed.get(file.number)
        return kept and kept.size

    def resumable_version(self, file: ExportFile) -> str:
        """Return the version of that file at the server."""
        return self._task.resumed[file.number].version

    async def omit(self, file: ExportFile) -> None:
        """Leave a file out of the delivery, also if it was saved in part or completely."""
        self._usage.memory -= len(self._task.in_memory.get(file.number, b""))
        self._task.omit(file.number)

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file: a small one in memory while there is room, a large one on disk in blocks of 1 MiB."""
        task, number = self._task, file.number
        if number in task.in_memory or number in task.on_disk:
            self._usage.memory -= len(task.in_memory.get(number, b""))
            task.restart(number)
        if self._crlf and file.source == "content":
            chunks = to_crlf(chunks)
        staged: StagedFile | None = None
        written, version = 0, ""
        try:
            async for block, size in iter_blocks(chunks):
                if not staged and size < BLOCK and size + self._usage.memory < _MAX_BUFFERED_BYTES:
                    task.in_memory[number] = b"".join(block)
                    self._usage.memory += size
                    return  # only the last block is shorter than BLOCK
                if not staged:
                    task.on_disk.add(number)
                    staged = await self._threads.open_staged(task.staged_name(number))
                    version = getattr(chunks, "version", "")
                await staged.start(partial(_write, staged.fd, block, task.hasher(number)))
                written += size
                del block  # so that each of many large files keeps only the block that it collects
            if staged:
                finish = partial(task.finish, number, staged.fd, written, version)
                await staged.start(finish, work_seconds=written / WORK_BYTES_PER_SECOND)
                await staged.wait()
                await staged.close()
        except DestinationError as error:
            self._record_refusal(error.__cause__, written)
            raise
        finally:
            if staged:
                with suppress(DestinationError):  # after an error, which counts
                    await staged.close()


class Usage:
    """The memory and space that all deliveries use."""

    memory = 0
    """Bytes of the small files in memory."""
    refused_bytes = 0
    """Size of the largest task for which there was no space since the last successful probe."""


def _write(fd: int, block: list[bytes], digest: "hashlib._Hash | None") -> None:
    if digest:
        for chunk in block:
            digest.update(chunk)
    fs.write_all(fd, block)
