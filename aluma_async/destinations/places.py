"""``Places``: the path that each file of a task may be given, so that no other task's file is touched."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aluma_async.destinations import disk
from aluma_async.destinations.conflicts import OnConflict, names
from aluma_async.destinations.owners import Owners
from aluma_async.destinations.root import Tree
from aluma_async.models import ExportFile
from aluma_async.policy.naming import Parts, collision_key


class Place(NamedTuple):
    """Where a file goes."""

    number: int
    """The file's."""
    staged: str
    parts: Parts
    new: bool
    """Whether nothing was there."""


class Places:
    """Finds places below a root, inside a transaction of ``owners``."""

    def __init__(self, tree: Tree, owners: Owners, on_conflict: OnConflict, task_id: str) -> None:
        self._tree = tree
        self._owners = owners
        self._on_conflict = on_conflict
        self._task_id = task_id
        self._taken: set[str] = set()  # collision keys: no two files of a task may end in one place

    def find(self, files: Sequence[ExportFile], planned: Sequence[Parts], staged: Callable[[int], str]) -> list[Place]:
        """A place for each file, where it was ``planned`` if that can be; no other task may have them.

        ``staged`` tells by a file's number what it is called now.
        """
        places = []
        for file, wanted in zip(files, planned, strict=True):
            places.append(self._place(wanted, file, staged(file.number)))
            self._taken.add(collision_key(places[-1].parts))
            self._tree.rest()
        self._tree.planned.update(place.parts for place in places)
        return places

    def _place(self, wanted: Parts, file: ExportFile, staged: str) -> Place:
        folder: Parts = ()
        for part in wanted[:-1]:
            for (name,) in self._candidates((part,), file):
                try:
                    self._tree.enter((*folder, name))
                except FileExistsError:  # a file has the folder's name
                    continue
                folder = (*folder, name)
                break
        for parts in self._candidates((*folder, wanted[-1]), file):
            there = disk.look(self._tree.enter(folder), parts[-1])
            if self._is_ours(parts, staged, there):
                return Place(file.number, staged, parts, there is None)
        raise AssertionError  # the candidates do not end

    def _candidates(self, wanted: Parts, file: ExportFile) -> Iterator[Parts]:
        """The paths that a file, or its folder, may be given, the best first."""
        what = f"task {self._task_id}: file {file.number}"
        return names(wanted, self._task_id, self._on_conflict, what)

    def _is_ours(self, parts: Parts, staged: str, there: os.stat_result | None) -> bool:
        """Whether a file may go there: where its task wrote before, where nothing is, or the same bytes as nobody's."""
        key = collision_key(parts)
        if key in self._taken or (there and stat.S_ISDIR(there.st_mode)):
            return False
        if self._on_conflict == "overwrite":
            return True
        owner = self._owners.of(key)
        if owner is None:
            target = (self._tree.enter(parts[:-1]), parts[-1])
            # What is no plain file (a pipe, a device) is not even opened.
            if there and not (stat.S_ISREG(there.st_mode) and disk.same_content((self._tree.staging, staged), target)):
                return False
            self._owners.take(key, self._task_id)
        return owner in (None, self._task_id)
