"""``journal.reader``: what commands see of a state folder, with and without a journal."""

import asyncio
import os

import pytest

from aluma_async.exceptions import JournalLocked
from aluma_async.journal import reader
from aluma_async.journal.database import FILE_NAME, LOCK_NAME
from aluma_async.journal.lock import is_locked, lock_folder
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import ExportRecord, HoldRecord, Timestamp

NOW = Timestamp("boot", 1.0, 1_800_000_000.0)


def test_folder_without_a_journal_has_no_records_and_no_exporter(tmp_path):
    assert reader.read_records(tmp_path) == []
    assert list(reader.read_history(tmp_path)) == []
    assert is_locked(tmp_path) is False
    assert not list(tmp_path.iterdir()), "reading creates nothing"


def test_reader_sees_records_exports_and_the_lock(tmp_path):
    journal = SqliteJournal(tmp_path)
    asyncio.run(journal.load())
    assert is_locked(tmp_path) is True
    hold, export = HoldRecord("t", NOW, 60.0), ExportRecord("u", NOW.wall, 1, 2, 0.5, ())
    journal.put_export(export)
    asyncio.run(journal.write(hold))
    assert reader.read_records(tmp_path) == [hold]
    assert list(reader.read_history(tmp_path)) == [export]
    assert list(reader.read_history(tmp_path, NOW.wall)) == [export]
    assert list(reader.read_history(tmp_path, NOW.wall + 1)) == []
    journal.close()
    assert is_locked(tmp_path) is False
    with lock_folder(tmp_path):
        assert is_locked(tmp_path) is True
    reader.release_holds(tmp_path, ["t"])
    assert reader.read_records(tmp_path) == []


def test_released_holds_are_returned_once(tmp_path):
    journal = SqliteJournal(tmp_path)
    asyncio.run(journal.load())
    asyncio.run(journal.write(HoldRecord("t", NOW, 60.0), HoldRecord("u", NOW, 60.0)))
    reader.release_holds(tmp_path, ["t", "t"])
    assert [record.task_id for record in reader.read_records(tmp_path)] == ["u"]
    assert asyncio.run(journal.pop_released()) == ["t"]
    assert asyncio.run(journal.pop_released()) == []
    journal.close()


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has file modes")
def test_files_and_folder_of_the_journal_are_for_their_user_only(tmp_path):
    before = os.umask(0)
    try:
        journal = SqliteJournal(tmp_path / "a" / "state")
        asyncio.run(journal.load())
        journal.close()
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "state").stat().st_mode & 0o777 == 0o700
    for name in (FILE_NAME, LOCK_NAME):
        assert (tmp_path / "a" / "state" / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="only Linux lists open files")  # noqa: PTH112
def test_refused_lock_leaves_no_file_open(tmp_path):
    with lock_folder(tmp_path):
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(3):
            with pytest.raises(JournalLocked), lock_folder(tmp_path):
                pass
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
