"""``move_new``: moves a file to a name that no other file may have. It blocks.

Names that this program regards as different can be one name for the file system (case, Unicode), and another program
can create a file at any time. So the file system decides: by the system call ``renameat2``, or with a hard link. Where
neither is supported, the name is checked before the rename.
"""

import ctypes
import errno
import os
import sys
from contextlib import suppress

_NO_REPLACE = 1
# What file systems, kernels and containers return for what they do not support.
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EMLINK}


def rename_no_replace(source: int, name: bytes, folder: int, final: bytes) -> None:
    """Rename a file with ``renameat2``. Raises ``OSError``: ``FileExistsError`` if something has the final name."""
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    sys.audit("os.rename", name, final, source, folder)  # as ``os.rename`` does
    if _renameat2(source, name, folder, final, _NO_REPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def link_and_unlink(source: int, name: bytes, folder: int, final: bytes) -> None:
    """Give a file its final name with a hard link. Raises ``OSError`` as above."""
    os.link(name, final, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
    with suppress(OSError):  # the file has its final name; the other one is removed later
        os.unlink(name, dir_fd=source)


def check_and_rename(source: int, name: bytes, folder: int, final: bytes) -> None:
    """Rename a file if nothing has the final name. Raises ``OSError`` as above."""
    with suppress(FileNotFoundError):
        os.stat(final, dir_fd=folder, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.replace(name, final, src_dir_fd=source, dst_dir_fd=folder)


WAYS = [rename_no_replace, link_and_unlink, check_and_rename]
"""The ways to move a file, the best one first."""


def move_new(source: int, name: str, folder: int, final: str) -> None:
    """Move a file from the folder ``source`` to a free name. Raises ``FileExistsError`` if the name is not free."""
    *ways, last = WAYS
    for way in ways:
        try:
            return way(source, name.encode(), folder, final.encode())
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    return last(source, name.encode(), folder, final.encode())


def _find_renameat2() -> "ctypes._NamedFuncPointer | None":
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, TypeError, AttributeError):  # macOS, Windows, old C libraries
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


_renameat2 = _find_renameat2()
