"""``SqliteJournal``: the journal in a state folder, durable when a write returns, for one process at a time.

SQLite runs in WAL mode with ``synchronous=FULL``, so that each transaction is synced. Changes that arrive during one
transaction share the next one (group commit). A file that cannot be read is moved aside and reported.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

import msgspec

from aluma_async.clock import system_clock
from aluma_async.concurrency.batcher import Batch, Batcher, wait_uncancelled
from aluma_async.events import JournalDamaged
from aluma_async.exceptions import JournalError, JournalLocked
from aluma_async.journal import history
from aluma_async.journal.memory import Change, Key, Record, to_change
from aluma_async.models import ClaimRecord, ExportRecord, HoldRecord
from aluma_async.ports import OnEvent

T = TypeVar("T")

FILE_NAME = "journal.sqlite3"
_LOCK = "lock"
_KINDS: dict[str, type[Record]] = {"claim": ClaimRecord, "hold": HoldRecord}
_SET_UP = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "CREATE TABLE IF NOT EXISTS record (kind TEXT, task TEXT, value TEXT, PRIMARY KEY (kind, task)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS released (task TEXT PRIMARY KEY) WITHOUT ROWID",
    history.SET_UP,
)
_KEEP = "INSERT OR REPLACE INTO record SELECT ?, key, value FROM json_each(?)"
_DROP = "DELETE FROM record WHERE kind = ? AND task IN (SELECT value FROM json_each(?))"
_HINT = "Check free space and permissions, or set another folder with --state."
_DAMAGED_HINT = "The next run moves it aside and creates a new one."


class SqliteJournal:
    """The file ``journal.sqlite3`` in ``folder``, which is created if missing. Blocking steps run on ``executor``."""

    def __init__(self, folder: Path, *, executor: Executor | None = None, on_event: OnEvent | None = None) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._executor = executor
        self._on_event = on_event or (lambda _: None)
        self._lock: int | None = None
        self._database: sqlite3.Connection | None = None
        # A copy of the file's content, from which the file is re-created if it is found damaged later.
        self._records: dict[Key, Record] = {}
        self._since_trim = history.TRIM_EVERY
        self._batcher: Batcher[Change | ExportRecord] = Batcher(self._write)

    async def load(self) -> Sequence[Record]:
        """Lock the folder for this process and read all records. Raises ``JournalLocked``."""
        damaged = await self._in_thread(self._open)
        if damaged:
            self._on_event(JournalDamaged(str(damaged)))
        return list(self._records.values())

    async def write(self, *records: Record) -> None:
        """Store records; they are synced when this returns."""
        self._batcher.pending += map(to_change, records)
        await self.flush()

    def put(self, record: Record) -> None:
        """Store a record with the next write."""
        self._batcher.add(to_change(record))

    def delete(self, kind: type[Record], task_id: str) -> None:
        """Delete a record with the next write."""
        self._batcher.add(((kind, task_id), None))

    def put_export(self, record: ExportRecord) -> None:
        """Add a task to the history with the next write."""
        self._batcher.add(record)

    async def flush(self) -> None:
        """Write all pending changes, together with those that arrive before the file is free."""
        await self._batcher.flush()

    async def _write(self, batch: Batch[Change | ExportRecord]) -> None:
        if not batch.items:
            return
        try:
            damaged = await wait_uncancelled(self._in_thread(lambda: self._write_batch(batch.items)))
        except JournalError:
            self._batcher.pending[:0] = batch.items  # the next batch tries again
            raise
        if damaged:
            self._on_event(JournalDamaged(str(damaged)))

    async def pop_released(self) -> Sequence[str]:
        """Return the ids that ``release_holds`` was called with, in this process or another."""
        return await self._in_thread(self._pop_released)

    def close(self) -> None:
        """Write pending changes and unlock the folder. It blocks, and MUST NOT be called during a write."""
        if self._batcher.pending and self._database:
            with suppress(JournalError):
                self._write_batch(self._batcher.pending)
        self._disconnect()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _in_thread(self, step: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, step)

    # -- blocking steps, one at a time

    def _open(self) -> Path | None:
        with _map_errors(self._path):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _acquire_lock(self._folder / _LOCK)
        try:
            with _map_errors(self._path):
                self._records = {(type(record), record.task_id): record for record in iter_records(self._connect())}
                return None
        except _Damaged:
            return self._replace_damaged()

    def _write_batch(self, items: Sequence[Change | ExportRecord]) -> Path | None:
        """Write items in one transaction; return the new path of the old file if that was damaged."""
        changes = [item for item in items if isinstance(item, tuple)]
        exported = [item for item in items if isinstance(item, ExportRecord)]
        for key, record in changes:
            self._records.pop(key, None)
            if record is not None:
                self._records[key] = record
        try:
            with _map_errors(self._path):
                self._since_trim += len(exported)
                trim = self._since_trim >= history.TRIM_EVERY
                _write_changes(self._connect(), dict(changes), exported, trim=trim)
                self._since_trim = 0 if trim else self._since_trim
                return None
        except _Damaged:
            return self._replace_damaged()

    def _replace_damaged(self) -> Path:
        """Move a damaged file aside and write all known records into a new one."""
        self._disconnect()
        with _map_errors(self._path):
            names = (self._path.with_name(f"{FILE_NAME}.damaged-{number}") for number in count())
            aside = next(path for path in names if not path.exists())
            self._path.rename(aside)
            for ending in ("-wal", "-shm"):
                self._path.with_name(FILE_NAME + ending).unlink(missing_ok=True)
            _write_changes(self._connect(), self._records)
        return aside

    def _pop_released(self) -> list[str]:
        with _map_errors(self._path):
            database = self._connect()
            released = [str(task_id) for (task_id,) in database.execute("SELECT task FROM released")]
            if released:
                with _transaction(database):
                    database.executemany("DELETE FROM released WHERE task = ?", [(task_id,) for task_id in released])
            return released

    def _connect(self) -> sqlite3.Connection:
        if self._database is None:
            os.close(
                os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)
            )  # a file that SQLite creates would be readable by others
            self._database = connect(self._path)
        return self._database

    def _disconnect(self) -> None:
        if self._database:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None


def connect(path: Path) -> sqlite3.Connection:
    """Open a journal file, for the exporter or for a command next to it. Raises ``sqlite3.Error``."""
    database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    try:
        for statement in _SET_UP:
            database.execute(statement)
    except BaseException:
        database.close()
        raise
    return database


def iter_records(database: sqlite3.Connection) -> Iterator[Record]:
    """Yield all records of a journal file. Raises ``sqlite3.Error``, ``ValueError``."""
    for kind, value in database.execute("SELECT kind, value FROM record ORDER BY kind, task"):
        yield msgspec.json.decode(value, type=_KINDS[kind])


def read_records(folder: Path) -> list[Record]:
    """Return all records of a folder's journal, if any; an exporter may be running. Raises ``JournalError``."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    try:
        with _map_errors(path), closing(connect(path)) as database:
            return list(iter_records(database))
    except _Damaged as error:
        raise JournalError(str(error), hint=_DAMAGED_HINT) from None


def read_history(folder: Path, since: float = 0.0) -> Iterator[ExportRecord]:
    """Yield the tasks exported since a time, oldest first; an exporter may be running. Raises ``JournalError``.

    It reads one page at a time, so that a slow caller does not block the exporter.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return
    try:
        with _map_errors(path), closing(connect(path)) as database:
            after, records = history.page(database, 0, since)
            while after:
                yield from records
                after, records = history.page(database, after, since)
    except _Damaged as error:
        raise JournalError(str(error), hint=_DAMAGED_HINT) from None


def is_locked(folder: Path) -> bool:
    """Return whether an exporter uses the folder now. Raises ``JournalError``."""
    path = folder / _LOCK
    with _map_errors(path):
        if not path.exists():
            return False
        fd = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    return False


def release_holds(folder: Path, task_ids: Sequence[str]) -> None:
    """Release the holds of tasks; an exporter may be running. Raises ``JournalError``."""
    path = folder / FILE_NAME
    with _map_errors(path), closing(connect(path)) as database, _transaction(database):
        rows = [(task_id,) for task_id in task_ids]
        database.executemany("DELETE FROM record WHERE kind = 'hold' AND task = ?", rows)
        database.executemany("INSERT OR IGNORE INTO released VALUES (?)", rows)


class _Damaged(JournalError):
    """The file is not a journal, or is damaged."""


@contextmanager
def _map_errors(path: Path) -> Iterator[None]:
    """Convert errors of SQLite and the operating system; the only place that knows them."""
    try:
        yield
    except OSError as error:
        raise JournalError(f"state folder {path.parent}: {error.strerror or error}", hint=_HINT) from error
    except sqlite3.OperationalError as error:  # full, read-only or busy: the content is fine
        raise JournalError(f"{path}: {error}", hint=_HINT) from error
    except (sqlite3.Error, ValueError, KeyError) as error:
        raise _Damaged(f"{path} is damaged: {error}") from error


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _write_changes(
    database: sqlite3.Connection,
    changes: Mapping[Key, Record | None],
    exported: Sequence[ExportRecord] = (),
    *,
    trim: bool = False,
) -> None:
    """Write changes in one transaction with few statements, because each one releases and acquires the GIL."""
    with _transaction(database):
        for name, kind in _KINDS.items():
            ours = [(task, record) for (of, task), record in changes.items() if of is kind]
            if kept := {task: record for task, record in ours if record is not None}:
                database.execute(_KEEP, (name, _text(kept)))
            if dropped := [task for task, record in ours if record is None]:
                database.execute(_DROP, (name, _text(dropped)))
        if exported:
            history.insert(database, exported)
        if trim:
            history.trim(database, system_clock().wall)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _acquire_lock(path: Path) -> int:
    """Lock a file for the life of the process and return its descriptor; the system unlocks it at the end."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise JournalLocked(
            f"state folder {path.parent}: in use by another exporter",
            hint="Stop the other exporter, or set another folder with --state.",
        ) from None
    return fd
