"""``FolderRecord``: which folder a path led to, recorded elsewhere, for the next process. All of it blocks."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from aluma_async.destinations.folder import fs


class Identity(NamedTuple):
    """What distinguishes a folder from another one at the same path; each part is empty if it is unknown."""

    mount: str = ""
    """Where its file system is mounted."""
    marker: str = ""
    """Hash of the identifier in its marker."""


class FolderRecord:
    """The identity of the folder ``path``, in a file below ``folder``; without one, only this process knows it."""

    def __init__(self, folder: Path | None, path: Path) -> None:
        self.path = folder and folder / hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:16]

    def read(self) -> Identity:
        """Return the recorded identity."""
        if self.path:
            with suppress(FileNotFoundError):
                return Identity(*self.path.read_text().split("\n")[:2])  # earlier versions: only the mount
        return Identity()

    def write(self, identity: Identity) -> None:
        """Record an identity if it is not recorded already."""
        if self.path and identity != self.read():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder = fs.open_folder(self.path.parent)
            try:
                new = f"{self.path.name}.{os.getpid()}.new"
                os.close(fs.write_file(folder, new, "\n".join(identity).encode(), sync=False))
                os.replace(new, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                os.close(folder)


def hash_of(identifier: str) -> str:
    """Return the hash of an identifier, which is recorded in its place."""
    return hashlib.sha256(identifier.encode()).hexdigest()[:16]
