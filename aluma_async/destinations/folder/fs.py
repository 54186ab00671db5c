"""The raw steps on a disk: plain, blocking functions on a name in an open folder. They know nothing of tasks.

A folder is a descriptor, opened in the one above it and never through a link: what is swapped for a link
meanwhile leads nowhere else.
"""

import errno
import hashlib
import os
import stat
from contextlib import closing, suppress

FILE_MODE = 0o640
FOLDER_MODE = 0o750

# What a file system without the notion of syncing a folder answers (NFS, some FUSE).
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}
# What says that nobody's files can be written here, rather than that one file cannot.
_UNAVAILABLE = (
    "ENOSPC EDQUOT EROFS EACCES EPERM EIO ESTALE EMFILE ENFILE ENOMEM ENODEV ENXIO ENOTCONN EHOSTDOWN ETIMEDOUT"
)
UNAVAILABLE = {getattr(errno, name) for name in _UNAVAILABLE.split() if hasattr(errno, name)}
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
_MOST_PIECES = 1024  # what Linux takes in one call
_READ_SIZE = 256 * 1024


def create(folder: int, name: str) -> int:
    """Open a new file for writing; one that is there already is emptied, for a download that begins anew."""
    return os.open(name, _NEW, FILE_MODE, dir_fd=folder)


def write_file(folder: int, name: str, data: bytes, *, sync: bool) -> int:
    """Write a new file, whole, and leave it open; ``sync``: let the disk begin with it. Returns its descriptor."""
    fd = create(folder, name)
    try:
        while data:
            data = data[os.write(fd, data) :]  # rarely more than nothing
        if sync and hasattr(os, "posix_fadvise"):
            # Begins to write without waiting, so that many files are waited for together and not one by one.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_all(fd: int, pieces: list[bytes]) -> None:
    """Write pieces one after the other, in as few steps as the system takes."""
    while pieces:
        written = os.writev(fd, pieces[:_MOST_PIECES])
        while pieces and written >= len(pieces[0]):
            written -= len(pieces.pop(0))
        if written:
            pieces[0] = pieces[0][written:]


def fsync_checked(fd: int, expected: int, *, sync: bool) -> int:
    """Check that a file is as long as what was written to it, and make it durable; return its inode."""
    found = os.fstat(fd)
    if found.st_size != expected:
        raise OSError(errno.EIO, f"{expected} bytes were written, but the file has {found.st_size}")
    if sync:
        os.fsync(fd)
    return found.st_ino


def open_folder(name: str | os.PathLike[str], *, inside: int | None = None) -> int:
    """Open a folder; inside another one it must be no link."""
    no_link = 0 if inside is None else os.O_NOFOLLOW
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | no_link, dir_fd=inside)


def lstat(folder: int, name: str) -> os.stat_result | None:
    """What stands under a name, not what it links to; None if nothing does."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def rename(source: int, name: str, folder: int, final: str, *, inode: int) -> None:
    """Give a file of the folder ``source`` its final name; whatever had it is replaced."""
    try:
        os.replace(name, final, src_dir_fd=source, dst_dir_fd=folder)
    except OSError:
        # A share may lose the answer to what it has done, and then refuse the repetition.
        there = lstat(folder, final)
        if there is None or (there.st_ino, there.st_dev) != (inode, os.fstat(source).st_dev):
            raise


def remove(folder: int, name: str) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def same_content(one: tuple[int, str], other: tuple[int, str]) -> bool:
    """Whether two files (folder, name) hold the same bytes; False if one is no plain file."""
    try:
        with closing(_RegularFileReader(*one)) as a, closing(_RegularFileReader(*other)) as b:
            if a.size != b.size:
                return False
            while block := a.read():
                if block != b.read():
                    return False
            return True
    except OSError:
        return False


def digest(folder: int, name: str) -> "hashlib._Hash":
    """Read a plain file for its SHA-256."""
    found = hashlib.sha256()
    with closing(_RegularFileReader(folder, name)) as file:
        while block := file.read():
            found.update(block)
    return found


class _RegularFileReader:
    """A plain file, read block by block."""

    def __init__(self, folder: int, name: str) -> None:
        # What is no plain file (a pipe, say) must not keep us waiting.
        self._fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        found = os.fstat(self._fd)
        self.size = found.st_size
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "no plain file")

    def read(self) -> bytes:
        return os.read(self._fd, _READ_SIZE)

    def close(self) -> None:
        os.close(self._fd)


def sync_folder(folder: int) -> None:
    """Make a folder's entries durable, where the file system knows how."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
