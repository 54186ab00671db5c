"""The history in the journal: order, limits, and no write of its own."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from aluma_async import events
from aluma_async.exceptions import ClaimConflict
from aluma_async.journal import history, reader
from aluma_async.journal.database import FILE_NAME, connect
from aluma_async.journal.history import History
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import ClaimRecord, ClaimState, ExportRecord, ExportTask, Timestamp

NOW = Timestamp("boot", 0.0, 1_800_000_000.0)


def record(number, at=NOW.wall):
    return ExportRecord(f"task-{number}", at, 2, 1000, 0.5, ("default",))


@pytest.fixture
def journal(tmp_path):
    journal = SqliteJournal(tmp_path)
    asyncio.run(journal.load())
    yield journal
    journal.close()


def insert(folder, records):
    """Write records as earlier runs would have."""
    with closing(connect(folder / FILE_NAME)) as database:
        for start in range(0, len(records), 500):
            history.insert(database, records[start : start + 500])


def exported_ids(folder, since=0.0):
    return [record.task_id for record in reader.read_history(folder, since)]


def test_history_is_read_in_order_while_an_exporter_writes(journal, tmp_path):
    """More than one page of it."""
    insert(tmp_path, [record(number) for number in range(3000)])
    journal.put_export(record("new"))
    asyncio.run(journal.flush())
    assert exported_ids(tmp_path) == [*(f"task-{number}" for number in range(3000)), "task-new"]
    assert list(reader.read_history(tmp_path))[-1] == record("new")


def test_history_is_written_together_with_the_next_record(journal, tmp_path):
    """All exports of one write are one row."""

    async def main():
        for number in range(50):
            journal.put_export(record(number))
        journal.put(ClaimRecord("x", ClaimState.CLAIMED, NOW))
        assert exported_ids(tmp_path) == []
        await journal.write(ClaimRecord("y", ClaimState.STARTING, NOW))

    asyncio.run(main())
    assert len(exported_ids(tmp_path)) == 50
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        assert database.execute("SELECT count(*) FROM exported").fetchone() == (1,)


def test_journal_writes_pending_exports_when_closed(journal, tmp_path):
    journal.put_export(record(1))
    journal.close()
    assert exported_ids(tmp_path) == ["task-1"]


def test_history_keeps_a_bounded_number_of_tasks(journal, tmp_path):
    insert(tmp_path, [record(number) for number in range(101_500)])
    for number in range(1000):
        journal.put_export(record(f"new-{number}"))
    asyncio.run(journal.flush())
    ids = exported_ids(tmp_path)
    assert 99_500 <= len(ids) <= 100_000
    assert ids[-1] == "task-new-999"


@pytest.mark.parametrize("others", [0, 3])
def test_trim_deletes_tasks_older_than_90_days(journal, tmp_path, others):
    insert(tmp_path, [record("old", NOW.wall - 90 * 86400 - 1)])
    insert(tmp_path, [record("kept", NOW.wall - 90 * 86400)])
    if others:
        insert(tmp_path, [record(number) for number in range(others)])
    with closing(connect(tmp_path / FILE_NAME)) as database:
        history.trim(database, NOW.wall)
    assert len(exported_ids(tmp_path)) == 1 + others


def test_history_since_a_moment_omits_earlier_tasks(journal, tmp_path):
    insert(tmp_path, [record(number, NOW.wall + number) for number in range(10)])
    assert exported_ids(tmp_path, NOW.wall + 7) == ["task-7", "task-8", "task-9"]


def test_history_without_a_journal_is_empty_and_creates_none(tmp_path):
    assert exported_ids(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_history_records_only_completed_tasks_with_their_destinations():
    records = []

    class Writer:
        def put_export(self, record):
            records.append(record)

    listener = History(Writer(), lambda: NOW)
    task = ExportTask("task-1", name="canary")
    listener(events.TaskStarted(task, 2))
    listener(events.TaskReleased(task))
    listener(events.ClaimLost(ExportTask("task-2"), ClaimConflict("gone")))
    assert not records
    listener(events.TaskCompleted(task, 2, 1000, 0.5, ("a", "b")))
    assert records == [ExportRecord("task-1", NOW.wall, 2, 1000, 0.5, ("a", "b"))]


def test_history_stores_names_only_on_request(journal, tmp_path):
    """Also names that are no valid Unicode, or very long."""
    listeners = [History(journal, lambda: NOW), History(journal, lambda: NOW, names=True)]
    tasks = [
        ExportTask("1", "Invoice \N{EURO SIGN}", project_name="ACME"),
        ExportTask("2", "\ud800x", project_name="p" * 900),
    ]
    for listener in listeners:
        for task in tasks:
            listener(events.TaskCompleted(task, 2, 1000, 0.5))
    asyncio.run(journal.flush())
    stored = [(record.name, record.project) for record in reader.read_history(tmp_path)]
    assert stored == [("", ""), ("", ""), ("Invoice \N{EURO SIGN}", "ACME"), ("?x", "p" * 200)]
