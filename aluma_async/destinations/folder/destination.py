"""``FolderDestination``: exports files into a folder: write to a staging folder, fsync, rename, fsync the folders.

A final name appears only with complete, durable content. Unpublished files stay in ``.aluma-async`` inside the same
folder. Files that a task delivered earlier and does not contain any more are not deleted.
"""

import asyncio
import hashlib
import os
import secrets
import socket
from collections.abc import AsyncIterable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Literal, Self

from aiofiles.threadpool.binary import AsyncFileIO

from aluma_async.clock import system_clock, wall_time
from aluma_async.concurrency.batcher import Batch, Batcher
from aluma_async.destinations.common.chunks import BLOCK, iter_blocks, to_crlf
from aluma_async.destinations.common.place import FolderPlace
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.kept import KeptFiles
from aluma_async.destinations.folder.owners import Owners
from aluma_async.destinations.folder.permissions import Permissions
from aluma_async.destinations.folder.publish import publish
from aluma_async.destinations.folder.receipt import Receipt
from aluma_async.destinations.folder.root import KEPT, RootFolder
from aluma_async.destinations.folder.staging import FolderSettings, StagedTask
from aluma_async.destinations.folder.threads import FileThreads
from aluma_async.exceptions import DestinationError
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import OnConflict

_MAX_BUFFERED_BYTES = 64 * 1024 * 1024
"""Small files of all tasks that are kept in memory until they are published."""
_PROBE_BYTES = 20
_MAX_BATCHES = 4
"""Batches that are published at the same time, because a file system merges concurrent syncs."""


class FolderDestination:
    """A folder on this machine.

    Args:
        path: The folder. ``probe`` creates it if it is missing.
        newline: ``"crlf"`` converts the line ends of texts, but not of downloads.
        on_conflict: What happens to a file if another task's file already has its name.
        durability: ``"rename"`` means no fsync. A power loss may then lose files that Aluma has already deleted.
        manifest: Whether to write a manifest for each task, after its other files are durable.
        executor: Runs the blocking steps.
        mounts: A folder elsewhere that records where this one was mounted. With it, a share that is not mounted is
            distinguished from a new folder even by the first ``probe`` of a process.
        file_mode: Mode of new files. None: the umask decides.
        folder_mode: Mode of new folders. None: the umask decides.
        now: Returns the time in seconds since 1970.
        boot: Identifier of the machine's current boot. None: ask the system.
    """

    warning = ""
    """What the probe has found to be restricted; empty if nothing is."""

    def __init__(
        self,
        path: str | Path,
        *,
        newline: Literal["keep", "crlf"] = "keep",
        on_conflict: OnConflict = "keep-both",
        durability: Literal["full", "rename"] = "full",
        manifest: bool = False,
        executor: Executor | None = None,
        mounts: Path | None = None,
        file_mode: int | None = None,
        folder_mode: int | None = None,
        now: Callable[[], float] = wall_time,
        boot: str | None = None,
    ) -> None:
        self.root = Path(path)
        self.place = FolderPlace(self.root)
        folder = RootFolder(self.root, mounts, Permissions(file_mode, folder_mode))
        owners = Owners(folder.internal / "owners.sqlite3")
        boot = boot or system_clock().boot
        kept = KeptFiles(folder.internal / KEPT, boot)
        self._settings = FolderSettings(folder, kept, owners, on_conflict, durability == "full", manifest, now, boot)
        self._threads = FileThreads(folder, executor)
        self._crlf = newline == "crlf"
        self._usage = _Usage()
        self._chose_mode = False
        # The names of staged files contain host and process, so that a later run on this host can recognize the files
        # of a process that has ended. No other user can guess the rest.
        self._host = f"{socket.gethostname().split('.')[0]}-"
        self._prefix = f"{self._host}{os.getpid()}-{secrets.token_hex(8)}"
        self._numbers = count(1)
        self._batcher = Batcher(self._publish, concurrency=_MAX_BATCHES if self._settings.sync else 1)

    async def probe(self) -> None:
        """Create missing folders, remove files that crashed runs have left, and check that files can be written."""
        await self._threads.run(self._probe)

    def open(self, claim: Claim) -> "FolderDelivery":
        """Start a delivery of a claim's files."""
        task = StagedTask(self._settings, claim, f"{self._prefix}-{next(self._numbers)}")
        return FolderDelivery(task, self._threads, self._batcher, self._usage, crlf=self._crlf)

    async def verify(self, receipt: str) -> bool:
        """Return whether the files of an earlier delivery are still there: same folder, names and sizes.

        Files that were not synced count as lost after a reboot, because the machine may have lost its power.
        """
        return await self._threads.run(self._verify, receipt)

    def close(self) -> None:
        """Close the index of owners."""
        self._settings.owners.close()

    async def _publish(self, batch: Batch[StagedTask]) -> None:
        # Each task counts as failed until the thread has published it, because the thread may never run.
        interrupted = DestinationError(f"folder {self.root}: publishing was interrupted")
        batch.errors = dict.fromkeys(batch.items, interrupted)
        await self._threads.run(publish, self._settings, batch.items, batch.errors)

    def _probe(self) -> None:
        root, owners = self._settings.root, self._settings.owners
        if not root.is_same_folder():
            owners.close()  # because an open file outlives its folder, and would continue to answer
        root.ensure()
        if not self._chose_mode:
            owners.choose_mode(root.staging / f"{self._prefix}-{next(self._numbers)}.probe")
            self.warning, self._chose_mode = owners.warning, True
        self._settings.kept.load(root.now())
        with root.open(sync=False) as folders:
            for name in fs.names(folders.staging):
                if self._is_orphan(name):
                    fs.unlink(folders.staging, name)
            trial = f"{self._prefix}-{next(self._numbers)}.probe"  # because probes may run at the same time
            # As large as a task for which there was no space, so that it decides whether others have some.
            size = max(_PROBE_BYTES, min(self._usage.refused_bytes, BLOCK))
            fs.try_to_write(folders.staging, trial, size, sync=self._settings.sync)
            self._usage.refused_bytes = 0

    def _verify(self, text: str) -> bool:
        receipt = Receipt.parse(text)
        if receipt is None or receipt.boot not in ("", self._settings.boot):
            return False
        with self._settings.root.open(sync=False) as folders:
            files = receipt.stored(folders.identifier)
            return files is not None and all(folders.size_of(path) == size for path, size in files)

    def _is_orphan(self, name: str) -> bool:
        pid = name.removeprefix(self._host).partition("-")[0]
        return name.startswith(self._host) and pid.isdigit() and not _process_exists(int(pid))


class FolderDelivery:
    """A delivery of one claim's files: leaving the block publishes them, an error removes them."""

    receipt = ""
    """The receipt for ``FolderDestination.verify``; empty until the files are published."""

    def __init__(
        self, task: StagedTask, threads: FileThreads, batcher: Batcher[StagedTask], usage: "_Usage", *, crlf: bool
    ) -> None:
        self._task = task
        self._threads = threads
        self._batcher = batcher
        self._usage = usage
        self._crlf = crlf

    async def __aenter__(self) -> Self:
        if self._task.may_resume:
            try:
                await self._threads.run(self._task.restore)
            except BaseException as error:
                await self._end(type(error))
                raise
        return self

    async def __aexit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if not failed:
                await self._batcher.submit(self._task)
                self.receipt = self._task.receipt
        except OSError as error:
            failed = type(error)
            self._record_refusal(error, 0)
            raise self._threads.map_error(error) from error
        except BaseException as error:
            failed = type(error)
            raise
        finally:
            await self._end(failed)

    async def _end(self, failed: type[BaseException] | None) -> None:
        """Release the memory. After a failure, remove the staged files that a later attempt cannot use."""
        self._usage.memory -= sum(map(len, self._task.in_memory.values()))
        if not failed and self._task.files is not self._task.claim.spec.files:
            await self._threads.run(self._task.discard_omitted)
        if failed:
            # After a cancellation (a stop, the end of the lease) the finished files are still correct.
            end = self._task.discard if issubclass(failed, Exception) else self._task.save_for_resume
            await self._threads.run(end)

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
        stream: AsyncFileIO | None = None
        writing: asyncio.Future[None] | None = None
        written, version = 0, ""
        try:
            async for block, size in iter_blocks(chunks):
                if not stream and size < BLOCK and size + self._usage.memory < _MAX_BUFFERED_BYTES:
                    task.in_memory[number] = b"".join(block)
                    self._usage.memory += size
                    return  # only the last block is shorter than BLOCK
                if not stream:
                    task.on_disk.add(number)
                    stream = await self._threads.open_staged(task.staged_name(number))
                    version = getattr(chunks, "version", "")
                if writing:
                    await self._threads.wait(writing)
                writing = self._threads.start(_write, stream.fileno(), block, task.hasher(number))
                written += size
                del block  # so that each of many large files keeps only the block that it collects
            if stream and writing:
                await self._threads.wait(writing)
                writing = None
                await self._threads.run(task.finish, number, stream.fileno(), written, version)
        except DestinationError as error:
            self._record_refusal(error.__cause__, written)
            raise
        finally:
            if writing:
                with suppress(DestinationError):
                    await self._threads.wait(writing)
            if stream:
                await self._threads.close(stream)


class _Usage:
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


def _process_exists(pid: int) -> bool:
    """Return whether a process runs on this machine; True if that is unknown."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
