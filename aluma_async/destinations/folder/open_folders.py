"""``OpenFolders``: the descriptors of the folders below a root while files are moved into them. All of it blocks."""

import errno
import os
import stat
from contextlib import suppress

from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.permissions import Inheritance, Permissions
from aluma_async.policy.naming import PathParts

MAX_OPEN_FOLDERS = 64


class OpenFolders:
    """Open folders below a root. With ``sync``, folders whose entries changed are made durable when they are closed."""

    def __init__(self, root: int, staging: int, identifier: str, permissions: Permissions, *, sync: bool) -> None:
        self.staging = staging
        self.max_name_bytes = fs.max_name_bytes(root)
        self.identifier = identifier
        """Identifier of the root folder; empty if its marker has none."""
        self.reserved: set[PathParts] = set()
        """Paths of files that will exist soon."""
        self._root = root
        self._permissions = permissions
        self._sync = sync
        self._inheritance: dict[int, Inheritance] = {}  # of open folders, by descriptor
        self._open: dict[PathParts, int] = {(): root}
        self._changed: set[PathParts] = set()

    def open(self, folder: PathParts) -> int:
        """Open a folder, creating it if it is missing. Raises ``FileExistsError`` if a file has its path."""
        if (fd := self._open.get(folder)) is not None:
            return fd
        if folder in self.reserved:
            raise FileExistsError(errno.EEXIST, f"{'/'.join(folder)} will be a file")
        parent, name = self.open(folder[:-1]), folder[-1]
        try:
            fd = fs.open_folder(name, inside=parent)
        except FileNotFoundError:
            with suppress(FileExistsError):  # another thread has created it meanwhile
                self._permissions.make_folder(parent, name)
            self._changed.add(folder[:-1])
            fd = fs.open_folder(name, inside=parent)
        except OSError as error:
            existing = fs.lstat(parent, name)
            if existing is None or stat.S_ISDIR(existing.st_mode):
                raise
            if stat.S_ISLNK(existing.st_mode):
                raise OSError(errno.ELOOP, f"{'/'.join(folder)} is a link, and links are not followed") from error
            raise FileExistsError(errno.EEXIST, f"{'/'.join(folder)} is a file") from error
        self._open[folder] = fd
        return fd

    def size_of(self, path: str) -> int | None:
        """Return the size of a regular file below the root; None if there is none."""
        try:
            status = fs.lstat(self._root, path)
        except OSError:
            return None
        return status.st_size if status and stat.S_ISREG(status.st_mode) else None

    def apply_permissions(self, staged: str, folder: PathParts) -> None:
        """Give a staged file the permissions that it would have if it had been created in this folder."""
        of_staging, of_folder = self._inheritance_of(self.staging), self._inheritance_of(self.open(folder))
        self._permissions.apply(self.staging, staged, of_staging, of_folder, sync=self._sync)

    def _inheritance_of(self, fd: int) -> Inheritance:
        if fd not in self._inheritance:
            self._inheritance[fd] = Inheritance.of(fd)
        return self._inheritance[fd]

    def mark_changed(self, folder: PathParts) -> None:
        """Record that an entry of a folder has changed."""
        self._changed.add(folder)

    def close_if_many(self) -> None:
        """Close all folders if more than ``MAX_OPEN_FOLDERS`` are open; they are opened again when needed."""
        if len(self._open) > MAX_OPEN_FOLDERS:
            self.close()

    def close(self) -> None:
        """Make changed entries durable, and close all folders except the root."""
        try:
            if self._sync:
                for folder in self._changed:
                    fs.sync_folder(self._open[folder])
        finally:
            self._changed.clear()
            self._inheritance.clear()
            for fd in list(self._open.values())[1:]:
                os.close(fd)
            self._open = {(): self._root}
