"""The raw steps on a disk: plain, blocking functions, each one hop for a thread. They know nothing of tasks."""

import errno
import os
from filecmp import cmp
from pathlib import Path

FILE_MODE = 0o640
FOLDER_MODE = 0o750

# What a file system without the notion of syncing a folder answers (NFS, some FUSE).
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}
# What says that nobody's files can be written here, rather than that one file cannot.
_UNAVAILABLE = (
    "ENOSPC EDQUOT EROFS EACCES EPERM EIO ESTALE EMFILE ENFILE ENOMEM ENODEV ENXIO ENOTCONN EHOSTDOWN ETIMEDOUT"
)
UNAVAILABLE = {getattr(errno, name) for name in _UNAVAILABLE.split() if hasattr(errno, name)}


def write_file(path: Path, data: bytes, *, sync: bool) -> None:
    """Write a new file, whole; one that is there already is replaced, for a download that begins anew."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), FILE_MODE)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(fd: int, expected: int, *, sync: bool) -> None:
    """Check that a file is as long as what was written to it, and make it durable."""
    if (size := os.fstat(fd).st_size) != expected:
        raise OSError(errno.EIO, f"{expected} bytes were written, but the file has {size}")
    if sync:
        os.fsync(fd)


def make_folders(root: Path, parts: tuple[str, ...]) -> list[Path]:
    """Make folders below the root, following no link; return those in which an entry was made."""
    folder, touched = root, []
    for part in parts:
        parent, folder = folder, folder / part
        try:
            os.mkdir(folder, FOLDER_MODE)  # noqa: PTH102 - no Path in the hot path
            touched.append(parent)
        except FileExistsError:
            if folder.is_symlink() or not folder.is_dir():
                raise OSError(errno.ENOTDIR, "not a folder of ours, but a link or a file", str(folder)) from None
    return touched


def same_content(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes; False if one is no plain file."""
    try:
        return not other.is_symlink() and other.is_file() and cmp(one, other, shallow=False)
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable, where the system knows how (Windows does not)."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)
