"""Reads journals, and releases tasks, for commands; an exporter may use the same folders at the same time.

``state`` is a state folder; all journals in it are read, those of further processes, too. No function locks a folder or
changes a claim.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from heapq import merge
from operator import attrgetter
from pathlib import Path

from aluma_async import sqlite_file
from aluma_async.exceptions import JournalError
from aluma_async.journal import history
from aluma_async.journal.database import FILE_NAME, JournalDamagedError, connect, map_errors
from aluma_async.journal.database import read_records as database_records
from aluma_async.journal.folders import journal_folders
from aluma_async.journal.records import Record
from aluma_async.models import ExportRecord, HoldRecord


def read_records(state: Path) -> list[Record]:
    """Return all records of the journals, if there are any. Raises ``JournalError``."""
    return [record for folder in journal_folders(state) for record in _records(folder)]


def read_history(state: Path, since: float = 0.0) -> Iterator[ExportRecord]:
    """Yield the tasks exported since a time, oldest first. Raises ``JournalError``.

    It reads one page at a time, so that a slow caller does not block the exporter.
    """
    return merge(*(_history(folder, since) for folder in journal_folders(state)), key=attrgetter("at"))


def release_holds(state: Path, task_ids: Sequence[str]) -> None:
    """Release the holds of tasks. Raises ``JournalError``."""
    folders = journal_folders(state)
    for folder in folders:
        if len(folders) > 1:  # a release that no process expects could end a later hold
            on_hold = {record.task_id for record in _records(folder) if isinstance(record, HoldRecord)}
            rows = [(task_id,) for task_id in task_ids if task_id in on_hold]
        else:
            rows = [(task_id,) for task_id in task_ids]
        if rows:
            _release(folder / FILE_NAME, rows)


def _records(folder: Path) -> list[Record]:
    path = folder / FILE_NAME
    if not path.exists():
        return []
    with _hint_if_damaged(), map_errors(path), closing(connect(path)) as database:
        return database_records(database)[0]


def _history(folder: Path, since: float) -> Iterator[ExportRecord]:
    path = folder / FILE_NAME
    if not path.exists():
        return
    with _hint_if_damaged(), map_errors(path), closing(connect(path)) as database:
        yield from history.pages(database, since)


def _release(path: Path, rows: Sequence[tuple[str]]) -> None:
    with map_errors(path), closing(connect(path)) as database, sqlite_file.transaction(database):
        database.executemany("DELETE FROM record WHERE kind = 'hold' AND task = ?", rows)
        database.executemany("INSERT OR IGNORE INTO released VALUES (?)", rows)


@contextmanager
def _hint_if_damaged() -> Iterator[None]:
    try:
        yield
    except JournalDamagedError as error:
        raise JournalError(str(error), hint="The next run moves it aside and creates a new one.") from None
