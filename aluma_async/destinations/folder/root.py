"""``RootFolder``: the folder that files are exported into.

A marker file, ``.aluma-async/root``, distinguishes the folder from the empty one that takes its place while a share is
not mounted, and its content from any other folder that has a marker. All of it blocks.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.open_folders import OpenFolders
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.policy.naming import INTERNAL_FOLDER

_MARKER = "root"
_STAGING = "staging"


class RootFolder:
    """The folder ``path``. ``mounts`` is a folder elsewhere that records, across processes, where it was mounted."""

    def __init__(self, path: Path, mounts: Path | None = None) -> None:
        self.path = path
        self.internal = path / INTERNAL_FOLDER
        self.staging = self.internal / _STAGING
        self._mount_record = mounts and mounts / hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]
        self._mounted_on = ""

    def ensure(self) -> None:
        """Create missing folders. Raises ``DestinationUnavailable`` if another folder has taken the place of this."""
        if not self.is_same_folder():
            if self._mounted_on and self.path.exists():
                raise self._replaced_error()
            self._check_mount()
            missing = [folder for folder in (self.internal, *self.internal.parents) if not folder.exists()]
            self.internal.mkdir(parents=True, exist_ok=True)
            (self.internal / _MARKER).touch(fs.FILE_MODE)  # the identifier follows
            for folder in missing:
                with _opened(folder.parent) as parent:
                    fs.sync_folder(parent)  # durable files are lost if the folder that contains them is not durable
        self._identify()
        self.staging.mkdir(exist_ok=True, mode=0o700)  # other users must not read incomplete files
        if not self._mounted_on:
            self._mounted_on = str(_mount_point(self.path))
            if self._mount_record:
                self._mount_record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._mount_record.write_text(self._mounted_on)

    def is_same_folder(self) -> bool:
        """Return whether the path leads to a folder that has the marker."""
        return (self.internal / _MARKER).is_file()

    @contextmanager
    def open(self, *, sync: bool) -> Iterator[OpenFolders]:
        """Open the folder; ``sync`` makes changed entries durable at the end.

        Raises ``DestinationUnavailable`` if another folder has taken its place, and ``OSError``.
        """
        with self._open_path() as (root, internal, staging):
            try:
                identifier = fs.read_text(internal, _MARKER)
            except FileNotFoundError:
                raise self._replaced_error() from None
            folders = OpenFolders(root, staging, identifier, sync=sync)
            try:
                yield folders
            finally:
                folders.close()

    def open_staged(self, name: str, flags: int = 0) -> int:  # noqa: ARG002 - the signature of an opener of ``open``
        """Open a new file in the staging folder for writing."""
        with self._open_path() as (_, _, staging):
            return fs.create(staging, name)

    def now(self) -> float:
        """Return the time of the file system, because a share has a clock of its own."""
        marker = self.internal / _MARKER
        marker.touch()
        return marker.stat().st_mtime

    @contextmanager
    def _open_path(self) -> Iterator[tuple[int, int, int]]:
        """Open the root, the internal folder and the staging folder, each inside the one before."""
        with (
            _opened(self.path) as root,
            _opened(INTERNAL_FOLDER, root) as internal,
            _opened(_STAGING, internal) as staging,
        ):
            yield root, internal, staging

    def _identify(self) -> None:
        """Write an identifier into a marker that has none; earlier versions left it empty."""
        fd = os.open(self.internal / _MARKER, os.O_RDWR | os.O_NOFOLLOW)
        try:
            if not os.fstat(fd).st_size:
                os.pwrite(fd, secrets.token_hex(16).encode(), 0)
                os.fsync(fd)
        finally:
            os.close(fd)

    def _check_mount(self) -> None:
        """Distinguish a share that is not mounted from a folder that was deleted on purpose."""
        before, now = self._mounted_on, str(_mount_point(self.path))
        with suppress(FileNotFoundError):
            before = before or (self._mount_record.read_text() if self._mount_record else "")
        if before and before != now:
            move = f" If the folder has moved on purpose, remove {self._mount_record}." if self._mount_record else ""
            raise DestinationUnavailable(
                f"folder {self.path}: is on the file system mounted at {now}, but was on the one mounted at {before}",
                hint=f"Mount the share.{move}",
            )

    def _replaced_error(self) -> DestinationUnavailable:
        return DestinationUnavailable(
            f"folder {self.path}: another folder is in its place, because {INTERNAL_FOLDER}/{_MARKER} is missing",
            hint="Check that the share is mounted, or restart the exporter to use the folder as it is.",
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
