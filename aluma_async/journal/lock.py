"""The lock of a journal's folder, which only one process holds. The system ends it with the process.

It consists of two locks: of the file ``lock``, and of the folder itself, because the file could be deleted meanwhile.
Some network file systems cannot lock a folder; there, the file is the only lock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from aluma_async.clock import thread_sleep, thread_time
from aluma_async.exceptions import JournalLocked
from aluma_async.journal.database import LOCK_NAME, map_errors
from aluma_async.journal.folders import journal_folders
from aluma_async.private_files import check_folder, open_private, refuse_link

_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_MAX_WAIT_SECONDS, _RETRY_SECONDS = 1.0, 0.01
"""Time for which ``is_locked`` in another process may delay a lock, and time between two attempts."""


def acquire_lock(folder: Path) -> ExitStack:
    """Lock a folder until the returned stack is closed. Raises ``JournalLocked``, and ``OSError``."""
    with ExitStack() as stack:
        fd = open_private(folder / LOCK_NAME)
        stack.callback(os.close, fd)
        opened = os.open(folder, _FOLDER)
        stack.callback(os.close, opened)
        try:
            _lock(fd)
            with _unsupported_ignored():
                _lock(opened)
        except OSError:
            raise JournalLocked(
                f"state folder {folder}: in use by another exporter",
                hint="Stop the other exporter, or set another folder with --state.",
            ) from None
        return stack.pop_all()


@contextmanager
def lock_folder(state: Path) -> Iterator[None]:
    """Lock a state folder as a running exporter does, with the folders of its further processes.

    Raises ``JournalLocked``, ``JournalError``.
    """
    check_folder("state folder", state)
    with ExitStack() as stack:
        for folder in journal_folders(state):
            with map_errors(folder / LOCK_NAME):
                stack.enter_context(acquire_lock(folder))
        yield


def is_locked(state: Path) -> bool:
    """Return whether an exporter uses the state folder now, or one of its processes. Raises ``JournalError``."""
    for folder in journal_folders(state):
        path = folder / LOCK_NAME
        with map_errors(path):
            refuse_link(path)
            if _is_locked(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK) or _is_locked(folder, _FOLDER):
                return True
    return False


def _lock(fd: int) -> None:
    """Lock an open file or folder. Raises ``OSError``, at once if an exporter has locked it.

    The shared lock shows which of both it is: the one of ``is_locked`` is shared, too, and lasts for a moment only.
    """
    deadline = thread_time() + _MAX_WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if thread_time() > deadline:
                raise
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
        thread_sleep(_RETRY_SECONDS)


@contextmanager
def _unsupported_ignored() -> Iterator[None]:
    """Ignore that the file system cannot lock a folder."""
    try:
        yield
    except BlockingIOError:
        raise
    except OSError:
        pass


def _is_locked(path: Path, flags: int) -> bool:
    with suppress(FileNotFoundError):
        fd = os.open(path, flags)
        try:
            with _unsupported_ignored():
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    return False
