"""Files and folders that belong to the exporter alone: its state, its quarantine, ``.aluma-async``. All of it blocks.

Another user who can write to such a folder could replace files in it, and one who owns it can also change its mode.
Root is trusted. Where a share maps users or has no modes, the owner and the mode of a new file show what is normal.
"""

import errno
import os
import secrets
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aluma_async.exceptions import ConfigError

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
"""Flags for creating a file. An existing file or link is neither used nor followed."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_HINT = (
    "Check its files, then change its owner to the user of the exporter and its mode to 0700, or set another folder "
    "with --state."
)


def foreign_access(folder: int, trusted: Collection[int] = ()) -> str:
    """Return why another user can change the files in an open folder; empty if none can.

    Members of its group are not considered, because a group is often private. ``trusted`` are users besides root.
    """
    status, own = os.fstat(folder), {os.geteuid(), 0, *trusted}
    if status.st_uid in own and not status.st_mode & stat.S_IWOTH:
        return ""
    new = _status_of_new_file(folder)
    if status.st_mode & stat.S_IWOTH and not (new and new.st_mode & stat.S_IWOTH):
        return "every user may write to it"
    if status.st_uid not in own and not (new and new.st_uid == status.st_uid):
        return f"it belongs to the user {status.st_uid}"
    return ""


def check_folder(label: str, folder: Path) -> str:
    """Return a warning about a private folder, which need not exist; empty if other users cannot change its files.

    Raises ``ConfigError`` if they can. It is only a warning where that is usual: root uses a folder of another user,
    such as a folder of the host in a container, or all users may write to a folder of root, such as a ``tmpfs``.
    """
    subject = f"{label} {folder}"
    with suppress(OSError), _opened(folder) as fd:  # another error is reported when the folder is used
        link, status = folder.lstat(), os.fstat(fd)
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
            raise ConfigError(f"{subject} is not safe: it is a link of the user {link.st_uid}", hint=_HINT)
        if reason := foreign_access(fd):
            by_all = bool(status.st_mode & stat.S_IWOTH)
            if status.st_uid == 0 or (os.geteuid() == 0 and not by_all):
                return f"{subject}: {reason}; other users can replace its files"
            raise ConfigError(f"{subject} is not safe: {reason}", hint=_HINT)
        if status.st_mode & stat.S_IWGRP and status.st_gid not in (os.getegid(), *os.getgroups()):
            return f"{subject}: the group {status.st_gid}, to which the exporter does not belong, may write to it"
    return ""


def open_private(path: Path) -> int:
    """Open a file in a private folder for reading and writing; create it for this user only.

    Raises ``OSError``, also for a link and for a file of another user, who could have prepared it.
    """
    refuse_link(path)
    with _opened(path.parent) as folder:
        fd = os.open(path.name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=folder)
        try:
            _take_from_others(fd, folder, path.name)
        except BaseException:
            os.close(fd)
            raise
        return fd


def refuse_link(path: Path) -> None:
    """Raise ``OSError`` if a path is a symbolic link."""
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a symbolic link, and links are not followed")


def _take_from_others(file: int, folder: int, name: str) -> None:
    """Check the owner of an open file, and take the right to write from all users who are not in its group."""
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"{name} is not a regular file")
    if status.st_uid not in (0, os.geteuid(), os.fstat(folder).st_uid):
        new = _status_of_new_file(folder)
        if not (new and new.st_uid == status.st_uid):
            raise OSError(errno.EPERM, f"{name} belongs to the user {status.st_uid}")
    if status.st_mode & stat.S_IWOTH:
        with suppress(OSError):  # the file system has no modes
            os.fchmod(file, stat.S_IMODE(status.st_mode) & ~stat.S_IWOTH)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, _FOLDER)
    try:
        yield fd
    finally:
        os.close(fd)


def _status_of_new_file(folder: int) -> os.stat_result | None:
    """Return the status of a file that is created in a folder for this user only; None if that is not possible."""
    name = f".{secrets.token_hex(8)}.new"
    with suppress(OSError):
        fd = os.open(name, NEW, 0o600, dir_fd=folder)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=folder)
    return None
