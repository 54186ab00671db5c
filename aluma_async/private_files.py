"""Files and folders that belong to the exporter alone: its state, its quarantine, ``.aluma-async``. All of it blocks.

Another user who can write to such a folder could replace files in it, and one who owns it can also change its mode.
Root is trusted. Where a share maps users or has no modes, the owner and the mode of a new file show what is normal.
"""

import os
import secrets
import stat
from collections.abc import Collection
from contextlib import suppress

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
"""Flags for creating a file. An existing file or link is neither used nor followed."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


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
