"""``RootFolder``: the folder that files are exported into.

A marker file, ``.aluma-async/root``, distinguishes the folder from the one below the mount point that takes its place
while a share is not mounted, and from any other folder that has a marker. All of it blocks.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.identity import FolderRecord, Identity, hash_of
from aluma_async.destinations.folder.open_folders import OpenFolders
from aluma_async.destinations.folder.permissions import Permissions
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.policy.naming import INTERNAL_FOLDER
from aluma_async.private_files import foreign_access

_MARKER = "root"
_STAGING = "staging"
KEPT = "kept"
"""Name of the folder with the finished files of interrupted deliveries."""


class RootFolder:
    """The folder ``path``. ``mounts`` is a folder elsewhere that records, across processes, which folder it was."""

    def __init__(self, path: Path, mounts: Path | None = None, permissions: Permissions | None = None) -> None:
        self.path = path
        self.internal = path / INTERNAL_FOLDER
        self.staging = self.internal / _STAGING
        self._permissions = permissions or Permissions()
        self._record = FolderRecord(mounts, path)
        self._identifier = ""  # of the folder that this process uses; empty before the first ``ensure``
        self._identity: Identity | None = None
        self._ensuring = Lock()

    def ensure(self) -> None:
        """Create missing folders. Raises ``DestinationUnavailable`` if another folder has taken the place of this."""
        with self._ensuring:  # because several threads would find the same folders missing
            self._ensure()

    def _ensure(self) -> None:
        known = self._identity or self._record.read()
        found = self._read_marker()
        if found is None:
            if self._identifier and self.path.exists():
                raise self._replaced_error()
            self._check_mount(known.mount)
            self._record.write(Identity(known.mount))  # the new folder will have another marker
            missing = [folder for folder in (self.internal, *self.internal.parents) if not folder.exists()]
            if not self.path.exists():
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with _opened(self.path.parent) as parent, suppress(FileExistsError):
                    self._permissions.make_folder(parent, self.path.name)
            with _opened(self.path) as root:
                self._make_internal(root)
            for folder in missing:
                with _opened(folder.parent) as parent:
                    fs.sync_folder(parent)  # durable files are lost if the folder that contains them is not durable
        elif known.marker and known.marker != hash_of(found):
            raise self._replaced_error(found)
        self._secure()
        self._identifier = self._read_marker() or ""
        self._identity = Identity(str(_mount_point(self.path)), hash_of(self._identifier))
        self._record.write(self._identity)

    def is_same_folder(self) -> bool:
        """Return whether the path leads to the folder that this process uses; at the start, to any with a marker."""
        try:
            found = self._read_marker()
        except OSError:
            return False
        return found is not None and self._identifier in ("", found)

    @contextmanager
    def open(self, *, sync: bool) -> Iterator[OpenFolders]:
        """Open the folder; ``sync`` makes changed entries durable at the end.

        Raises ``OSError``, and ``DestinationUnavailable`` if another folder has taken its place, also meanwhile.
        """
        with self._open_path() as (root, internal, staging):
            folders = OpenFolders(root, staging, self._check_marker(internal), self._permissions, sync=sync)
            try:
                yield folders
            finally:
                folders.close()
            self._check_path(root)

    def open_staged(self, name: str, flags: int = 0) -> int:  # noqa: ARG002 - the signature of an opener of ``open``
        """Open a new file in the staging folder for writing."""
        with self._open_path() as (_, internal, staging):
            self._check_marker(internal)
            return fs.create(staging, name)

    def now(self) -> float:
        """Return the time of the file system, because a share has a clock of its own."""
        with self._open_path() as (_, internal, _):
            os.utime(_MARKER, dir_fd=internal, follow_symlinks=False)
            return os.stat(_MARKER, dir_fd=internal, follow_symlinks=False).st_mtime

    @contextmanager
    def _open_path(self) -> Iterator[tuple[int, int, int]]:
        """Open the root, the internal folder and the staging folder, each inside the one before."""
        with (
            _opened(self.path) as root,
            _opened(INTERNAL_FOLDER, root) as internal,
            _opened(_STAGING, internal) as staging,
        ):
            yield root, internal, staging

    def _make_internal(self, root: int) -> None:
        """Create the internal folder with a marker, whose identifier follows."""
        with suppress(FileExistsError):
            os.mkdir(INTERNAL_FOLDER, 0o700, dir_fd=root)
        with _opened(INTERNAL_FOLDER, root) as internal:
            self._require_private(root, internal, INTERNAL_FOLDER)
            os.close(os.open(_MARKER, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=internal))

    def _secure(self) -> None:
        """Create missing folders below the internal one, and check that all of them belong to the exporter alone."""
        with _opened(self.path) as root, _opened(INTERNAL_FOLDER, root) as internal:
            self._require_private(root, internal, INTERNAL_FOLDER)
            self._identify(internal)
            with suppress(FileExistsError):
                os.mkdir(_STAGING, 0o700, dir_fd=internal)
            for name in (_STAGING, KEPT):
                if fs.lstat(internal, name):
                    with _opened(name, internal) as folder:
                        self._require_private(root, folder, f"{INTERNAL_FOLDER}/{name}")

    def _require_private(self, root: int, folder: int, name: str) -> None:
        """Take the rights on an internal folder from other users. Raises ``DestinationUnavailable`` if they keep some.

        The owner of the root folder has all rights on it anyway.
        """
        mode = os.fstat(folder).st_mode
        if mode & 0o077:  # other users must not read names of documents, nor incomplete files
            with suppress(OSError):  # it belongs to another user, or the file system has no modes
                os.fchmod(folder, 0o700 | mode & stat.S_ISGID)
        if reason := foreign_access(folder, {os.fstat(root).st_uid}):
            raise DestinationUnavailable(
                f"folder {self.path}: {name} is not safe: {reason}, who could replace files before they are exported",
                hint="Change its owner to the user of the exporter and its mode to 0700, or remove it.",
                for_all=True,
            )

    def _identify(self, internal: int) -> None:
        """Write an identifier into a marker that has none; earlier versions left it empty."""
        fd = os.open(_MARKER, os.O_RDWR | os.O_NOFOLLOW, dir_fd=internal)
        try:
            with suppress(OSError):  # the file system has no locks
                fcntl.flock(fd, fcntl.LOCK_EX)  # so that of several processes that start together only one writes
            if not os.fstat(fd).st_size:
                os.pwrite(fd, secrets.token_hex(16).encode(), 0)
                os.fsync(fd)
        finally:
            os.close(fd)

    def _read_marker(self) -> str | None:
        """Return the identifier of the folder that the path leads to; None if it has no marker."""
        with suppress(FileNotFoundError, NotADirectoryError), _opened(self.internal) as internal:
            return fs.read_text(internal, _MARKER)
        return None

    def _check_marker(self, internal: int) -> str:
        """Return the identifier of the open folder, which must be the one that this process uses."""
        try:
            found = fs.read_text(internal, _MARKER)
        except FileNotFoundError:
            raise self._replaced_error() from None
        if self._identifier not in ("", found):
            raise self._replaced_error(found)
        return found

    def _check_path(self, root: int) -> None:
        """Check that the path still leads to the open folder: its files must not be confirmed if it was moved."""
        status = os.fstat(root)
        try:
            at_path = self.path.stat()
        except OSError:
            raise self._moved_error() from None
        if (status.st_dev, status.st_ino) != (at_path.st_dev, at_path.st_ino):
            raise self._moved_error()

    def _check_mount(self, before: str) -> None:
        """Distinguish a share that is not mounted from a folder that was deleted on purpose."""
        now = str(_mount_point(self.path))
        if before and before != now:
            record = self._record.path
            move = f" If the folder has moved on purpose, remove {record}." if record else ""
            raise DestinationUnavailable(
                f"folder {self.path}: is on the file system mounted at {now}, but was on the one mounted at {before}",
                hint=f"Mount the share.{move}",
                for_all=True,
            )

    def _replaced_error(self, found: str | None = None) -> DestinationUnavailable:
        """Return the error of a folder whose marker is missing, or has the identifier ``found``."""
        marker, record = f"{INTERNAL_FOLDER}/{_MARKER}", self._record.path
        message = f"folder {self.path}: another folder is in its place, because {marker} is missing"
        hint = "Check that the share is mounted, or restart the exporter to use the folder as it is."
        if found is not None:
            message = f"folder {self.path}: another folder is in its place, because {marker} has another identifier"
            if record:
                hint = f"Check that the share is mounted. To use this folder, remove {record} and restart."
        return DestinationUnavailable(message, hint=hint, for_all=True)

    def _moved_error(self) -> DestinationUnavailable:
        return DestinationUnavailable(
            f"folder {self.path}: was moved or replaced while files were saved",
            hint="Check that the folder is at its path.",
            for_all=True,
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
