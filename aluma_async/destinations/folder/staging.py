"""``Staged``: the files of one claim below ``.aluma-async``, and ``publish``, which gives those of many their names.

A task has all its files under their names, or none a new one. Blocking, all of it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import NamedTuple

from aluma_async.destinations.common.manifest import StoredFile, manifest_file, render_manifest
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.owners import Owners
from aluma_async.destinations.folder.placement import PathAllocator, Placement
from aluma_async.destinations.folder.root import OpenFolders, RootFolder
from aluma_async.exceptions import DestinationError
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import OnConflict, PathParts, plan_paths

_MOST_OPEN = 16
"""Small files of one task that are written before they are waited for."""


class FolderSettings(NamedTuple):
    """Where files go, and how."""

    place: RootFolder
    owners: Owners
    on_conflict: OnConflict
    sync: bool
    manifest: bool
    now: Callable[[], float]


class StagedTask:
    """What a claim has staged so far, by the files' numbers; ``prefix`` begins the names of its files alone."""

    def __init__(self, folder: FolderSettings, claim: Claim, prefix: str) -> None:
        self.published = False
        self.error: Exception | None = None
        self.held: dict[int, bytes] = {}
        """Small files, written when the task is published: one step instead of many."""
        self.begun: set[int] = set()
        """What may be on the fs."""
        self.kept: dict[int, int] = {}
        """The sizes of what an earlier attempt staged."""
        self._folder = folder
        self._claim = claim
        self._prefix = prefix
        self._open: dict[int, int] = {}  # what was written and is not durable yet: the descriptor
        self._inodes: dict[int, int] = {}  # of what is durable
        self._all: Sequence[ExportFile] = ()  # the manifest included
        self._planned: Mapping[str, PathParts] = {}
        self._places: list[Placement] = []
        self._hashes: dict[int, hashlib._Hash] = {}  # of what is on the disk, if there will be a manifest
        self._sizes: dict[int, int] = {}

    def name(self, number: int) -> str:
        """What a file is called until it is published."""
        return f"{self._prefix}-{number}.part"

    def digest(self, number: int) -> "hashlib._Hash | None":
        """What the bytes of a file are to be fed to, if anything."""
        return self._hashes.setdefault(number, hashlib.sha256()) if self._folder.manifest else None

    def finish(self, number: int, fd: int, size: int) -> None:
        """Make a file durable of which ``size`` bytes were written."""
        self._inodes[number] = fs.fsync_checked(fd, size, sync=self._folder.sync)
        self._sizes[number] = size

    def forget(self, number: int) -> None:
        """Begin anew with a file."""
        self.held.pop(number, None)
        self.kept.pop(number, None)
        self._inodes.pop(number, None)
        self._hashes.pop(number, None)

    # -- steps of ``publish``

    def write(self, tree: OpenFolders) -> None:
        """Write what waits in memory."""
        for file in self._claim.spec.files:
            number = file.number
            if (data := self.held.get(number)) is not None:
                self.begun.add(number)
                self._open[number] = fs.write_file(tree.staging, self.name(number), data, sync=self._folder.sync)
                if len(self._open) >= _MOST_OPEN:
                    self.finish_all()
            elif number not in self._inodes:
                raise DestinationError(f"task {self._claim.task.id}: file {number} was never saved")

    def finish_all(self) -> None:
        """Make durable what was written."""
        for number, fd in self._open.items():
            self.finish(number, fd, len(self.held[number]))
        self.close()

    def close(self) -> None:
        """Close what was written, durable or not."""
        while self._open:
            os.close(self._open.popitem()[1])

    def plan(self) -> Iterable[str]:
        """Say where all files should go; return what these paths are known by."""
        files = self._claim.spec.files
        self._all = (*files, manifest_file(self._claim)) if self._folder.manifest else files
        self._planned = plan_paths(self._all)
        return self._planned

    def find_places(self, tree: OpenFolders) -> None:
        """Find the path that each file may be given, and let no other task have it."""
        places = PathAllocator(tree, self._folder.owners, self._folder.on_conflict, self._claim.task.id)
        self._places = places.find(self._all, self._planned, self.name)

    def give_names(self, tree: OpenFolders) -> None:
        """Give all files their final names, or none a new one."""
        done: list[Placement] = []
        try:
            for place in self._places[: len(self._claim.spec.files)]:
                _give_name(tree, place, self._inodes[place.number])
                done.append(place)
                tree.rest()
        except OSError:
            _roll_back(tree, done)
            raise

    def give_manifest(self, tree: OpenFolders) -> None:
        """Write the manifest and give it its name, or leave no file a new one."""
        *places, last = self._places
        stored = []
        for file, place in zip(self._claim.spec.files, places, strict=True):
            held = self.held.get(file.number)
            digest = self._hashes[file.number] if held is None else hashlib.sha256(held)
            stored.append(StoredFile(file, "/".join(place.parts), self._sizes[file.number], digest.hexdigest()))
        data = render_manifest(self._claim, stored, self._folder.now())
        try:
            self.begun.add(last.number)
            fd = fs.write_file(tree.staging, last.staged, data, sync=self._folder.sync)
            try:
                inode = fs.fsync_checked(fd, len(data), sync=self._folder.sync)
            finally:
                os.close(fd)
            _give_name(tree, last, inode)
        except OSError:
            _roll_back(tree, places)
            raise

    # -- steps that begin and end a delivery

    def may_be_kept(self) -> bool:
        """Whether an earlier attempt may have left files."""
        return any(self._kept_name(file.number) in self._folder.place.kept for file in self._claim.spec.files)

    def take_back(self) -> None:
        """Stage what an earlier attempt at this very specification finished."""
        for file in self._claim.spec.files:
            number = file.number
            if found := self._folder.place.take_back(self._kept_name(number), self.name(number)):
                self.begun.add(number)
                self._inodes[number], self._sizes[number] = found.st_ino, found.st_size
                if self._folder.manifest:
                    with self._folder.place.open(sync=False) as tree:
                        self._hashes[number] = fs.digest(tree.staging, self.name(number))
                self.kept[number] = found.st_size

    def keep(self) -> None:
        """Put the big files that are finished aside for a later attempt, and remove the rest."""
        with suppress(OSError):
            for number in self.begun & self._inodes.keys() - self.held.keys():
                self._folder.place.keep(self.name(number), self._kept_name(number))
                self.begun.discard(number)
        self.discard()

    def discard(self) -> None:
        """Remove what was staged."""
        if self.begun:
            with suppress(OSError, DestinationError), self._folder.place.open(sync=False) as tree:
                for number in self.begun:
                    fs.remove(tree.staging, self.name(number))

    @cached_property
    def _digest(self) -> str:
        """What names the specification: another one may have other files under the same numbers."""
        task, spec = self._claim.task, self._claim.spec
        names = "\0".join((task.id, *(text for file in spec.files for text in (file.folder, file.filename, file.url))))
        return hashlib.sha256(names.encode(errors="surrogatepass") + b"\0" + spec.received).hexdigest()[:32]

    def _kept_name(self, number: int) -> str:
        return f"{self._digest}-{number}"


def publish(folder: FolderSettings, batch: Sequence[StagedTask]) -> None:
    """Publish what many tasks have staged: what goes wrong with one is that one's error, with what they share, all's.

    Raises nothing.
    """
    try:
        with folder.place.open(sync=folder.sync) as tree:
            _each(batch, lambda staged: staged.write(tree))
            _each(batch, StagedTask.finish_all)
            with folder.owners.transaction([key for staged in batch for key in staged.plan()]):
                _each(batch, lambda staged: staged.find_places(tree))
            _each(batch, lambda staged: staged.give_names(tree))
        if folder.manifest:
            with folder.place.open(sync=folder.sync) as tree:
                _each(batch, lambda staged: staged.give_manifest(tree))
    except Exception as error:  # noqa: BLE001 - raised where it is awaited
        for staged in batch:
            staged.error = staged.error or error
    for staged in batch:
        staged.close()
        staged.published = staged.error is None


def _each(batch: Sequence[StagedTask], step: Callable[[StagedTask], None]) -> None:
    """Take a step with all of a batch to which nothing has happened yet."""
    for staged in batch:
        if not staged.error:
            try:
                step(staged)
            except (OSError, DestinationError) as error:
                staged.error = error


def _give_name(tree: OpenFolders, place: Placement, inode: int) -> None:
    folder, final = place.parts[:-1], place.parts[-1]
    fs.rename(tree.staging, place.staged, tree.enter(folder), final, inode=inode)
    tree.changed(folder)


def _roll_back(tree: OpenFolders, places: Iterable[Placement]) -> None:
    for place in places:
        if place.new:
            fs.remove(tree.enter(place.parts[:-1]), place.parts[-1])
