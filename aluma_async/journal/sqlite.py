"""``SqliteJournal``: the journal in a state folder, durable when a write returns, for one process at a time.

SQLite runs in WAL mode with ``synchronous=FULL``, so that each transaction is synced. Changes that arrive during one
transaction share the next one (group commit). A file that cannot be read is moved aside and reported.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

from aluma_async import sqlite_file
from aluma_async.concurrency.batcher import Batch, Batcher, wait_uncancelled
from aluma_async.events import JournalDamaged, JournalRowsSkipped
from aluma_async.exceptions import JournalError, JournalLost
from aluma_async.journal import database, history
from aluma_async.journal.database import FILE_NAME, JournalDamagedError, map_errors
from aluma_async.journal.lock import acquire_lock
from aluma_async.journal.records import Change, ChangeCollector, Key, Record
from aluma_async.models import ExportRecord
from aluma_async.ports import OnEvent
from aluma_async.private_files import check_folder, open_private

T = TypeVar("T")


class SqliteJournal(ChangeCollector):
    """The file ``journal.sqlite3`` in ``folder``, which is created if missing. Blocking steps run on ``executor``."""

    def __init__(self, folder: Path, *, executor: Executor | None = None, on_event: OnEvent | None = None) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._executor = executor
        self._on_event = on_event or (lambda _: None)
        self._lock = ExitStack()
        self._connection: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None  # of the open file
        # A copy of the file's content, from which the file is re-created if it is found damaged later.
        self._records: dict[Key, Record] = {}
        self._unreadable: list[str] = []  # descriptions of the rows that could not be read
        self._since_trim = history.TRIM_EVERY
        self._batcher: Batcher[Change | ExportRecord] = Batcher(self._write)
        super().__init__(self._batcher.pending)

    async def load(self) -> Sequence[Record]:
        """Lock the folder for this process and read all records. Raises ``JournalLocked``."""
        damaged = await self._in_thread(self._open)
        if damaged:
            self._on_event(JournalDamaged(str(damaged)))
        if self._unreadable:
            self._on_event(JournalRowsSkipped(len(self._unreadable), self._unreadable[0]))
        return list(self._records.values())

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
        if self._batcher.pending and self._connection:
            with suppress(JournalError):
                self._write_batch(self._batcher.pending)
        self._disconnect()
        self._lock.close()

    def _in_thread(self, step: Callable[[], T]) -> "asyncio.Future[T]":
        return asyncio.get_running_loop().run_in_executor(self._executor, step)

    # -- blocking steps, one at a time

    def _open(self) -> Path | None:
        with map_errors(self._path):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_folder("state folder", self._folder)
            self._lock = acquire_lock(self._folder)
        try:
            with map_errors(self._path):
                records, self._unreadable = database.read_records(self._connect())
                self._records = {(type(record), record.task_id): record for record in records}
                return None
        except JournalDamagedError:
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
            with map_errors(self._path):
                self._require_same_file()
                self._since_trim += len(exported)
                trim = self._since_trim >= history.TRIM_EVERY
                database.write_changes(self._connect(), dict(changes), exported, trim=trim)
                self._since_trim = 0 if trim else self._since_trim
                return None
        except JournalDamagedError:
            return self._replace_damaged()

    def _replace_damaged(self) -> Path:
        """Move a damaged file aside and write all known records into a new one."""
        self._disconnect()
        with map_errors(self._path):
            suffixes = (f".damaged-{number}" for number in count())
            unused = next(suffix for suffix in suffixes if not self._path.with_name(FILE_NAME + suffix).exists())
            aside = sqlite_file.move_aside(self._path, unused)
            database.write_changes(self._connect(), self._records)
        return aside

    def _pop_released(self) -> list[str]:
        with map_errors(self._path):
            self._require_same_file()
            return database.pop_released(self._connect())

    def _require_same_file(self) -> None:
        """Raise ``JournalLost`` unless the open file is at its path, where the next process reads it."""
        with suppress(FileNotFoundError):
            if self._file is None or os.path.samestat(self._file, os.stat(self._path)):  # noqa: PTH116 - fewer calls
                return
        raise JournalLost(
            f"{self._path}: was removed or replaced while the exporter runs",
            hint="Start the exporter again, and leave its state folder alone while it runs.",
        )

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            os.close(open_private(self._path))  # others could read a file that SQLite creates
            self._connection = database.connect(self._path)
            self._file = self._path.stat()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = self._file = None
