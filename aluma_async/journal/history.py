"""What was exported, when and where to: in the journal's file, written along with what is written anyway.

All that goes into one write is one row, numbered by how many tasks there were until then: so it costs next to
nothing, and what is too much is found by its number. A task is noted when Complete was heard; a crash right after
that may lose it. No names of files, no content.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from aluma_async.clock import system_clock
from aluma_async.events import ClaimLost, Event, TaskCompleted
from aluma_async.models import ExportRecord
from aluma_async.ports import Clock

MAX_TASKS = 100_000
MAX_AGE_SECONDS = 90 * 86400.0
"""What is older is dropped, and the oldest of more."""
TRIM_EVERY = 1000
"""Tasks between two looks at what is to be dropped."""

SET_UP = "CREATE TABLE IF NOT EXISTS exported (number INTEGER PRIMARY KEY, at REAL, value TEXT)"
_INSERT = "INSERT INTO exported SELECT coalesce(max(number), 0) + ?, ?, ? FROM exported"
_TRIM = (
    "DELETE FROM exported WHERE number <= (SELECT max(number) FROM exported) - ? OR number < coalesce("
    "(SELECT number FROM exported WHERE at >= ? ORDER BY number LIMIT 1), (SELECT max(number) + 1 FROM exported))"
)
_PAGE = "SELECT number, value FROM exported WHERE number > ? AND at >= ? ORDER BY number LIMIT 500"


class HistoryWriter(Protocol):
    """The part of a journal that keeps exported tasks."""

    def exported(self, record: ExportRecord) -> None:
        """Add a record, lazily."""


class History:
    """Notes what was exported; ``where`` tells once, by a task's id, the destinations it went to."""

    HEARS = frozenset({TaskCompleted, ClaimLost})
    """The kinds of events that it is to be called with."""

    def __init__(
        self, journal: HistoryWriter, where: Callable[[str], Sequence[str]], clock: Clock = system_clock
    ) -> None:
        self._journal = journal
        self._where = where
        self._clock = clock

    def __call__(self, event: Event) -> None:
        """Note a task that was exported."""
        if isinstance(event, TaskCompleted):
            to = tuple(self._where(event.task.id))
            at = self._clock().wall
            self._journal.exported(ExportRecord(event.task.id, at, event.files, event.bytes, event.seconds, to))
        elif isinstance(event, ClaimLost):
            self._where(event.task.id)


def insert(database: sqlite3.Connection, records: Sequence[ExportRecord]) -> None:
    """Add records, within a transaction. Raises ``sqlite3.Error``."""
    database.execute(_INSERT, (len(records), records[-1].at, msgspec.json.encode(records).decode()))


def trim(database: sqlite3.Connection, now: float) -> None:
    """Drop what is too much or too old; ``now``: seconds since 1970. Raises ``sqlite3.Error``."""
    database.execute(_TRIM, (MAX_TASKS, now - MAX_AGE_SECONDS))


def page(database: sqlite3.Connection, after: int, since: float) -> tuple[int, list[ExportRecord]]:
    """Read some records, oldest first, and where to go on; 0: these are all. Raises ``sqlite3.Error``."""
    rows = database.execute(_PAGE, (after, since)).fetchall()
    found = [one for _, value in rows for one in msgspec.json.decode(value, type=list[ExportRecord]) if one.at >= since]
    return (rows[-1][0] if rows else 0), found
