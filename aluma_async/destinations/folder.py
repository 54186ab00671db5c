"""``FolderDestination``: files in a folder. Write beside, sync, rename together, sync the folders.

A final name appears only with complete, synced content. What is on its way stays below ``.aluma-async`` in
the same folder. It does not delete what a task delivered once and does not deliver any more.
"""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO

from aluma_async.destinations import disk
from aluma_async.destinations.owners import Owners
from aluma_async.destinations.root import Root, Tree
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import Parts, collision_key, owner_suffix, plan, with_suffix
from aluma_async.rounds import Rounds

P = ParamSpec("P")
T = TypeVar("T")

BLOCK = 1024 * 1024
"""Bytes that are collected before they are written; a file of at most this is written in one step."""
_MOST_HELD = 64 * 1024 * 1024
"""Bytes of small files of all tasks that wait in memory to be written."""
_MOST_OPEN = 16
"""Small files of one task that are written before they are waited for."""
_HOPS = 4
"""Batches that are published at once where each waits for the disk: a file system merges their syncs."""


class FolderDestination:
    """A folder on this machine.

    ``newline="crlf"`` turns the line ends of texts (not of downloads). ``on_conflict`` says what becomes
    of a file whose name another task's file has. ``durability="rename"`` leaves out the syncing: a
    power loss may then cost files that Aluma has already deleted. Blocking steps run on ``executor``.
    ``mounts`` is a folder elsewhere that outlives the process: with it, a share that is not mounted is
    told from a new folder even at the start.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        newline: Literal["keep", "crlf"] = "keep",
        on_conflict: Literal["keep-both", "overwrite", "fail"] = "keep-both",
        durability: Literal["full", "rename"] = "full",
        executor: Executor | None = None,
        mounts: Path | None = None,
    ) -> None:
        self.root = Path(path)
        self.place = Root(self.root, mounts)
        self.crlf = newline == "crlf"
        self.on_conflict = on_conflict
        self.sync = durability == "full"
        self.executor = executor
        self.owners = Owners(self.place.own / "owners.sqlite3")
        self.held = 0
        """Bytes that wait in memory."""
        # Whose staged files these are: a later run on this host may sweep those of a process that is gone.
        self._prefix = f"{socket.gethostname().split('.')[0]}-{os.getpid()}"
        self._numbers = count(1)
        self._waiting: list[FolderDelivery] = []
        self._rounds = Rounds(self._publish_waiting, at_once=_HOPS if self.sync else 1)

    async def probe(self) -> None:
        """Make what is missing, sweep what crashed runs left, and write a file to see whether that goes."""
        await self.hop(self._probe)

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["FolderDelivery"]:
        """Begin to deliver a claim's files."""
        delivery = FolderDelivery(self, claim, f"{self._prefix}-{id(self):x}-{next(self._numbers)}")
        try:
            yield delivery
            await self._publish(delivery)
        except BaseException:
            await self.hop(delivery.discard)
            raise
        finally:
            delivery.release()

    def close(self) -> None:
        """Close the record of owners."""
        self.owners.close()

    async def hop(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking step in a thread and turn its error into ours.

        It is awaited even if the caller is cancelled: a thread goes on whether or not somebody waits for it.
        """
        return await self.end(self.begin(step, *args, **kwargs))

    def begin(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """Begin a blocking step in a thread; ``end`` has to follow."""
        return asyncio.get_running_loop().run_in_executor(self.executor, partial(step, *args, **kwargs))

    async def end(self, begun: "asyncio.Future[T]") -> T:
        """Wait for a step that was begun, and turn its error into ours."""
        with anyio.CancelScope(shield=True), self.told():
            return await begun
        raise AssertionError  # a shielded scope swallows nothing

    @contextmanager
    def told(self) -> Iterator[None]:
        """The one place where the errors of the operating system become ours."""
        try:
            yield
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in disk.UNAVAILABLE or not self.place.is_there():
                raise DestinationUnavailable(
                    f"folder {self.root}: {why}", hint="Is it there, writable, and is there space left?"
                ) from error
            raise DestinationError(f"folder {self.root}: {why}") from error

    async def _publish(self, delivery: "FolderDelivery") -> None:
        """Publish a delivery, together with all others that wait by then: one step in a thread for many."""
        self._waiting.append(delivery)
        await self._rounds.join()
        if not delivery.published:
            with self.told():
                raise delivery.error or DestinationError(f"folder {self.root}: the files were not published")

    async def _publish_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        await asyncio.get_running_loop().run_in_executor(self.executor, self._publish_all, batch)

    def _publish_all(self, batch: Sequence["FolderDelivery"]) -> None:
        """Blocking. What goes wrong with one of them is that one's error; with what they share, everybody's."""
        try:
            with self.place.open(sync=self.sync) as tree:
                _each(batch, lambda delivery: delivery.write(tree))
                _each(batch, FolderDelivery.finish)
                with self.owners.transaction():
                    _each(batch, lambda delivery: delivery.find_places(tree))
                _each(batch, lambda delivery: delivery.give_names(tree))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            for delivery in batch:
                delivery.error = delivery.error or error
        for delivery in batch:
            delivery.close()
            delivery.published = delivery.error is None

    def _probe(self) -> None:
        self.place.make()
        with self.place.open(sync=False) as tree:
            for name in os.listdir(tree.staging):  # noqa: PTH208 - Path knows no descriptors
                if self._is_orphan(name):
                    disk.remove(tree.staging, name)
            trial = f"{self._prefix}-{id(self):x}.probe"
            data = b"aluma-async was here"
            fd = disk.write_file(tree.staging, trial, data, sync=self.sync)
            try:
                disk.finish_file(fd, len(data), sync=self.sync)
            finally:
                os.close(fd)
            disk.remove(tree.staging, trial)

    def _is_orphan(self, name: str) -> bool:
        host = self._prefix.rpartition("-")[0] + "-"
        pid = name.removeprefix(host).partition("-")[0]
        return name.startswith(host) and pid.isdigit() and not _alive(int(pid))


class FolderDelivery:
    """The files of one claim: staged below ``.aluma-async``, then renamed together."""

    def __init__(self, destination: FolderDestination, claim: Claim, prefix: str) -> None:
        self.published = False
        self.error: Exception | None = None
        self._to = destination
        self._claim = claim
        self._prefix = prefix
        self._begun: set[int] = set()
        self._held: dict[int, bytes] = {}  # small files, written when the task is published: one step instead of many
        self._written: dict[int, int] = {}  # by number: the descriptor, as long as it is not durable
        self._staged: dict[int, int] = {}  # by number: the inode
        self._places: dict[str, _Place] = {}  # by collision key: no two files of a task may end in one place

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file: a small one in memory as long as there is room, a big one a MiB at a time."""
        self._let_go(file.number)
        self._begun.discard(file.number)
        if self._to.crlf and file.source == "content":
            chunks = _crlf(chunks)
        stream: AsyncFileIO | None = None
        writing: asyncio.Future[None] | None = None
        size = 0
        try:
            async for block, length in _blocks(chunks):
                if stream is None and length < BLOCK and length + self._to.held < _MOST_HELD:
                    self._held[file.number] = b"".join(block)  # the only one: only the last is shorter than a block
                    self._to.held += length
                    continue
                stream = stream or await self._open(file)
                if writing:
                    await self._to.end(writing)
                writing = self._to.begin(disk.write_pieces, stream.fileno(), block)  # while the next ones are read
                size += length
                del block  # many big files at once: none keeps more than it collects
            if stream and writing:
                await self._to.end(writing)
                writing = None
                self._staged[file.number] = await self._to.hop(
                    disk.finish_file, stream.fileno(), size, sync=self._to.sync
                )
        finally:
            if writing:
                with suppress(DestinationError):
                    await self._to.end(writing)
            if stream is not None:
                with anyio.CancelScope(shield=True), self._to.told():
                    await stream.close()

    def write(self, tree: Tree) -> None:
        """Write what waits in memory; blocking, as are all that follow."""
        for file in self._claim.spec.files:
            if (block := self._held.get(file.number)) is not None:
                self._begun.add(file.number)
                self._written[file.number] = disk.write_file(
                    tree.staging, self._name(file.number), block, sync=self._to.sync
                )
                if len(self._written) >= _MOST_OPEN:
                    self.finish()
            elif file.number not in self._staged:
                raise DestinationError(f"task {self._claim.task.id}: file {file.number} was never saved")

    def finish(self) -> None:
        """Make durable what was written."""
        for number, fd in self._written.items():
            self._staged[number] = disk.finish_file(fd, len(self._held[number]), sync=self._to.sync)
        self.close()

    def close(self) -> None:
        """Close what was written, durable or not."""
        while self._written:
            os.close(self._written.popitem()[1])

    def find_places(self, tree: Tree) -> None:
        """Find the path that each file may be given, and let no other task have it."""
        for file, wanted in zip(self._claim.spec.files, plan(self._claim.spec.files), strict=True):
            parts, new = self._place(tree, wanted, file)
            self._places[collision_key(parts)] = _Place(file.number, parts, new)
            tree.rest()
        tree.planned.update(place.parts for place in self._places.values())

    def give_names(self, tree: Tree) -> None:
        """Give all files their final names, or none a new one."""
        done: list[_Place] = []
        try:
            for place in self._places.values():
                folder, final = place.parts[:-1], place.parts[-1]
                inode = self._staged[place.number]
                disk.rename(tree.staging, self._name(place.number), tree.enter(folder), final, inode=inode)
                tree.changed(folder)
                done.append(place)
                tree.rest()
        except OSError:
            for place in done:
                if place.new:
                    disk.remove(tree.enter(place.parts[:-1]), place.parts[-1])
            raise

    def discard(self) -> None:
        """Remove what was staged."""
        if self._begun:
            with suppress(OSError, DestinationError), self._to.place.open(sync=False) as tree:
                for number in self._begun:
                    disk.remove(tree.staging, self._name(number))

    def release(self) -> None:
        """Give back the room in memory."""
        for number in list(self._held):
            self._let_go(number)

    def _let_go(self, number: int) -> None:
        self._staged.pop(number, None)
        self._to.held -= len(self._held.pop(number, b""))

    def _name(self, number: int) -> str:
        return f"{self._prefix}-{number}.part"

    async def _open(self, file: ExportFile) -> AsyncFileIO:
        self._begun.add(file.number)
        with anyio.CancelScope(shield=True), self._to.told():
            return await aiofiles.open(
                self._name(file.number), "wb", buffering=0, opener=self._to.place.create, executor=self._to.executor
            )
        raise AssertionError  # a shielded scope swallows nothing

    def _place(self, tree: Tree, wanted: Parts, file: ExportFile) -> tuple[Parts, bool]:
        """Find the path that a file may be given; also whether nothing is there yet."""
        folder: Parts = ()
        for part in wanted[:-1]:
            for (name,) in self._candidates((part,), file):
                try:
                    tree.enter((*folder, name))
                except FileExistsError:  # a file has the folder's name
                    continue
                folder = (*folder, name)
                break
        for parts in self._candidates((*folder, wanted[-1]), file):
            there = disk.look(tree.enter(folder), parts[-1])
            if self._is_ours(tree, parts, file, there):
                return parts, there is None
        raise AssertionError  # the candidates do not end

    def _candidates(self, wanted: Parts, file: ExportFile) -> Iterator[Parts]:
        """The paths that a file, or its folder, may be given, the best first."""
        yield wanted
        if self._to.on_conflict == "fail":
            raise DestinationError(
                f"task {self._claim.task.id}: the name of file {file.number} belongs to another",
                hint='on_conflict = "keep-both" keeps both.',
            )
        suffix = owner_suffix(self._claim.task.id)
        for number in count(1):
            yield with_suffix(wanted, suffix if number == 1 else f"{suffix}~{number}")

    def _is_ours(self, tree: Tree, parts: Parts, file: ExportFile, there: os.stat_result | None) -> bool:
        """Whether a file may go there: where its task wrote before, where nothing is, or the same bytes as nobody's."""
        key = collision_key(parts)
        if key in self._places or (there and stat.S_ISDIR(there.st_mode)):
            return False
        if self._to.on_conflict == "overwrite":
            return True
        owner = self._to.owners.of(key)
        if owner is None:
            target = (tree.enter(parts[:-1]), parts[-1])
            if there and not disk.same_content((tree.staging, self._name(file.number)), target):
                return False
            self._to.owners.take(key, self._claim.task.id)
        return owner in (None, self._claim.task.id)


class _Place(NamedTuple):
    """Where a file goes."""

    number: int
    parts: Parts
    new: bool
    """Whether nothing was there."""


def _each(batch: Sequence[FolderDelivery], step: Callable[[FolderDelivery], None]) -> None:
    """Take a step with all of a batch to which nothing has happened yet."""
    for delivery in batch:
        if not delivery.error:
            try:
                step(delivery)
            except (OSError, DestinationError) as error:
                delivery.error = error


def _alive(pid: int) -> bool:
    """Whether a process runs on this machine; unsure means yes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


async def _blocks(chunks: AsyncIterable[bytes]) -> AsyncIterator[tuple[list[bytes], int]]:
    """Collect chunks into blocks of at least ``BLOCK`` bytes, with their size; the last is shorter, and may be empty."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= BLOCK:
            block, waiting, length, size = waiting, [], size, 0
            yield block, length
            del block
    yield waiting, size


async def _crlf(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    r"""Turn each ``\n`` that has no ``\r`` before it into ``\r\n``."""
    last = b""
    async for chunk in chunks:
        text = (last + chunk).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        last, body = (b"\r", text[:-1]) if text.endswith(b"\r") else (b"", text)
        yield body
    if last:
        yield last
