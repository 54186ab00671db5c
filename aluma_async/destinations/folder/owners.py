"""``Owners``: which task a file in the folder belongs to, kept next to the files it speaks of.

It lets a task replace its own files and keeps it from another's. It is a help, not the truth: if it is
lost or damaged, files are told apart by their content, and no export fails for it.
"""

import errno
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

_SET_UP = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",  # never damaged by a power loss, and no sync for each task
    "CREATE TABLE IF NOT EXISTS owner (key TEXT PRIMARY KEY, task TEXT NOT NULL) WITHOUT ROWID",
)
_KNOWN = "SELECT key, task FROM owner WHERE key IN (SELECT value FROM json_each(?))"
_TAKE = "INSERT INTO owner SELECT key, value FROM json_each(?)"
# What concerns all tasks has to be told apart from what concerns one: a full disk from a file that is busy.
_ERRNOS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
}


class Owners:
    """A SQLite file, used from many threads and from several processes, one transaction at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._known: dict[str, str | None] = {}  # in this transaction
        self._taken: dict[str, str] = {}

    @contextmanager
    def transaction(self, keys: Sequence[str] = ()) -> Iterator[None]:
        """What is looked up and taken inside belongs together; ``keys``: what will be, looked up in one step.

        Raises ``OSError`` if the file cannot be used.
        """
        with self._lock:
            try:
                try:
                    self._open().execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    raise  # busy, full, read-only: nothing is wrong with what it holds
                except sqlite3.DatabaseError:
                    self._move_damaged_aside()
                    self._open().execute("BEGIN IMMEDIATE")
                # Each statement hands the interpreter's lock on and back, which is dearer than what it does.
                self._known = dict.fromkeys(keys)
                self._known.update(self._open().execute(_KNOWN, (_text(list(keys)),)))
                self._taken = {}
                yield
                if self._taken:
                    self._open().execute(_TAKE, (_text(self._taken),))
                self._open().execute("COMMIT")
            except sqlite3.Error as error:
                if not isinstance(error, sqlite3.OperationalError):
                    self._move_damaged_aside()  # damaged further in: the next attempt begins with a new one
                code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details
                raise OSError(_ERRNOS.get(code, errno.EAGAIN), f"{self._path.name}: {error}") from error
            finally:
                if self._database and self._database.in_transaction:
                    self._database.execute("ROLLBACK")

    def of(self, key: str) -> str | None:
        """Tell whose a path is; None: nobody's. Only inside a transaction."""
        if key not in self._known:
            found = self._open().execute("SELECT task FROM owner WHERE key = ?", (key,)).fetchone()
            self._known[key] = found and found[0]
        return self._known[key]

    def take(self, key: str, task_id: str) -> None:
        """Give a path that is nobody's to a task. Only inside a transaction."""
        self._known[key] = self._taken[key] = task_id

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        with self._lock:
            self._close()

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
            for statement in _SET_UP:
                self._database.execute(statement)
        return self._database

    def _close(self) -> None:
        if self._database:
            self._database.close()
        self._database = None

    def _move_damaged_aside(self) -> None:
        self._close()
        for ending in ("", "-wal", "-shm"):
            damaged = self._path.with_name(self._path.name + ending)
            with suppress(FileNotFoundError):
                damaged.replace(damaged.with_name(damaged.name + ".damaged"))


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
