"""Reads a journal, and releases tasks, for commands; an exporter may use the same folder at the same time.

No function locks the folder or changes a claim.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from aluma_async import sqlite_file
from aluma_async.exceptions import JournalError
from aluma_async.journal import history
from aluma_async.journal.database import FILE_NAME, JournalDamagedError, connect, map_errors
from aluma_async.journal.database import read_records as database_records
from aluma_async.journal.records import Record
from aluma_async.models import ExportRecord


def read_records(folder: Path) -> list[Record]:
    """Return all records of a folder's journal, if there is one. Raises ``JournalError``."""
    path = folder / FILE_NAME
    if not path.exists():
        return []
    with _hint_if_damaged(), map_errors(path), closing(connect(path)) as database:
        return database_records(database)[0]


def read_history(folder: Path, since: float = 0.0) -> Iterator[ExportRecord]:
    """Yield the tasks exported since a time, oldest first. Raises ``JournalError``.

    It reads one page at a time, so that a slow caller does not block the exporter.
    """
    path = folder / FILE_NAME
    if not path.exists():
        return
    with _hint_if_damaged(), map_errors(path), closing(connect(path)) as database:
        yield from history.pages(database, since)


def release_holds(folder: Path, task_ids: Sequence[str]) -> None:
    """Release the holds of tasks. Raises ``JournalError``."""
    path = folder / FILE_NAME
    with map_errors(path), closing(connect(path)) as database, sqlite_file.transaction(database):
        rows = [(task_id,) for task_id in task_ids]
        database.executemany("DELETE FROM record WHERE kind = 'hold' AND task = ?", rows)
        database.executemany("INSERT OR IGNORE INTO released VALUES (?)", rows)


@contextmanager
def _hint_if_damaged() -> Iterator[None]:
    try:
        yield
    except JournalDamagedError as error:
        raise JournalError(str(error), hint="The next run moves it aside and creates a new one.") from None
