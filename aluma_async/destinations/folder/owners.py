"""``Owners``: an index of the task that each file in the folder belongs to, stored next to the files.

With it, a task replaces its own files and never those of another task. This index is advisory: if it is lost or
damaged, files are compared by content instead, and exports continue.
"""

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from aluma_async import sqlite_file

_SET_UP = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",  # not damaged by a power loss, and no fsync for each task
    "CREATE TABLE IF NOT EXISTS owner (key TEXT PRIMARY KEY, task TEXT NOT NULL) WITHOUT ROWID",
)
_SELECT_ALL = "SELECT key, task FROM owner WHERE key IN (SELECT value FROM json_each(?))"
_SELECT = "SELECT task FROM owner WHERE key = ?"
_DELETE = "DELETE FROM owner WHERE key = ?"
_INSERT = "INSERT OR REPLACE INTO owner SELECT key, value FROM json_each(?)"
# An error that affects all tasks (a full disk) must be distinguishable from one that affects one task (a busy file).
_ERRNOS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
}


class Owners:
    """A SQLite file, used by many threads and several processes, one transaction at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        # Within the current transaction: rows read from the table, and rows to be inserted.
        self._known: dict[str, str | None] = {}
        self._new: dict[str, str] = {}

    @contextmanager
    def transaction(self, keys: Sequence[str] = ()) -> Iterator[None]:
        """Run ``owner_of`` and ``assign`` in one transaction; ``keys`` are looked up in advance, in one statement.

        Raises ``OSError`` if the file cannot be used.
        """
        with self._lock:
            try:
                self._close_if_replaced()
                try:
                    self._open().execute("BEGIN IMMEDIATE")
                except sqlite3.Error as error:
                    if not sqlite_file.is_damaged(error):
                        raise
                    self._move_damaged_aside()
                    self._open().execute("BEGIN IMMEDIATE")
                # Few statements, because each releases and takes the GIL, which costs more than the statement itself.
                self._known = dict.fromkeys(keys)
                self._known.update(self._open().execute(_SELECT_ALL, (_json(list(keys)),)))
                self._new = {}
                yield
                if self._new:
                    self._open().execute(_INSERT, (_json(self._new),))
                self._open().execute("COMMIT")
            except sqlite3.Error as error:
                if sqlite_file.is_damaged(error):
                    self._move_damaged_aside()  # damaged in another place: the next attempt creates a new file
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code, without the extended part
                raise OSError(_ERRNOS.get(code, errno.EAGAIN), f"{self._path.name}: {error}") from error
            finally:
                if self._database and self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    def owner_of(self, key: str) -> str | None:
        """Return the task that a path belongs to, or None. Only inside a transaction."""
        if key not in self._known:
            row = self._open().execute(_SELECT, (key,)).fetchone()
            self._known[key] = row and row[0]
        return self._known[key]

    def assign(self, key: str, task_id: str) -> None:
        """Record the task as the owner of a path. Only inside a transaction."""
        self._known[key] = self._new[key] = task_id

    def release(self, key: str) -> None:
        """Delete the record of a path's owner. Only inside a transaction."""
        self._known[key] = None
        self._new.pop(key, None)
        self._open().execute(_DELETE, (key,))

    def close(self) -> None:
        """Close the file. The next transaction opens it again."""
        with self._lock:
            self._close()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite_file.connect(self._path, _SET_UP, timeout=30)
            self._file = self._path.stat()
        return self._database

    def _close_if_replaced(self) -> None:
        """Close the file if another one has its name, because the folder may have been replaced by a copy."""
        with suppress(FileNotFoundError):
            if not self._database or os.path.samestat(self._file, os.stat(self._path)):  # noqa: PTH116 - fewer calls
                return
        self._close()

    def _close(self) -> None:
        if self._database:
            self._database.close()
        self._database = None

    def _move_damaged_aside(self) -> None:
        self._close()
        sqlite_file.move_aside(self._path, ".damaged")


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
