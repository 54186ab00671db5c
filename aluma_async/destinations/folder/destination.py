"""``FolderDestination``: files in a folder. Write beside, sync, rename together, sync the folders.

A final name appears only with complete, synced content. What is on its way stays below ``.aluma-async`` in
the same folder. It does not delete what a task delivered once and does not deliver any more.
"""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Literal, Self

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO

from aluma_async.concurrency.batcher import Batch, Batcher
from aluma_async.destinations.common.chunks import BLOCK, iter_blocks, to_crlf
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.owners import Owners
from aluma_async.destinations.folder.root import RootFolder
from aluma_async.destinations.folder.staging import FolderSettings, StagedTask, publish
from aluma_async.destinations.folder.threads import FileThreads
from aluma_async.exceptions import DestinationError
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import OnConflict

_MOST_HELD = 64 * 1024 * 1024
"""Bytes of small files of all tasks that wait in memory to be written."""
_HOPS = 4
"""Batches that are published at once where each waits for the disk: a file system merges their syncs."""


class FolderDestination:
    """A folder on this machine.

    ``newline="crlf"`` turns the line ends of texts (not of downloads). ``on_conflict`` says what becomes
    of a file whose name another task's file has. ``durability="rename"`` leaves out the syncing: a
    power loss may then cost files that Aluma has already deleted. ``manifest`` adds one, written when all else
    is durable. Blocking steps run on ``executor``.
    ``mounts`` is a folder elsewhere that outlives the process: with it, a share that is not mounted is
    told from a new folder even at the start.
    """

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
        now: Callable[[], float] = time.time,
    ) -> None:
        self.root = Path(path)
        self.place = RootFolder(self.root, mounts)
        self.owners = Owners(self.place.internal / "owners.sqlite3")
        self.folder = FolderSettings(self.place, self.owners, on_conflict, durability == "full", manifest, now)
        self.offload = FileThreads(self.place, executor)
        self.crlf = newline == "crlf"
        self.held = 0
        """Bytes that wait in memory."""
        # Whose staged files these are: a later run on this host may sweep those of a process that is gone.
        self._host = f"{socket.gethostname().split('.')[0]}-"
        self._prefix = f"{self._host}{os.getpid()}-{id(self):x}"
        self._numbers = count(1)
        self._batcher = Batcher(self._publish_batch, concurrency=_HOPS if self.folder.sync else 1)

    async def probe(self) -> None:
        """Make what is missing, sweep what crashed runs left, and write a file to see whether that goes."""
        await self.offload.run(self._probe)

    def open(self, claim: Claim) -> "FolderDelivery":
        """Begin to deliver a claim's files."""
        return FolderDelivery(self, StagedTask(self.folder, claim, f"{self._prefix}-{next(self._numbers)}"))

    def close(self) -> None:
        """Close the record of owners."""
        self.owners.close()

    async def publish(self, staged: StagedTask) -> None:
        """Publish what was staged, together with all that waits by then: one step in a thread for many."""
        await self._batcher.submit(staged)
        if not staged.published:
            with self.offload.map_errors():
                raise staged.error or DestinationError(f"folder {self.root}: the files were not published")

    async def _publish_batch(self, batch: Batch[StagedTask]) -> None:
        await self.offload.run(publish, self.folder, batch.items)

    def _probe(self) -> None:
        if not self.place.is_same_folder():
            self.owners.close()  # an open file lives on without a folder, and would go on to answer
        self.place.make()
        self.place.find_kept()
        with self.place.open(sync=False) as tree:
            for name in os.listdir(tree.staging):  # noqa: PTH208 - Path knows no descriptors
                if self._is_orphan(name):
                    fs.remove(tree.staging, name)
            trial = f"{self._prefix}.probe"
            data = b"aluma-async was here"
            fd = fs.write_file(tree.staging, trial, data, sync=self.folder.sync)
            try:
                fs.fsync_checked(fd, len(data), sync=self.folder.sync)
            finally:
                os.close(fd)
            fs.remove(tree.staging, trial)

    def _is_orphan(self, name: str) -> bool:
        pid = name.removeprefix(self._host).partition("-")[0]
        return name.startswith(self._host) and pid.isdigit() and not _process_exists(int(pid))


class FolderDelivery:
    """The files of one claim; the end of the block publishes them, an error removes them."""

    def __init__(self, to: FolderDestination, staged: StagedTask) -> None:
        self._to = to
        self._staged = staged

    async def __aenter__(self) -> Self:
        if self._to.place.kept and self._staged.may_be_kept():
            try:
                await self._to.offload.run(self._staged.take_back)
            except BaseException as error:
                await self._end(type(error))
                raise
        return self

    async def __aexit__(self, failed: type[BaseException] | None, *_: object) -> None:
        try:
            if not failed:
                await self._to.publish(self._staged)
        except BaseException as error:
            failed = type(error)
            raise
        finally:
            await self._end(failed)

    async def _end(self, failed: type[BaseException] | None) -> None:
        """Give back the room in memory, and leave nothing on the disk but what serves a later attempt."""
        self._to.held -= sum(map(len, self._staged.held.values()))
        if failed:
            # Out of time, or stopped: nothing is wrong with what was finished.
            end = self._staged.discard if issubclass(failed, Exception) else self._staged.keep
            await self._to.offload.run(end)

    def resumable_size(self, file: ExportFile) -> int | None:
        """The size of a file that an earlier attempt at this very specification finished."""
        return self._staged.kept.get(file.number)

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file: a small one in memory as long as there is room, a big one a MiB at a time."""
        staged, number = self._staged, file.number
        if number in staged.held or number in staged.begun:
            self._to.held -= len(staged.held.get(number, b""))
            staged.forget(number)
        if self._to.crlf and file.source == "content":
            chunks = to_crlf(chunks)
        stream: AsyncFileIO | None = None
        writing: asyncio.Future[None] | None = None
        written = 0
        try:
            async for block, size in iter_blocks(chunks):
                if not stream and size < BLOCK and size + self._to.held < _MOST_HELD:
                    staged.held[number] = b"".join(block)
                    self._to.held += size
                    return  # only the last is shorter than a block
                stream = stream or await self._open(number)
                if writing:
                    await self._to.offload.end(writing)
                writing = self._to.offload.begin(_write, stream.fileno(), block, staged.digest(number))
                written += size
                del block  # many big files at once: none keeps more than it collects
            if stream and writing:
                await self._to.offload.end(writing)
                writing = None
                await self._to.offload.run(staged.finish, number, stream.fileno(), written)
        finally:
            if writing:
                with suppress(DestinationError):
                    await self._to.offload.end(writing)
            if stream:
                with anyio.CancelScope(shield=True), self._to.offload.map_errors():
                    await stream.close()

    async def _open(self, number: int) -> AsyncFileIO:
        self._staged.begun.add(number)
        with anyio.CancelScope(shield=True), self._to.offload.map_errors():
            return await aiofiles.open(
                self._staged.name(number),
                "wb",
                buffering=0,
                opener=self._to.place.create,
                executor=self._to.offload.executor,
            )
        raise AssertionError  # a shielded scope swallows nothing


def _write(fd: int, block: list[bytes], digest: "hashlib._Hash | None") -> None:
    if digest:
        for piece in block:
            digest.update(piece)
    fs.write_all(fd, block)


def _process_exists(pid: int) -> bool:
    """Whether a process runs on this machine; unsure means yes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
