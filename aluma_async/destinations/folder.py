"""``FolderDestination``: files in a folder. Write beside, sync, rename together, sync the folders.

A final name appears only with complete, synced content. What is on its way stays below ``.aluma-async`` in
the same folder. It does not delete what a task delivered once and does not deliver any more.
"""

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO

from aluma_async.destinations import disk
from aluma_async.destinations.blocks import BLOCK, blocks, crlf
from aluma_async.destinations.conflicts import OnConflict
from aluma_async.destinations.manifest import Stored, manifest, manifest_file
from aluma_async.destinations.owners import Owners
from aluma_async.destinations.places import Place, Places
from aluma_async.destinations.root import Root, Tree
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import Parts, plan
from aluma_async.rounds import Rounds

P = ParamSpec("P")
T = TypeVar("T")

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
        self.place = Root(self.root, mounts)
        self.crlf = newline == "crlf"
        self.on_conflict = on_conflict
        self.sync = durability == "full"
        self.manifest, self.now = manifest, now
        self.executor = executor
        self.owners = Owners(self.place.own / "owners.sqlite3")
        self.held = 0
        """Bytes that wait in memory."""
        self.kept: set[str] = set()
        """Names of the files that are kept for a later attempt."""
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
            if delivery.may_be_kept():
                await self.hop(delivery.take_back)
            yield delivery
            await self._publish(delivery)
        except Exception:
            await self.hop(delivery.discard)
            raise
        except BaseException:  # out of time, or stopped: nothing is wrong with what was finished
            await self.hop(delivery.keep)
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
        with anyio.CancelScope(shield=True):  # others may be writing our files
            await self._rounds.join()
        if not delivery.published:
            with self.told():
                raise delivery.error or DestinationError(f"folder {self.root}: the files were not published")

    async def _publish_waiting(self) -> None:
        batch, self._waiting = self._waiting, []
        await self.hop(self._publish_all, batch)

    def _publish_all(self, batch: Sequence["FolderDelivery"]) -> None:
        """Blocking. What goes wrong with one of them is that one's error; with what they share, everybody's."""
        try:
            with self.place.open(sync=self.sync) as tree:
                _each(batch, lambda delivery: delivery.write(tree))
                _each(batch, FolderDelivery.finish)
                with self.owners.transaction([key for delivery in batch for key in delivery.plan()]):
                    _each(batch, lambda delivery: delivery.find_places(tree))
                _each(batch, lambda delivery: delivery.give_names(tree))
            if self.manifest:
                with self.place.open(sync=self.sync) as tree:
                    _each(batch, lambda delivery: delivery.give_manifest(tree))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            for delivery in batch:
                delivery.error = delivery.error or error
        for delivery in batch:
            delivery.close()
            delivery.published = delivery.error is None

    def _probe(self) -> None:
        if not self.place.is_there():
            self.owners.close()  # an open file lives on without a folder, and would go on to answer
        self.place.make()
        self.kept = self.place.kept()
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
        self._begun: set[int] = set()  # what may be on the disk
        self._held: dict[int, bytes] = {}  # small files, written when the task is published: one step instead of many
        self._written: dict[int, int] = {}  # by number: the descriptor, as long as it is not durable
        self._staged: dict[int, int] = {}  # by number: the inode
        self._kept: dict[int, int] = {}  # by number: the size of what an earlier attempt staged
        self._all: Sequence[ExportFile] = ()  # the manifest included
        self._planned: Mapping[str, Parts] = {}
        self._places: list[Place] = []
        self._hashes: dict[int, hashlib._Hash] = {}  # of what is on the disk, if there will be a manifest
        self._sizes: dict[int, int] = {}

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file: a small one in memory as long as there is room, a big one a MiB at a time."""
        self._let_go(file.number)
        if self._to.crlf and file.source == "content":
            chunks = crlf(chunks)
        stream: AsyncFileIO | None = None
        writing: asyncio.Future[None] | None = None
        size = 0
        try:
            async for block, length in blocks(chunks):
                if stream is None and length < BLOCK and length + self._to.held < _MOST_HELD:
                    self._held[file.number] = b"".join(block)  # the only one: only the last is shorter than a block
                    self._to.held += length
                    continue
                stream = stream or await self._open(file)
                if writing:
                    await self._to.end(writing)
                digest = self._hashes.setdefault(file.number, hashlib.sha256()) if self._to.manifest else None
                writing = self._to.begin(_write, stream.fileno(), block, digest)  # while the next ones are read
                size += length
                del block  # many big files at once: none keeps more than it collects
            if stream and writing:
                await self._to.end(writing)
                writing = None
                self._staged[file.number] = await self._to.hop(
                    disk.finish_file, stream.fileno(), size, sync=self._to.sync
                )
                self._sizes[file.number] = size
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

    def plan(self) -> list[str]:
        """Say where all files should go; return what these paths are known by."""
        self._all = (*self._claim.spec.files, *([manifest_file(self._claim)] if self._to.manifest else []))
        self._planned = plan(self._all)
        return list(self._planned)

    def find_places(self, tree: Tree) -> None:
        """Find the path that each file may be given, and let no other task have it."""
        places = Places(tree, self._to.owners, self._to.on_conflict, self._claim.task.id)
        self._places = places.find(self._all, self._planned, self._name)

    def give_names(self, tree: Tree) -> None:
        """Give all files their final names, or none a new one."""
        done: list[Place] = []
        try:
            for place in self._places[: len(self._claim.spec.files)]:
                self._give_name(tree, place, self._staged[place.number])
                done.append(place)
                tree.rest()
        except OSError:
            self._take_back_names(tree, done)
            raise

    def give_manifest(self, tree: Tree) -> None:
        """Write the manifest and give it its name, or leave no file a new one."""
        *places, last = self._places
        stored = []
        for file, place in zip(self._claim.spec.files, places, strict=True):
            held = self._held.get(file.number)
            digest = self._hashes[file.number] if held is None else hashlib.sha256(held)
            size = self._sizes[file.number] if held is None else len(held)
            stored.append(Stored(file, "/".join(place.parts), size, digest.hexdigest()))
        data = manifest(self._claim, stored, self._to.now())
        try:
            self._begun.add(last.number)
            fd = disk.write_file(tree.staging, last.staged, data, sync=self._to.sync)
            try:
                inode = disk.finish_file(fd, len(data), sync=self._to.sync)
            finally:
                os.close(fd)
            self._give_name(tree, last, inode)
        except OSError:
            self._take_back_names(tree, places)
            raise

    def _give_name(self, tree: Tree, place: Place, inode: int) -> None:
        folder, final = place.parts[:-1], place.parts[-1]
        disk.rename(tree.staging, place.staged, tree.enter(folder), final, inode=inode)
        tree.changed(folder)

    def _take_back_names(self, tree: Tree, places: Iterable[Place]) -> None:
        for place in places:
            if place.new:
                disk.remove(tree.enter(place.parts[:-1]), place.parts[-1])

    def may_be_kept(self) -> bool:
        """Whether an earlier attempt may have left files."""
        return bool(self._to.kept) and any(
            self._kept_name(file.number) in self._to.kept for file in self._claim.spec.files
        )

    def kept(self, file: ExportFile) -> int | None:
        """The size of a file that an earlier attempt at this very specification finished."""
        return self._kept.get(file.number)

    def take_back(self) -> None:
        """Stage what an earlier attempt finished."""
        for file in self._claim.spec.files:
            name = self._kept_name(file.number)
            if name in self._to.kept and (found := self._to.place.take_back(name, self._name(file.number))):
                self._begun.add(file.number)
                self._staged[file.number], self._kept[file.number] = found.st_ino, found.st_size
                if self._to.manifest:
                    with self._to.place.open(sync=False) as tree:
                        self._hashes[file.number] = disk.digest(tree.staging, self._name(file.number))
                    self._sizes[file.number] = found.st_size
            self._to.kept.discard(name)

    def keep(self) -> None:
        """Put the big files that are finished aside for a later attempt, and remove the rest."""
        with suppress(OSError):
            for number in self._begun & self._staged.keys() - self._held.keys():
                self._to.place.keep(self._name(number), self._kept_name(number))
                self._to.kept.add(self._kept_name(number))
                self._begun.discard(number)
        self.discard()

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
        self._kept.pop(number, None)
        self._hashes.pop(number, None)
        self._to.held -= len(self._held.pop(number, b""))

    @cached_property
    def _digest(self) -> str:
        """What names the specification: another one may have other files under the same numbers."""
        task, spec = self._claim.task, self._claim.spec
        names = "\0".join((task.id, *(text for file in spec.files for text in (file.folder, file.filename, file.url))))
        return hashlib.sha256(names.encode(errors="surrogatepass") + b"\0" + spec.received).hexdigest()[:32]

    def _kept_name(self, number: int) -> str:
        return f"{self._digest}-{number}"

    def _name(self, number: int) -> str:
        return f"{self._prefix}-{number}.part"

    async def _open(self, file: ExportFile) -> AsyncFileIO:
        self._begun.add(file.number)
        with anyio.CancelScope(shield=True), self._to.told():
            return await aiofiles.open(
                self._name(file.number), "wb", buffering=0, opener=self._to.place.create, executor=self._to.executor
            )
        raise AssertionError  # a shielded scope swallows nothing


def _write(fd: int, block: list[bytes], digest: "hashlib._Hash | None") -> None:
    if digest:
        for piece in block:
            digest.update(piece)
    disk.write_pieces(fd, block)


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
