"""``Permissions``: modes, groups and access control lists of exported files and folders. All of it blocks.

Files and folders follow the umask, unless the configuration has modes. A folder is created at its place and inherits
from its parent. A file is created in the staging folder, so what its own folder passes on (the group of a setgid
folder, a default access control list) is applied before it is moved there.
"""

import os
import stat
import struct
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

_DEFAULT_ACL, _ACCESS_ACL = "system.posix_acl_default", "system.posix_acl_access"
_ACL_HEADER, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20
_NEW_FILE = 0o666
_NEW_FOLDER = 0o777


class Inheritance(NamedTuple):
    """What a folder passes on to new files."""

    group: int | None
    """The group of a setgid folder."""
    acl: bytes | None
    """The default access control list."""

    @classmethod
    def of(cls, folder: int) -> "Inheritance":
        """Return what an open folder passes on."""
        status = os.fstat(folder)
        acl = None
        if hasattr(os, "getxattr"):
            with suppress(OSError):  # there is none, or the file system has none
                acl = os.getxattr(folder, _DEFAULT_ACL)
        return cls(status.st_gid if status.st_mode & stat.S_ISGID else None, acl)


class Permissions(NamedTuple):
    """The configured modes; None: the umask decides."""

    file_mode: int | None = None
    folder_mode: int | None = None

    def make_folder(self, parent: int, name: str) -> None:
        """Create a folder. Raises ``FileExistsError``."""
        os.mkdir(name.encode(), _NEW_FOLDER, dir_fd=parent)
        if self.folder_mode is not None:
            inherited = os.stat(name.encode(), dir_fd=parent, follow_symlinks=False).st_mode & stat.S_ISGID
            os.chmod(name.encode(), self.folder_mode | inherited, dir_fd=parent)

    def apply(self, staging: int, name: str, staged: Inheritance, final: Inheritance, *, sync: bool) -> None:
        """Give a staged file the permissions that it would have if it had been created in its final folder."""
        if staged == final and self.file_mode is None:
            return
        with closing(_File(staging, name)) as file:
            if staged.group != final.group:
                with suppress(PermissionError):  # the user is not a member of the group
                    os.fchown(file.fd, -1, os.getegid() if final.group is None else final.group)
            if staged.acl != final.acl:
                file.set_acl(final.acl)
            if self.file_mode is not None:
                os.fchmod(file.fd, self.file_mode)
            if sync:
                os.fsync(file.fd)


class _File:
    """An open file."""

    def __init__(self, folder: int, name: str) -> None:
        self.fd = os.open(name.encode(), os.O_WRONLY | os.O_NOFOLLOW, dir_fd=folder)

    def set_acl(self, default: bytes | None) -> None:
        """Replace the access control list by the one that follows from the default list of a folder."""
        if default is None:
            with suppress(OSError):
                os.removexattr(self.fd, _ACCESS_ACL)
            os.fchmod(self.fd, _NEW_FILE & ~_umask())
        else:
            os.setxattr(self.fd, _ACCESS_ACL, _for_file(default))

    def close(self) -> None:
        os.close(self.fd)


def _for_file(acl: bytes) -> bytes:
    """Return an access control list without the right to execute, as the system derives it for a new file."""
    entries = list(_ACL_ENTRY.iter_unpack(acl[_ACL_HEADER.size :]))
    group = _MASK if any(tag == _MASK for tag, _, _ in entries) else _GROUP_OBJ
    limited = [
        (tag, rights & _NEW_FILE & 0o7 if tag in (_USER_OBJ, group, _OTHER) else rights, subject)
        for tag, rights, subject in entries
    ]
    return acl[: _ACL_HEADER.size] + b"".join(_ACL_ENTRY.pack(*entry) for entry in limited)


def _umask() -> int:
    """Return the umask of this process; setting it would affect other threads."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o077
