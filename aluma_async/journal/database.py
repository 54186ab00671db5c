"""The file ``journal.sqlite3``: its tables, its lock, and the conversion of its errors.

The exporter writes it (``sqlite``), and commands use it at the same time (``reader``).
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from aluma_async import sqlite_file
from aluma_async.clock import system_clock
from aluma_async.exceptions import JournalError
from aluma_async.journal import history
from aluma_async.journal.records import Key, Record
from aluma_async.models import BreakerRecord, ClaimRecord, ExportRecord, HoldRecord
from aluma_async.private_files import refuse_link

FILE_NAME = "journal.sqlite3"
LOCK_NAME = "lock"
_KINDS: dict[str, type[Record]] = {"claim": ClaimRecord, "hold": HoldRecord, "failed": BreakerRecord}
_TABLES: dict[type[Record], str] = {ClaimRecord: "record", HoldRecord: "record", BreakerRecord: "breaker"}
"""An earlier version takes an unknown kind of record for damage, but ignores an unknown table."""
VERSION = 1
"""Format of the file (``PRAGMA user_version``); 0: written by a version that did not number it."""
_CONNECT = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL")
_SET_UP = (
    "CREATE TABLE IF NOT EXISTS record (kind TEXT, task TEXT, value TEXT, PRIMARY KEY (kind, task)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS breaker (kind TEXT, task TEXT, value TEXT, PRIMARY KEY (kind, task)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS released (task TEXT PRIMARY KEY) WITHOUT ROWID",
    history.SET_UP,
    f"PRAGMA user_version={VERSION}",
)
_LOAD = "SELECT kind, task, value FROM {} ORDER BY kind, task"
_STORE = "INSERT OR REPLACE INTO {} SELECT ?, key, value FROM json_each(?)"
_DELETE = "DELETE FROM {} WHERE kind = ? AND task IN (SELECT value FROM json_each(?))"
_HINT = "Check free space and permissions, or set another folder with --state."


class JournalDamagedError(JournalError):
    """The file is not a journal, or is damaged."""


@contextmanager
def map_errors(path: Path) -> Iterator[None]:
    """Convert errors of SQLite and the operating system; the only place that knows them."""
    try:
        yield
    except OSError as error:
        raise JournalError(f"state folder {path.parent}: {error.strerror or error}", hint=_HINT) from error
    except (sqlite3.Error, ValueError, KeyError) as error:
        if isinstance(error, sqlite3.Error) and not sqlite_file.is_damaged(error):
            raise JournalError(f"{path}: {error}", hint=_HINT) from error
        raise JournalDamagedError(f"{path} is damaged: {error}") from error


def connect(path: Path) -> sqlite3.Connection:
    """Open a journal file. Raises ``sqlite3.Error``, and ``JournalError`` if a newer version has written it.

    Raises ``OSError`` if the file or one of its side files is a link.
    """
    for ending in ("", *sqlite_file.SIDE_FILES):
        refuse_link(path.with_name(path.name + ending))
    database = sqlite_file.connect(path, _CONNECT, timeout=10)
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise JournalError(
                f"{path}: written by a newer version of aluma-async (format {version}, not {VERSION})",
                hint="Install that version again, or set another folder with --state.",
            )
        for statement in _SET_UP:
            database.execute(statement)
    except BaseException:
        database.close()
        raise
    return database


def read_records(database: sqlite3.Connection) -> tuple[list[Record], list[str]]:
    """Return all records of a journal file, and a description of each row that cannot be read.

    Raises ``sqlite3.Error``.
    """
    records: list[Record] = []
    unreadable: list[str] = []
    for table in dict.fromkeys(_TABLES.values()):
        for kind, task, value in database.execute(_LOAD.format(table)):
            try:
                records.append(msgspec.json.decode(value, type=_KINDS[kind]))
            except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
                unreadable.append(f"{kind!r} of task {task!r} ({type(error).__name__})")
    return records, unreadable


def write_changes(
    database: sqlite3.Connection,
    changes: Mapping[Key, Record | None],
    exported: Sequence[ExportRecord] = (),
    *,
    trim: bool = False,
) -> None:
    """Write changes in one transaction with few statements, because each one releases and acquires the GIL."""
    with sqlite_file.transaction(database):
        for name, kind in _KINDS.items():
            of_kind = [(task, record) for (key_kind, task), record in changes.items() if key_kind is kind]
            if stored := {task: record for task, record in of_kind if record is not None}:
                database.execute(_STORE.format(_TABLES[kind]), (name, _json(stored)))
            if deleted := [task for task, record in of_kind if record is None]:
                database.execute(_DELETE.format(_TABLES[kind]), (name, _json(deleted)))
        if exported:
            history.insert(database, exported)
        if trim:
            history.trim(database, system_clock().wall)


def pop_released(database: sqlite3.Connection) -> list[str]:
    """Delete and return the ids of the released tasks. Raises ``sqlite3.Error``."""
    released = [str(task_id) for (task_id,) in database.execute("SELECT task FROM released")]
    if released:
        with sqlite_file.transaction(database):
            database.executemany("DELETE FROM released WHERE task = ?", [(task_id,) for task_id in released])
    return released


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
