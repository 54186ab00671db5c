"""``Owners``: an index of the task that each file in the folder belongs to, stored next to the files.

With it, a task replaces its own files and never those of another task. This index is advisory: if it is lost or
damaged, files are compared by content instead, and exports continue.
"""

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from aluma_async import sqlite_file
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.private_files import refuse_link

_CREATE = "CREATE TABLE IF NOT EXISTS owner (key TEXT PRIMARY KEY, task TEXT NOT NULL) WITHOUT ROWID"
_SET_UP: Mapping[str, Sequence[str]] = {
    # Not damaged by a power loss, and no fsync for each task. Needs shared memory.
    "wal": ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", _CREATE),
    "truncate": ("PRAGMA journal_mode=TRUNCATE", "PRAGMA synchronous=FULL", _CREATE),
    "": (_CREATE,),
}
"""The statements for each journal mode; none for a private index that ends with the process."""
_SELECT_ALL = "SELECT key, task FROM owner WHERE key IN (SELECT value FROM json_each(?))"
_SELECT = "SELECT task FROM owner WHERE key = ?"
_DELETE = "DELETE FROM owner WHERE key = ?"
_INSERT = "INSERT OR REPLACE INTO owner SELECT key, value FROM json_each(?)"
TIMEOUT_SECONDS = 30.0
"""Seconds for which a transaction waits until those of other exporters have ended."""
BUSY_SECONDS = 1.0
"""The same after a transaction has waited in vain, so that not each batch of tasks waits for a stopped exporter."""
_BUSY_HINT = "Continue or end the other exporter that uses the folder: it may be stopped within a transaction."
_NO_INDEX = (
    "its file system has no file locks, so that the tasks of its files are forgotten at the end of the process: "
    "use it with one exporter only"
)
# An error that affects all tasks (a full disk) must be distinguishable from one that affects one task (a busy file).
_ERRNOS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_CANTOPEN: errno.EIO,
}


class Owners:
    """A SQLite file, used by many threads and several processes, one transaction at a time.

    Where the file system has neither locks nor shared memory, the index is a temporary file of this process.
    """

    warning = ""
    """What ``choose_mode`` has found to be restricted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mode = "wal"
        self.is_busy = False
        """Whether the last transaction has waited in vain for another exporter."""
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        # Within the current transaction: rows read from the table, and rows to be inserted.
        self._known: dict[str, str | None] = {}
        self._new: dict[str, str] = {}

    @contextmanager
    def transaction(self, keys: Sequence[str] = ()) -> Iterator[None]:
        """Run ``owner_of`` and ``assign`` in one transaction; ``keys`` are looked up in advance, in one statement.

        Raises ``OSError`` if the file cannot be used, and ``DestinationUnavailable`` if another exporter holds it.
        """
        with self._lock:
            try:
                self._close_if_replaced()
                try:
                    self._begin()
                except sqlite3.Error as error:
                    if not sqlite_file.is_damaged(error):
                        raise
                    self._move_damaged_aside()
                    self._begin()
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
                if sqlite_file.is_busy(error):
                    self.is_busy = True
                    problem = f"folder {self._path.parent.parent}: its {self._path.name} is locked by another program"
                    raise DestinationUnavailable(problem, hint=_BUSY_HINT) from error
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

    def choose_mode(self, trial: Path) -> None:
        """Choose how the file is used, by means of a trial file in the same file system that nobody else uses."""
        self._mode = next((mode for mode in _SET_UP if mode and _works(trial, mode)), "")
        self.warning = "" if self._mode else _NO_INDEX

    def check(self) -> None:
        """Raise ``DestinationUnavailable`` if the last transaction has waited in vain, and the next one would, too."""
        if self.is_busy:
            with self.transaction():
                pass

    def close(self) -> None:
        """Close the file. The next transaction opens it again."""
        with self._lock:
            self._close()

    def _begin(self) -> None:
        database = self._open()
        if self.is_busy:
            database.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
        database.execute("BEGIN IMMEDIATE")
        if self.is_busy:
            self.is_busy = False
            database.execute(f"PRAGMA busy_timeout = {TIMEOUT_SECONDS * 1000:.0f}")

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            if self._mode:
                for ending in sqlite_file.SIDE_FILES:
                    refuse_link(self._path.with_name(self._path.name + ending))
                self._file = _make_private(self._path)
            path = str(self._path) if self._mode else ""
            timeout = BUSY_SECONDS if self.is_busy else TIMEOUT_SECONDS
            self._database = sqlite_file.connect(path, _SET_UP[self._mode], timeout=timeout)
        return self._database

    def _close_if_replaced(self) -> None:
        """Close the file if another one has its name, because the folder may have been replaced by a copy."""
        if not self._mode:
            return
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


def _make_private(path: Path) -> os.stat_result:
    """Create the file if it is missing, and let only the user read it, because it contains names of documents."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        with suppress(OSError):  # it belongs to another user, or the file system has no modes
            os.fchmod(fd, 0o600)
        return os.fstat(fd)
    finally:
        os.close(fd)


def _works(path: Path, mode: str) -> bool:
    """Return whether the file system supports a journal mode. Raises ``OSError`` if it is full."""
    try:
        with closing(sqlite_file.connect(path, _SET_UP[mode], timeout=0)) as database:
            with sqlite_file.transaction(database):
                database.execute("INSERT INTO owner VALUES ('key', 'task')")
            (used,) = database.execute("PRAGMA journal_mode").fetchone()  # without an error, it may be another one
            return str(used) == mode
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        return False
    finally:
        for ending in ("", *sqlite_file.SIDE_FILES):
            path.with_name(path.name + ending).unlink(missing_ok=True)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
