"""``Places``: the path that each file of a task may be given, so that no other task's file is touched."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

from aluma_async.destinations.common.conflicts import candidate_paths
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.owners import Owners
from aluma_async.destinations.folder.root import OpenFolders
from aluma_async.models import ExportFile
from aluma_async.policy.naming import OnConflict, PathParts, collision_key


class Placement(NamedTuple):
    """Where a file goes."""

    number: int
    """The file's."""
    staged: str
    parts: PathParts
    new: bool
    """Whether nothing was there."""


class PathAllocator:
    """Finds places below a root, inside a transaction of ``owners``."""

    def __init__(self, tree: OpenFolders, owners: Owners, on_conflict: OnConflict, task_id: str) -> None:
        self._tree = tree
        self._owners = owners
        self._on_conflict = on_conflict
        self._task_id = task_id
        self._taken: set[str] = set()  # collision keys: no two files of a task may end in one place

    def find(
        self, files: Sequence[ExportFile], planned: Mapping[str, PathParts], staged: Callable[[int], str]
    ) -> list[Placement]:
        """A place for each file, where it was ``planned`` if that can be; no other task may have them.

        ``staged`` tells by a file's number what it is called now.
        """
        places = []
        for file, (key, wanted) in zip(files, planned.items(), strict=True):
            places.append(self._place(key, wanted, file, staged(file.number)))
            self._tree.rest()
        self._tree.planned.update([place.parts for place in places])
        return places

    def _place(self, key: str, planned: PathParts, file: ExportFile, staged: str) -> Placement:
        folder, fd = self._folder(planned[:-1], file)
        wanted = (*folder, planned[-1])
        for parts in self._candidates(wanted, file):
            key = key if parts == planned else collision_key(parts)
            there = fs.lstat(fd, parts[-1])
            if self._may_use(key, staged, there, (fd, parts[-1])):
                self._taken.add(key)
                return Placement(file.number, staged, parts, there is None)
        raise AssertionError  # the candidates do not end

    def _folder(self, wanted: PathParts, file: ExportFile) -> tuple[PathParts, int]:
        """The folder that a file may be given, opened."""
        try:
            return wanted, self._tree.enter(wanted)
        except FileExistsError:  # a file has the name of one of them
            folder: PathParts = ()
        for part in wanted:
            for (name,) in self._candidates((part,), file):
                with suppress(FileExistsError):
                    self._tree.enter((*folder, name))
                    folder = (*folder, name)
                    break
        return folder, self._tree.enter(folder)

    def _candidates(self, wanted: PathParts, file: ExportFile) -> Iterator[PathParts]:
        """The paths that a file, or its folder, may be given, the best first, which nearly always can be."""
        yield wanted
        what = f"task {self._task_id}: file {file.number}"
        yield from islice(candidate_paths(wanted, self._task_id, self._on_conflict, what), 1, None)

    def _may_use(self, key: str, staged: str, there: os.stat_result | None, target: tuple[int, str]) -> bool:
        """Whether a file may go there: where its task wrote before, where nothing is, or the same bytes as nobody's."""
        if key in self._taken or (there and stat.S_ISDIR(there.st_mode)):
            return False
        if self._on_conflict == "overwrite":
            return True
        owner = self._owners.of(key)
        if owner is None:
            # What is no plain file (a pipe, a device) is not even opened.
            if there and not (stat.S_ISREG(there.st_mode) and fs.same_content((self._tree.staging, staged), target)):
                return False
            self._owners.take(key, self._task_id)
        return owner in (None, self._task_id)
