"""``Owners``: which task a file in the folder belongs to, kept next to the files it speaks of.

It lets a task replace its own files and keeps it from another's. It is a help, not the truth: if it is
lost or damaged, files are told apart by their content, and no export fails for it.
"""

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

_SCHEMA = "CREATE TABLE IF NOT EXISTS owner (key TEXT PRIMARY KEY, task TEXT NOT NULL) WITHOUT ROWID"


class Owners:
    """A SQLite file; safe to use from several threads and processes. Writes are not synced: see above."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def take(self, key: str, task_id: str) -> str:
        """Reserve a path for a task if nobody has it; return whose it is now."""
        with self._lock:
            try:
                return self._take(key, task_id)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
                    raise OSError(f"{self._path}: {error}") from error
                self._set_aside()
                return self._take(key, task_id)

    def known(self, key: str) -> bool:
        """Whether the path is anybody's."""
        with self._lock, suppress(sqlite3.DatabaseError):
            return self._open().execute("SELECT 1 FROM owner WHERE key = ?", (key,)).fetchone() is not None
        return False

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        with self._lock:
            if self._database:
                self._database.close()
            self._database = None

    def _take(self, key: str, task_id: str) -> str:
        database = self._open()
        found = database.execute("SELECT task FROM owner WHERE key = ?", (key,)).fetchone()
        if found is None:
            database.execute("INSERT INTO owner VALUES (?, ?) ON CONFLICT DO NOTHING", (key, task_id))
            found = database.execute("SELECT task FROM owner WHERE key = ?", (key,)).fetchone()
        return str(found[0])

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            database = sqlite3.connect(self._path, timeout=30, isolation_level=None, check_same_thread=False)
            try:
                for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", _SCHEMA):
                    database.execute(statement)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _set_aside(self) -> None:
        if self._database:
            self._database.close()
        self._database = None
        for ending in ("", "-wal", "-shm"):
            damaged = self._path.with_name(self._path.name + ending)
            with suppress(FileNotFoundError):
                damaged.replace(damaged.with_name(damaged.name + ".damaged"))
