"""``PathAllocator``: assigns a path to each file of a task, so that no file of another task is replaced."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from aluma_async.destinations.common.conflicts import candidate_paths
from aluma_async.destinations.common.manifest import is_manifest
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.open_folders import OpenFolders
from aluma_async.destinations.folder.owners import Owners
from aluma_async.exceptions import AlreadyExported, DestinationError
from aluma_async.models import ExportFile
from aluma_async.policy.naming import OnConflict, PathParts, collision_key, fit_names


class Placement(NamedTuple):
    """The path that was assigned to a file."""

    number: int
    """The number of the file."""
    staged: str
    """Its name in the staging folder."""
    parts: PathParts
    """Its final path below the root."""
    existing: fs.FileId | None
    """The file that had this path when it was assigned, and may be replaced; None if there was none."""


class PathAllocator:
    """Assigns paths to the files of one task, inside a transaction of ``owners``."""

    def __init__(
        self, folders: OpenFolders, owners: Owners, on_conflict: OnConflict, task_id: str, *, may_replace: bool
    ) -> None:
        """``may_replace``: whether a file may replace one with another content; it always may if it is a manifest."""
        self._may_replace = may_replace
        self.folders = folders
        """The open folders in which paths are looked up; to be replaced when they have been closed."""
        self._owners = owners
        self._on_conflict = on_conflict
        self._task_id = task_id
        self._assigned: set[str] = set()  # collision keys, because two files of a task must not get one path
        self._reserved: list[str] = []  # collision keys that belonged to no task before
        self._listed: dict[PathParts, frozenset[str]] = {}  # the names in a folder

    def assign(
        self, files: Sequence[ExportFile], planned: Mapping[str, PathParts], staged_name: Callable[[int], str]
    ) -> list[Placement]:
        """Assign a path to each file, the ``planned`` one if possible, and reserve it for this task.

        ``staged_name`` returns a file's name in the staging folder by its number.
        """
        placements = []
        try:
            for file, (key, wanted) in zip(files, planned.items(), strict=True):
                placements.append(self._assign(key, wanted, file, staged_name(file.number)))
                self.folders.close_if_many()
        except (OSError, DestinationError):
            self._release(self._reserved)
            raise
        self.folders.reserved.update([placement.parts for placement in placements])
        return placements

    def release(self, paths: Sequence[PathParts]) -> None:
        """End the reservations of paths without a file that this delivery has made: other programs may use them."""
        keys = set(map(collision_key, paths)).intersection(self._reserved)
        if keys:
            with self._owners.transaction(list(keys)):
                self._release(keys)

    def _release(self, keys: Iterable[str]) -> None:
        for key in keys:
            if self._owners.owner_of(key) == self._task_id:
                self._owners.release(key)

    def assign_again(self, file: ExportFile, key: str, planned: PathParts, taken: Placement) -> Placement:
        """Assign a path to a file whose path another file has taken meanwhile, or has under an equivalent name.

        A path at which an own file was replaced or removed meanwhile is assigned again, with what is there now.
        """
        taken_key = collision_key(taken.parts)
        self._assigned.discard(taken_key)
        self._listed.clear()
        if taken.existing is None:
            with self._owners.transaction():  # on its own, so that the path is not this task's even without another one
                if self._owners.owner_of(taken_key) == self._task_id:
                    self._owners.release(taken_key)
        with self._owners.transaction():
            return self._assign(key, planned, file, taken.staged)

    def _assign(self, key: str, planned: PathParts, file: ExportFile, staged: str) -> Placement:
        folder, fd = self._open_folder(planned[:-1], file)
        wanted = (*folder, planned[-1])
        for parts in self._candidates(wanted, file):
            key = key if parts == planned else collision_key(parts)
            existing = fs.lstat(fd, parts[-1])
            if existing and self._has_other_name(parts):
                continue
            if self._may_use(key, staged, existing, (fd, parts[-1])):
                self._assigned.add(key)
                if existing and not (self._may_replace or is_manifest(file) or self._is_same(staged, (fd, parts[-1]))):
                    raise AlreadyExported(f"task {self._task_id}: file {file.number}")
                return Placement(file.number, staged, parts, existing and fs.file_id(existing))
        raise AssertionError  # there are infinitely many candidates

    def _has_other_name(self, parts: PathParts) -> bool:
        """Return whether an existing file has another name, which the file system regards as equal to this path.

        The file then belongs to that other path, and its owner is recorded there.
        """
        for depth, part in enumerate(parts):
            folder = parts[:depth]
            if folder not in self._listed:
                self._listed[folder] = frozenset(fs.names(self.folders.open(folder)))
            listed = self._listed[folder]
            if part not in listed and collision_key((part,)) not in (collision_key((name,)) for name in listed):
                return True
        return False

    def _open_folder(self, wanted: PathParts, file: ExportFile) -> tuple[PathParts, int]:
        """Open the folder for a file; if a file has the name of one of its parts, open one with a similar name."""
        try:
            return wanted, self.folders.open(wanted)
        except FileExistsError:
            folder: PathParts = ()
        for part in wanted:
            for (name,) in self._candidates((part,), file):
                with suppress(FileExistsError):
                    self.folders.open((*folder, name))
                    folder = (*folder, name)
                    break
        return folder, self.folders.open(folder)

    def _candidates(self, wanted: PathParts, file: ExportFile) -> Iterator[PathParts]:
        """Yield the paths to try for a file or its folder; nearly always the first one is free."""
        yield wanted
        subject = f"task {self._task_id}: file {file.number}"
        for parts in islice(candidate_paths(wanted, self._task_id, self._on_conflict, subject), 1, None):
            yield fit_names(parts, self.folders.max_name_bytes)

    def _may_use(self, key: str, staged: str, existing: os.stat_result | None, path: tuple[int, str]) -> bool:
        """Return whether a file may have this path.

        It may if the path belongs to its task, or if it belongs to no task and is free or has the same content.
        """
        if key in self._assigned or (existing and stat.S_ISDIR(existing.st_mode)):
            return False
        owner = self._owners.owner_of(key)
        if self._on_conflict == "overwrite":
            if owner != self._task_id:
                self._owners.assign(key, self._task_id)  # for a later run with another setting
            return True
        if owner is None:
            # Only a regular file is opened: opening a pipe or a device could block or have side effects.
            if existing and not (stat.S_ISREG(existing.st_mode) and self._is_same(staged, path)):
                return False
            self._owners.assign(key, self._task_id)
            self._reserved.append(key)
        return owner in (None, self._task_id)

    def _is_same(self, staged: str, path: tuple[int, str]) -> bool:
        return fs.same_content((self.folders.staging, staged), path)
