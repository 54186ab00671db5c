"""The history of exported tasks: when and where to. It is in the journal's file and needs no write of its own.

All tasks of one write are one row, whose number is the count of tasks up to it: so a task costs next to nothing, and
the rows to trim are found by their number. A task is added when Complete is confirmed; a crash right after that may
lose it. The history contains neither content nor names of files; names of tasks and projects only on request.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from aluma_async.clock import system_clock
from aluma_async.events import Event, TaskCompleted
from aluma_async.models import ExportRecord
from aluma_async.ports import Clock

MAX_TASKS = 100_000
MAX_AGE_SECONDS = 90 * 86400.0
"""Limits of the history: older tasks, and the oldest ones of more tasks, are deleted."""
MAX_NAME_LENGTH = 200
"""Number of characters that are kept of a name."""
TRIM_EVERY = 1000
"""Number of added tasks between two trims."""

SET_UP = "CREATE TABLE IF NOT EXISTS exported (number INTEGER PRIMARY KEY, at REAL, value TEXT)"
_INSERT = "INSERT INTO exported SELECT coalesce(max(number), 0) + ?, ?, ? FROM exported"
_TRIM = (
    "DELETE FROM exported WHERE number <= (SELECT max(number) FROM exported) - ? OR number < coalesce("
    "(SELECT number FROM exported WHERE at >= ? ORDER BY number LIMIT 1), (SELECT max(number) + 1 FROM exported))"
)
_PAGE = "SELECT number, value FROM exported WHERE number > ? AND at >= ? ORDER BY number LIMIT 500"


class HistoryWriter(Protocol):
    """The part of a journal that keeps exported tasks."""

    def put_export(self, record: ExportRecord) -> None:
        """Add a record with the next write."""


class History:
    """A listener that records exported tasks; ``names``: also the names of the tasks and of their projects."""

    def __init__(self, journal: HistoryWriter, clock: Clock = system_clock, *, names: bool = False) -> None:
        self._journal = journal
        self._clock = clock
        self._names = names

    def __call__(self, event: Event) -> None:
        """Record the task of a ``TaskCompleted``; ignore other events."""
        if type(event) is TaskCompleted:
            task, at, names = event.task, self._clock().wall, ("", "")
            if self._names:
                names = _storable(task.name), _storable(task.project_name)
            self._journal.put_export(
                ExportRecord(task.id, at, event.files, event.bytes, event.seconds, event.destinations, *names)
            )


def _storable(name: str) -> str:
    """Return the begin of a name, in valid Unicode, because one that cannot be stored would lose the whole write."""
    return name[:MAX_NAME_LENGTH].encode("utf-8", "replace").decode()


def insert(database: sqlite3.Connection, records: Sequence[ExportRecord]) -> None:
    """Add records, within a transaction. Raises ``sqlite3.Error``."""
    database.execute(_INSERT, (len(records), records[-1].at, msgspec.json.encode(records).decode()))


def trim(database: sqlite3.Connection, now: float) -> None:
    """Delete records beyond the limits; ``now``: seconds since 1970. Raises ``sqlite3.Error``."""
    database.execute(_TRIM, (MAX_TASKS, now - MAX_AGE_SECONDS))


def pages(database: sqlite3.Connection, since: float) -> Iterator[ExportRecord]:
    """Yield the records since a time, oldest first, page by page. Raises ``sqlite3.Error``."""
    after, records = page(database, 0, since)
    while after:
        yield from records
        after, records = page(database, after, since)


def page(database: sqlite3.Connection, after: int, since: float) -> tuple[int, list[ExportRecord]]:
    """Return the number to continue after, 0 at the end, and some records, oldest first. Raises ``sqlite3.Error``."""
    rows = database.execute(_PAGE, (after, since)).fetchall()
    records = [
        one for _, value in rows for one in msgspec.json.decode(value, type=list[ExportRecord]) if one.at >= since
    ]
    return (rows[-1][0] if rows else 0), records
