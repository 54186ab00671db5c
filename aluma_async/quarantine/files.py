"""Reads and replaces files below an open folder: no link is followed, and only regular files are opened. It blocks."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aluma_async.policy.naming import PathParts

BLOCK_BYTES = 1024 * 1024
"""Size of a block that is read at once."""
FOLDER = os.O_RDONLY | os.O_DIRECTORY
"""Flags for opening a folder."""
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # O_NONBLOCK: opening a named pipe must not wait for its other end


@contextmanager
def opened_file(folder: int, parts: PathParts) -> Iterator[int]:
    """Open a regular file below a folder, never through a link."""
    folders: list[int] = []
    try:
        for part in parts[:-1]:
            folders.append(os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folders[-1] if folders else folder))
        file = os.open(parts[-1], _FILE, dir_fd=folders[-1] if folders else folder)
    finally:
        for opened in folders:
            os.close(opened)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("not a regular file")
        yield file
    finally:
        os.close(file)


def check_file(folder: int, parts: PathParts | None, size: int | None) -> tuple[int, str]:
    """Return the size of a file of a copy, and the reason why it counts as missing; empty if it is there."""
    if parts is None:
        return 0, "its path in the record is invalid"
    try:
        with opened_file(folder, parts) as file:
            actual = os.fstat(file).st_size
    except OSError as error:
        return 0, f"not in the quarantine: {error.strerror}"
    except ValueError as error:
        return 0, f"not in the quarantine: {error}"
    if size is not None and size != actual:
        return actual, f"has {actual} bytes in the quarantine, and was stored with {size}"
    return actual, ""


def read_all(file: int, max_bytes: int) -> bytes:
    """Return the content of an open file. Raises ``ValueError`` if it is larger than ``max_bytes``."""
    blocks, size = [], 0
    while block := os.read(file, BLOCK_BYTES):
        blocks.append(block)
        size += len(block)
        if size > max_bytes:
            raise ValueError(f"larger than {max_bytes} bytes")
    return b"".join(blocks)


def replace_file(folder: int, name: str, data: bytes) -> None:
    """Replace a file atomically and durably."""
    temporary = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)  # left by a crash, or a link
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=folder)
    try:
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    finally:
        os.close(file)
    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    with suppress(OSError):  # some file systems do not support it
        os.fsync(folder)


def tree_size(path: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(files_size(Path(folder)) for folder, _, _ in os.walk(path))


def files_size(path: Path) -> int:
    """Return the size of the files directly in a folder; 0 if it cannot be read."""
    total = 0
    with suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with suppress(OSError):
                total += 0 if entry.is_dir(follow_symlinks=False) else entry.stat(follow_symlinks=False).st_size
    return total
