"""SQLite files that several parts of the program use: how they are opened, and what happens to damaged ones."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from aluma_async.clock import thread_sleep, thread_time

_PAUSE_SECONDS = 0.01
SIDE_FILES = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite creates next to a file."""


def connect(path: Path | str, set_up: Sequence[str], *, timeout: float) -> sqlite3.Connection:
    """Open a file, wait at most ``timeout`` seconds for other users, and execute ``set_up``. Raises ``sqlite3.Error``.

    An empty path is a temporary file, which is removed when it is closed.
    Transactions are explicit, and any thread may use the connection, one at a time.
    """
    # SQLite does not wait while another user changes the journal mode, or recovers or removes the write-ahead log.
    end = thread_time() + timeout
    while True:
        try:
            return _connect(path, set_up, timeout)
        except sqlite3.OperationalError as error:
            if not is_busy(error) or thread_time() >= end:
                raise
        thread_sleep(_PAUSE_SECONDS)


def _connect(path: Path | str, set_up: Sequence[str], timeout: float) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        for statement in set_up:
            database.execute(statement)
    except BaseException:
        database.close()
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction; roll it back after an exception."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def is_damaged(error: sqlite3.Error) -> bool:
    """Return whether an error means that the content is damaged; a full, read-only or busy file is not."""
    return not isinstance(error, sqlite3.OperationalError)


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether an error means that another user holds the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY  # without the extended part


def move_aside(path: Path, suffix: str) -> Path:
    """Append ``suffix`` to the names of a damaged file and of its side files; return the new path of the file."""
    for ending in ("", *SIDE_FILES):
        with suppress(FileNotFoundError):
            file = path.with_name(path.name + ending)
            file.replace(file.with_name(file.name + suffix))
    return path.with_name(path.name + suffix)
