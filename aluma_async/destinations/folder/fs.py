"""Blocking file operations on a name in an open folder. They know nothing about tasks.

A folder is a descriptor that was opened inside its parent and never through a link. If a path is replaced by a link
meanwhile, no operation leaves the root through it. Names are UTF-8 on disk, whatever the locale.
"""

import errno
import hashlib
import os
import stat
from contextlib import closing, suppress
from typing import TypeAlias

from aluma_async.destinations.folder.no_replace import move_new
from aluma_async.policy.naming import MAX_NAME_BYTES
from aluma_async.private_files import NEW

# What fsync of a folder returns on a file system that does not support it (NFS, CIFS, some FUSE file systems).
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EISDIR}
# Errors that affect every file of the folder, not only the file in question.
_UNAVAILABLE = (
    "ENOSPC EDQUOT EROFS EACCES EPERM EIO ESTALE EMFILE ENFILE ENOMEM ENODEV ENXIO ENOTCONN EHOSTDOWN ETIMEDOUT"
)
FULL = {errno.ENOSPC, errno.EDQUOT}
NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}
UNAVAILABLE = {getattr(errno, name) for name in _UNAVAILABLE.split() if hasattr(errno, name)}
_MAX_CHUNKS = 1024  # the limit of Linux for one call
_MIN_NAME_BYTES = 64
_READ_SIZE = 256 * 1024
_MAX_TEXT_BYTES = 100

FileId: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size and modification time: different for each version of a file, also if an inode is used again."""


def create(folder: int, name: str, mode: int = 0o666) -> int:
    """Create a file and open it for writing. An existing one is removed, because a restarted download uses its name."""
    try:
        return os.open(name.encode(), NEW, mode, dir_fd=folder)
    except FileExistsError:
        os.unlink(name.encode(), dir_fd=folder)
        return os.open(name.encode(), NEW, mode, dir_fd=folder)


def write_file(folder: int, name: str, data: bytes, *, sync: bool) -> int:
    """Write a new file and return its descriptor; ``sync`` starts writing it to the disk."""
    fd = create(folder, name)
    try:
        while data:
            data = data[os.write(fd, data) :]  # one call nearly always writes everything
        if sync and hasattr(os, "posix_fadvise"):
            # Starts the write-back without waiting, so that the files of a batch are written in parallel.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except BaseException:
        os.close(fd)
        raise
    return fd


def try_to_write(folder: int, name: str, size: int, *, sync: bool) -> None:
    """Write a file of a size, and remove it, also if that fails, because it may fill the disk."""
    try:
        fd = write_file(folder, name, bytes(size), sync=sync)
        try:
            fsync_checked(fd, size, sync=sync)
        finally:
            os.close(fd)
    finally:
        unlink(folder, name)


def write_all(fd: int, chunks: list[bytes]) -> None:
    """Write chunks one after the other, in as few system calls as possible. Empties the list."""
    while chunks:
        written = os.writev(fd, chunks[:_MAX_CHUNKS])
        while chunks and written >= len(chunks[0]):
            written -= len(chunks.pop(0))
        if written:
            chunks[0] = chunks[0][written:]


def fsync_checked(fd: int, expected: int, *, sync: bool) -> FileId:
    """Check the size of a written file, make it durable if ``sync`` is set, and return its identity."""
    status = os.fstat(fd)
    if status.st_size != expected:
        raise OSError(errno.EIO, f"{expected} bytes were written, but the file has {status.st_size}")
    if sync:
        os.fsync(fd)
    return file_id(status)


def open_folder(name: str | os.PathLike[str], *, inside: int | None = None) -> int:
    """Open a folder; inside another folder it must not be a link."""
    no_link = 0 if inside is None else os.O_NOFOLLOW
    path = name.encode() if isinstance(name, str) else name
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | no_link, dir_fd=inside)


def max_name_bytes(folder: int) -> int:
    """Return the length limit of names, in bytes."""
    try:
        limit = os.fpathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return MAX_NAME_BYTES
    return limit if _MIN_NAME_BYTES <= limit < MAX_NAME_BYTES else MAX_NAME_BYTES  # some systems return nonsense


def names(folder: int) -> list[str]:
    """Return the names of all entries."""
    listed = os.listdir(folder)
    return [os.fsencode(name).decode(errors="surrogateescape") for name in listed]


def lstat(folder: int, name: str) -> os.stat_result | None:
    """Return the status of an entry without following a link; None if there is no such entry."""
    try:
        return os.stat(name.encode(), dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def file_id(status: os.stat_result) -> FileId:
    """Return the identity of a file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_text(folder: int, name: str) -> str:
    """Return the beginning of a small file."""
    fd = os.open(name.encode(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        return os.read(fd, _MAX_TEXT_BYTES).decode(errors="replace")
    finally:
        os.close(fd)


def move(source: int, name: str, folder: int, final: str, *, moved: FileId, replaced: FileId | None) -> None:
    """Move a file from the folder ``source`` to its final name.

    It replaces only the file ``replaced``; if that is None, nothing. Otherwise it raises ``FileExistsError``. No system
    call compares and replaces in one step, so the comparison comes directly before the rename.
    """
    if replaced is not None:
        existing = lstat(folder, final)
        if existing is None or file_id(existing) != replaced:
            raise FileExistsError(errno.EEXIST, "the file was changed or removed meanwhile")
    try:
        if replaced is None:
            move_new(source, name, folder, final)
        else:
            os.replace(name.encode(), final.encode(), src_dir_fd=source, dst_dir_fd=folder)
    except OSError:
        # A network share may execute the rename, lose its reply, and reject the repetition.
        existing = lstat(folder, final)
        if existing is None or file_id(existing)[:2] != moved[:2]:
            raise
        unlink(source, name)


def unlink(folder: int, name: str) -> None:
    """Remove a file if it exists."""
    with suppress(FileNotFoundError):
        os.unlink(name.encode(), dir_fd=folder)


def unlink_if_same(folder: int, name: str, expected: FileId) -> None:
    """Remove a file if it is still the expected one."""
    existing = lstat(folder, name)
    if existing and file_id(existing) == expected:
        unlink(folder, name)


def same_content(one: tuple[int, str], other: tuple[int, str]) -> bool:
    """Return whether two files (folder, name) have the same content; False if one is not a regular file."""
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


def sha256(folder: int, name: str) -> "hashlib._Hash":
    """Read a regular file and return its SHA-256."""
    digest = hashlib.sha256()
    with closing(_RegularFileReader(folder, name)) as file:
        while block := file.read():
            digest.update(block)
    return digest


class _RegularFileReader:
    """A regular file that is read block by block."""

    def __init__(self, folder: int, name: str) -> None:
        # Without O_NONBLOCK, opening a named pipe would wait for its other end.
        self._fd = os.open(name.encode(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        status = os.fstat(self._fd)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "not a regular file")

    def read(self) -> bytes:
        return os.read(self._fd, _READ_SIZE)

    def close(self) -> None:
        os.close(self._fd)


def sync_folder(folder: int) -> None:
    """Make the entries of a folder durable if the file system supports it."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
