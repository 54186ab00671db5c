"""``Root``: the folder below which everything goes, and ``Tree``, the folders in it while files get their names.

A mark, ``.aluma-async/root``, tells the folder from an empty one that appears in its place when a share is not
mounted. Blocking, all of it.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aluma_async.destinations.folder import fs
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.policy.naming import INTERNAL_FOLDER, PathParts

_MARKER = "root"
_STAGING = "staging"
_KEPT = "kept"
KEPT_SECONDS = 7 * 86400.0
"""How long a file is kept for a task that ran out of time: a parked task rests for hours, and Aluma's wait is 72 h."""
_MOST_OPEN = 64
"""Folders that are held open at once."""


class OpenFolders:
    """Open folders below a root. What is made or changed in them is synced when they are closed, if ``sync``."""

    def __init__(self, root: int, staging: int, *, sync: bool) -> None:
        self.staging = staging
        self.planned: set[PathParts] = set()
        """Files that will be there soon."""
        self._root = root
        self._sync = sync
        self._open: dict[PathParts, int] = {(): root}
        self._changed: set[PathParts] = set()

    def enter(self, folder: PathParts) -> int:
        """Open a folder, made if it is missing. Raises ``FileExistsError`` if a file stands in its place."""
        if (fd := self._open.get(folder)) is not None:
            return fd
        if folder in self.planned:
            raise FileExistsError(errno.EEXIST, f"{'/'.join(folder)} will be a file")
        parent, name = self.enter(folder[:-1]), folder[-1]
        try:
            fd = fs.open_folder(name, inside=parent)
        except FileNotFoundError:
            with suppress(FileExistsError):  # made meanwhile by another thread
                os.mkdir(name, fs.FOLDER_MODE, dir_fd=parent)
            self._changed.add(folder[:-1])
            fd = fs.open_folder(name, inside=parent)
        except OSError as error:
            there = fs.lstat(parent, name)
            if there is None or stat.S_ISDIR(there.st_mode):
                raise
            if stat.S_ISLNK(there.st_mode):
                raise OSError(errno.ELOOP, f"{'/'.join(folder)} is a link, and no link is followed") from error
            raise FileExistsError(errno.EEXIST, f"{'/'.join(folder)} is a file") from error
        self._open[folder] = fd
        return fd

    def changed(self, folder: PathParts) -> None:
        """Say that an entry of a folder has changed."""
        self._changed.add(folder)

    def rest(self) -> None:
        """Close what is open if that is much; it is opened again when needed."""
        if len(self._open) > _MOST_OPEN:
            self.close()

    def close(self) -> None:
        """Make durable what has changed, and close all but the root."""
        try:
            if self._sync:
                for folder in self._changed:
                    fs.sync_folder(self._open[folder])
        finally:
            self._changed.clear()
            for fd in list(self._open.values())[1:]:
                os.close(fd)
            self._open = {(): self._root}


class RootFolder:
    """A folder ``path``. ``mounts``: a folder elsewhere in which a later process finds what it was mounted on."""

    def __init__(self, path: Path, mounts: Path | None = None) -> None:
        self.path = path
        self.internal = path / INTERNAL_FOLDER
        self.staging = self.internal / _STAGING
        self.kept: set[str] = set()
        """Names of what was put aside, as far as is known here."""
        # What it was mounted on when it was last in use.
        self._mount_record = mounts and mounts / hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
        self._mounted_on = ""

    def make(self) -> None:
        """Make what is missing. Raises ``DestinationUnavailable`` if another folder has taken its place."""
        if not self.is_same_folder():
            if self._mounted_on and self.path.exists():
                raise self._replaced_error()
            self._check_mount()
            new = [folder for folder in (self.internal, *self.internal.parents) if not folder.exists()]
            self.internal.mkdir(parents=True, exist_ok=True)
            (self.internal / _MARKER).touch(fs.FILE_MODE)
            for folder in new:
                with _opened(folder.parent) as parent:
                    fs.sync_folder(parent)  # files that are durable in a folder that is not are lost
        self.staging.mkdir(exist_ok=True, mode=0o700)  # what is not whole yet is nobody's to read
        if not self._mounted_on:
            self._mounted_on = str(_mount_point(self.path))
            if self._mount_record:
                self._mount_record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._mount_record.write_text(self._mounted_on)

    def is_same_folder(self) -> bool:
        """Whether the folder is the one that was made."""
        return (self.internal / _MARKER).is_file()

    @contextmanager
    def open(self, *, sync: bool) -> Iterator[OpenFolders]:
        """Open the folder; what changed in it is synced at the end. Raises ``DestinationUnavailable``, ``OSError``."""
        with self._open_path() as (root, own, staging):
            if fs.lstat(own, _MARKER) is None:
                raise self._replaced_error()
            tree = OpenFolders(root, staging, sync=sync)
            try:
                yield tree
            finally:
                tree.close()

    def keep(self, staged: str, name: str) -> None:
        """Put a staged file aside for a later attempt."""
        (self.internal / _KEPT).mkdir(exist_ok=True, mode=0o700)
        (self.staging / staged).replace(self.internal / _KEPT / name)
        self.kept.add(name)

    def take_back(self, name: str, staged: str) -> os.stat_result | None:
        """Stage a file that was put aside; None if there is none."""
        if name in self.kept:
            self.kept.discard(name)
            with suppress(FileNotFoundError):
                (self.internal / _KEPT / name).replace(self.staging / staged)
                return (self.staging / staged).lstat()
        return None

    def find_kept(self) -> None:
        """Find out what was put aside, and remove what was for too long."""
        mark = self.internal / _MARKER
        mark.touch()
        now, self.kept = mark.stat().st_mtime, set()  # the clock of the file system, as a share has its own
        with suppress(FileNotFoundError):
            for path in (self.internal / _KEPT).iterdir():
                if path.lstat().st_mtime < now - KEPT_SECONDS:
                    path.unlink()
                else:
                    self.kept.add(path.name)

    def create(self, name: str, flags: int = 0) -> int:  # noqa: ARG002 - ``open`` hands them to its opener
        """Open a new file in the staging folder for writing; what ``open`` takes for its ``opener``."""
        with self._open_path() as (_, _, staging):
            return fs.create(staging, name)

    @contextmanager
    def _open_path(self) -> Iterator[tuple[int, int, int]]:
        """The folder, what is ours in it, and the staging folder in that; each opened in the one above."""
        with _opened(self.path) as root, _opened(INTERNAL_FOLDER, root) as own, _opened(_STAGING, own) as staging:
            yield root, own, staging

    def _check_mount(self) -> None:
        """Tell a share that is not mounted from a folder that was deleted on purpose."""
        was, now = self._mounted_on, str(_mount_point(self.path))
        with suppress(FileNotFoundError):
            was = was or (self._mount_record.read_text() if self._mount_record else "")
        if was and was != now:
            raise DestinationUnavailable(
                f"folder {self.path}: it was on what is mounted at {was}, and is on {now} now",
                hint=f"Mount it. If it has moved on purpose, remove {self._mount_record}."
                if self._mount_record
                else "Mount it.",
            )

    def _replaced_error(self) -> DestinationUnavailable:
        return DestinationUnavailable(
            f"folder {self.path}: another folder is in its place, as {INTERNAL_FOLDER}/{_MARKER} is gone",
            hint="Is it mounted? A new run takes the folder as it is.",
        )


@contextmanager
def _opened(name: str | Path, inside: int | None = None) -> Iterator[int]:
    fd = fs.open_folder(name, inside=inside)
    try:
        yield fd
    finally:
        os.close(fd)


def _mount_point(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path
