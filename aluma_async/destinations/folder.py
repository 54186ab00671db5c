"""``FolderDestination``: files in a folder. Write beside, sync, rename together, sync the folders.

A final name appears only with complete, synced content. What is on its way stays below ``.aluma-async`` in
the same folder. It does not delete what a task delivered once and does not deliver any more.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO

from aluma_async.destinations import disk
from aluma_async.destinations.owners import Owners
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import OWN_FOLDER, Parts, collision_key, owner_suffix, plan, with_suffix

P = ParamSpec("P")
T = TypeVar("T")

BLOCK = 1024 * 1024
"""Bytes that are collected before they are written; a file of at most this is written in one step."""


class FolderDestination:
    """A folder on this machine.

    ``newline="crlf"`` turns the line ends of texts (not of downloads). ``on_conflict`` says what becomes
    of a file whose name another task's file has. ``durability="rename"`` leaves out the syncing: a
    power loss may then cost files that Aluma has already deleted. Blocking steps run on ``executor``.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        newline: Literal["keep", "crlf"] = "keep",
        on_conflict: Literal["keep-both", "overwrite", "fail"] = "keep-both",
        durability: Literal["full", "rename"] = "full",
        executor: Executor | None = None,
    ) -> None:
        self.root = Path(path)
        self.crlf = newline == "crlf"
        self.on_conflict = on_conflict
        self.sync = durability == "full"
        self.executor = executor
        self.owners = Owners(self.root / OWN_FOLDER / "owners.sqlite3")
        # Whose staging folders these are: a later run on this host may sweep those of a process that is gone.
        self._staging = self.root / OWN_FOLDER / "staging"
        self._prefix = f"{socket.gethostname().split('.')[0]}-{os.getpid()}"
        self._numbers = count(1)

    async def probe(self) -> None:
        """Make what is missing, sweep what crashed runs left, and write a file to see whether that goes."""
        await self.hop(self._probe)

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["FolderDelivery"]:
        """Begin to deliver a claim's files."""
        delivery = FolderDelivery(self, claim, self._staging / f"{self._prefix}-{id(self):x}-{next(self._numbers)}")
        try:
            yield delivery
            await self.hop(delivery.publish)
        except BaseException:
            await self.hop(delivery.discard)
            raise

    def close(self) -> None:
        """Close the record of owners."""
        self.owners.close()

    async def hop(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking step in a thread and turn its error into ours.

        It is awaited even if the caller is cancelled: a thread goes on whether or not somebody waits for it.
        """
        with anyio.CancelScope(shield=True), self.told():
            return await asyncio.get_running_loop().run_in_executor(self.executor, partial(step, *args, **kwargs))
        raise AssertionError  # a shielded scope swallows nothing

    def told(self) -> "_Told":
        """The one place where the errors of the operating system become ours."""
        return _Told(self.root)

    def _probe(self) -> None:
        self._staging.mkdir(parents=True, exist_ok=True, mode=disk.FOLDER_MODE)
        for left in self._staging.iterdir():
            if self._is_orphan(left.name):
                left.unlink(missing_ok=True)
        trial = self._staging / f"{self._prefix}-{id(self):x}.probe"
        disk.write_file(trial, b"aluma-async was here", sync=self.sync)
        trial.unlink()

    def _is_orphan(self, name: str) -> bool:
        host = self._prefix.rpartition("-")[0] + "-"
        pid = name.removeprefix(host).partition("-")[0]
        return name.startswith(host) and pid.isdigit() and not _alive(int(pid))


class FolderDelivery:
    """The files of one claim: staged below ``.aluma-async``, then renamed together."""

    def __init__(self, destination: FolderDestination, claim: Claim, prefix: Path) -> None:
        self._to = destination
        self._claim = claim
        self._prefix = prefix
        self._begun: dict[int, Path] = {}
        self._held: dict[int, bytes] = {}  # small files, written when the task is published: one hop instead of many
        self._staged: set[int] = set()

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file: a small one in memory as long as there is room, a big one a MiB at a time."""
        self._staged.discard(file.number)
        self._held.pop(file.number, None)
        staged = self._begun[file.number] = self._prefix.with_name(f"{self._prefix.name}-{file.number}.part")
        if self._to.crlf and file.source == "content":
            chunks = _crlf(chunks)
        stream: AsyncFileIO | None = None
        size = 0
        try:
            async for block in _blocks(chunks):
                if stream is None and len(block) + sum(map(len, self._held.values())) < BLOCK:
                    self._held[file.number] = block  # the only one, as only the last is shorter than a whole one
                    continue
                stream = stream or await self._open(staged)
                size += await self._write(stream, block)
                del block  # many big files at once: none keeps more than it collects
            if stream is not None:
                await self._to.hop(disk.sync_file, stream.fileno(), size, sync=self._to.sync)
        finally:
            if stream is not None:
                with anyio.CancelScope(shield=True), self._to.told():
                    await stream.close()
        self._staged.add(file.number)

    async def _open(self, staged: Path) -> AsyncFileIO:
        with anyio.CancelScope(shield=True), self._to.told():
            return await aiofiles.open(staged, "wb", buffering=0, executor=self._to.executor)
        raise AssertionError  # a shielded scope swallows nothing

    async def _write(self, stream: AsyncFileIO, block: bytes) -> int:
        with anyio.CancelScope(shield=True), self._to.told():
            rest = memoryview(block)
            while rest:
                rest = rest[await stream.write(rest) :]
        return len(block)

    def publish(self) -> None:
        """Give all files their final names; blocking, in one step."""
        root, sync = self._to.root, self._to.sync
        missing = [file.number for file in self._claim.spec.files if file.number not in self._staged]
        if missing:
            raise DestinationError(f"task {self._claim.task.id}: file {missing[0]} was never saved")
        for number, block in self._held.items():
            disk.write_file(self._begun[number], block, sync=sync)
        moves: dict[str, tuple[Path, Parts]] = {}  # by collision key: no two files of a task may end in one place
        with self._to.owners.transaction():
            for file, wanted in zip(self._claim.spec.files, plan(self._claim.spec.files), strict=True):
                parts = self._place(wanted, file, taken=moves.keys())
                moves[collision_key(parts)] = self._begun[file.number], parts
        touched: dict[Path, None] = {}  # in order: a folder is synced before the one that holds it matters
        for _, parts in moves.values():
            touched.update(dict.fromkeys(disk.make_folders(root, parts[:-1])))
        for staged, parts in moves.values():
            target = root.joinpath(*parts)
            os.replace(staged, target)  # noqa: PTH105 - no Path in the hot path
            touched[target.parent] = None
        if sync:
            for folder in touched:
                disk.sync_folder(folder)

    def discard(self) -> None:
        """Remove what was staged; blocking."""
        for staged in self._begun.values():
            staged.unlink(missing_ok=True)

    def _place(self, wanted: Parts, file: ExportFile, taken: Collection[str]) -> Parts:
        """Find the path that a file may be given."""
        task_id = self._claim.task.id
        if self._to.on_conflict == "overwrite" or self._is_ours(wanted, file, taken):
            return wanted
        if self._to.on_conflict == "fail":
            raise DestinationError(
                f"task {task_id}: another task's file has the name of file {file.number}",
                hint='on_conflict = "keep-both" keeps both.',
            )
        suffix = owner_suffix(task_id)
        for number in count(1):
            parts = with_suffix(wanted, suffix if number == 1 else f"{suffix}~{number}")
            if self._is_ours(parts, file, taken):
                return parts
        raise AssertionError  # count() does not end

    def _is_ours(self, parts: Parts, file: ExportFile, taken: Collection[str]) -> bool:
        """Whether a file may go there: where its task wrote before, where nothing is, or the same bytes as nobody's."""
        key, target = collision_key(parts), self._to.root.joinpath(*parts)
        if key in taken or (target.is_dir() and not target.is_symlink()):
            return False
        owner = self._to.owners.of(key)
        if owner is None:
            if os.path.lexists(target) and not disk.same_content(self._begun[file.number], target):
                return False
            self._to.owners.take(key, self._claim.task.id)
        return owner in (None, self._claim.task.id)


class _Told:
    """Turns an ``OSError`` inside the block into a ``DestinationError``."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        why = error.strerror or str(error)
        if error.errno in disk.UNAVAILABLE or not (self._root / OWN_FOLDER).is_dir():
            raise DestinationUnavailable(
                f"folder {self._root}: {why}", hint="Is it there, writable, and is there space left?"
            ) from error
        raise DestinationError(f"folder {self._root}: {why}") from error


def _alive(pid: int) -> bool:
    """Whether a process runs on this machine; unsure means yes."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


async def _blocks(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Collect chunks into blocks of at least ``BLOCK`` bytes; the last one is shorter, and may be empty."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= BLOCK:
            block = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting, size = [], 0
            yield block
            del block
    yield b"".join(waiting)


async def _crlf(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    r"""Turn each ``\n`` that has no ``\r`` before it into ``\r\n``."""
    last = b""
    async for chunk in chunks:
        text = (last + chunk).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        last, body = (b"\r", text[:-1]) if text.endswith(b"\r") else (b"", text)
        yield body
    if last:
        yield last
