"""Several journals in one state folder: commands read all of them, and records move when the processes change."""

import asyncio
from collections import Counter

import pytest

from aluma_async.exceptions import JournalLocked
from aluma_async.journal import reader
from aluma_async.journal.folders import journal_folder, journal_folders
from aluma_async.journal.lock import is_locked, lock_folder
from aluma_async.journal.redistribution import CollectingJournal, redistribute
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import BreakerRecord, ClaimRecord, ClaimState, ExportRecord, HoldRecord, Timestamp
from aluma_async.policy.partition import process_of

NOW, LATER = Timestamp("boot", 1.0, 1_800_000_000.0), Timestamp("boot", 2.0, 1_800_000_001.0)
IDS = [f"task-{number}" for number in range(40)]


def records_of(task_id):
    return [
        ClaimRecord(task_id, ClaimState.COMMITTED, NOW, receipt="receipt"),
        HoldRecord(task_id, NOW, 60.0, crashes=2),
        BreakerRecord(task_id, "UnexportableTask"),
    ]


def fill(folder, records, exported=()):
    async def write():
        journal = SqliteJournal(folder)
        await journal.load()
        for record in exported:
            journal.put_export(record)
        await journal.write(*records)
        journal.close()

    asyncio.run(write())


def own_records(folder):
    """Return the records of one journal alone."""

    async def load():
        journal = SqliteJournal(folder)
        records = await journal.load()
        journal.close()
        return records

    return asyncio.run(load())


def fill_processes(state, count):
    for number in range(1, count + 1):
        ids = [task_id for task_id in IDS if process_of(task_id, count) == number]
        fill(journal_folder(state, number), [record for task_id in ids for record in records_of(task_id)])


def check(state, count):
    """Check that each record is exactly once, in the journal of the process that exports its task."""
    found = Counter()
    for folder in journal_folders(state):
        for record in own_records(folder):
            assert folder == journal_folder(state, process_of(record.task_id, count))
            found[record] += 1
    assert found == Counter(record for task_id in IDS for record in records_of(task_id))


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4), (3, 1), (1, 3), (4, 4)])
def test_records_move_to_the_process_that_exports_their_task(before, after, tmp_path):
    fill_processes(tmp_path, before)
    asyncio.run(redistribute(tmp_path, after))
    check(tmp_path, after)


def test_interrupted_move_is_continued(tmp_path):
    """After a crash between the two writes, a record is in two journals; the later one counts."""
    fill_processes(tmp_path, 4)
    moved = [record for task_id in IDS for record in records_of(task_id) if process_of(task_id, 2) == 2]
    fill(journal_folder(tmp_path, 2), moved)
    asyncio.run(redistribute(tmp_path, 2))
    check(tmp_path, 2)
    old, new = HoldRecord("task-0", NOW, 60.0), HoldRecord("task-0", LATER, 3600.0, parked=True)
    fill(journal_folder(tmp_path, 5), [new])
    fill(journal_folder(tmp_path, 1), [old])
    asyncio.run(redistribute(tmp_path, 1))
    assert [record for record in own_records(tmp_path) if record.task_id == "task-0"].count(new) == 1


def test_move_needs_all_folders_for_itself(tmp_path):
    fill_processes(tmp_path, 3)
    with lock_folder(tmp_path / "process-3"), pytest.raises(JournalLocked, match="process-3"):
        asyncio.run(redistribute(tmp_path, 2))
    asyncio.run(redistribute(tmp_path, 2))
    check(tmp_path, 2)


def test_move_leaves_out_holds_that_the_administrator_has_ended(tmp_path):
    """The release would otherwise stay where no process reads it, and end a later hold."""
    fill(journal_folder(tmp_path, 4), [HoldRecord("a", NOW, 60.0), HoldRecord("b", NOW, 60.0)])
    reader.release_holds(tmp_path, ["a"])
    fill(journal_folder(tmp_path, 4), [HoldRecord("a", NOW, 60.0)])
    asyncio.run(redistribute(tmp_path, 1))
    assert [record.task_id for record in own_records(tmp_path)] == ["b"]


def test_journal_of_a_single_process_collects_all_records(tmp_path):
    fill_processes(tmp_path, 3)

    async def load():
        journal = CollectingJournal(tmp_path)
        records = await journal.load()
        assert is_locked(tmp_path)
        journal.close()
        return records

    assert Counter(asyncio.run(load())) == Counter(record for task_id in IDS for record in records_of(task_id))
    check(tmp_path, 1)


def test_commands_read_and_lock_all_folders(tmp_path):
    exports = [ExportRecord(f"e{number}", NOW.wall + number, 1, 1, 0.1) for number in range(6)]
    for number in (1, 2, 3):
        folder = journal_folder(tmp_path, number)
        fill(folder, [HoldRecord(f"t{number}", NOW, 60.0)], exports[number - 1 :: 3])
    (tmp_path / "process-04").mkdir()
    (tmp_path / "process-1").mkdir()
    (tmp_path / "process-5").touch()
    assert journal_folders(tmp_path) == [tmp_path, tmp_path / "process-2", tmp_path / "process-3"]
    assert {record.task_id for record in reader.read_records(tmp_path)} == {"t1", "t2", "t3"}
    assert list(reader.read_history(tmp_path)) == exports
    assert list(reader.read_history(tmp_path, NOW.wall + 4)) == exports[4:]
    reader.release_holds(tmp_path, ["t3"])
    assert {record.task_id for record in reader.read_records(tmp_path)} == {"t1", "t2"}
    assert asyncio.run(released(tmp_path / "process-3")) == ["t3"]
    assert asyncio.run(released(tmp_path)) == []
    with lock_folder(tmp_path / "process-2"):
        assert is_locked(tmp_path)
        with pytest.raises(JournalLocked), lock_folder(tmp_path):
            pass
    assert not is_locked(tmp_path)


async def released(folder):
    journal = SqliteJournal(folder)
    await journal.load()
    ids = await journal.pop_released()
    journal.close()
    return ids
