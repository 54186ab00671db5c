"""Journals: durability, group commit, damaged files and the lock of the state folder."""

import asyncio
import os
import random
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from aluma_async import MemoryJournal, events
from aluma_async.exceptions import JournalError, JournalLocked, JournalLost
from aluma_async.journal import reader
from aluma_async.journal.database import FILE_NAME
from aluma_async.journal.lock import is_locked
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import BreakerRecord, ClaimRecord, ClaimState, HoldRecord, Timestamp
from tests.support.processes import MAX_SECONDS

NOW = Timestamp("boot", 100.0, 1_000_000.0)


def claim(task_id, state=ClaimState.STARTING, **fields):
    return ClaimRecord(task_id, state, NOW, **fields)


class Steps(ThreadPoolExecutor):
    """Runs the blocking steps of a journal, counts those that have ended, and can make them slower."""

    def __init__(self):
        super().__init__(1)
        self.ended = 0
        self.seconds = 0.0

    def submit(self, step, *arguments):
        def run():
            time.sleep(self.seconds)
            try:
                return step(*arguments)
            finally:
                self.ended += 1

        return super().submit(run)


@contextmanager
def open_journal(folder, on_event=None, steps=None):
    with steps or Steps() as executor:
        journal = SqliteJournal(folder, executor=executor, on_event=on_event)
        try:
            yield journal
        finally:
            journal.close()


def load(folder, on_event=None):
    """Return the records that the next process finds."""
    with open_journal(folder, on_event) as journal:
        return list(anyio.run(journal.load))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_journal_returns_to_the_next_process_what_was_written(kind, tmp_path):
    """A newer record replaces an older one, and a deleted one is gone."""
    memory = MemoryJournal()

    @contextmanager
    def process():
        if kind == "memory":
            yield memory
        else:
            with open_journal(tmp_path) as journal:
                yield journal

    async def main():
        hold = HoldRecord("a", NOW, 60.0, failures=2, error="InvalidResponse", message="why")
        with process() as journal:
            assert await journal.load() == []
            await journal.write(
                claim("a"), claim("b"), hold, BreakerRecord("a", "E", "p", ("d", "e")), BreakerRecord("b", "E")
            )
            await journal.write(claim("a", ClaimState.COMMITTED, files=2, bytes=3))
            journal.delete(ClaimRecord, "b")
            journal.delete(BreakerRecord, "b")
            journal.put(claim("c"))
            await journal.flush()
        with process() as journal:
            expected = [
                claim("a", ClaimState.COMMITTED, files=2, bytes=3),
                claim("c"),
                hold,
                BreakerRecord("a", "E", "p", ("d", "e")),
            ]
            assert sorted(map(str, await journal.load())) == sorted(map(str, expected))

    anyio.run(main)


def test_journal_shares_syncs_between_concurrent_writes(tmp_path):
    async def main():
        steps = Steps()
        with open_journal(tmp_path, steps=steps) as journal:
            await journal.load()
            loaded = steps.ended
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(journal.write, claim(str(number)))
            assert steps.ended - loaded <= 3

    anyio.run(main)
    assert len(load(tmp_path)) == 100


def test_journal_write_is_durable_for_all_callers_when_leader_is_cancelled(tmp_path):
    """``asyncio.run`` cancels all tasks at its end, and no scope shields from that."""

    async def main():
        steps = Steps()
        with open_journal(tmp_path, steps=steps) as journal:
            await journal.load()
            # Two of these share a write, so that the next leader waits for others to join.
            await asyncio.gather(*(journal.write(claim(name)) for name in "xyz"))
            before, steps.seconds = steps.ended, 0.3
            leader = asyncio.create_task(journal.write(claim("a")))
            follower = asyncio.create_task(journal.write(claim("b")))
            await asyncio.sleep(0.1)
            leader.cancel()
            await follower
            assert steps.ended == before + 1, "one write for both"
            assert {record.task_id for record in reader.read_records(tmp_path)} == set("abxyz")
            with pytest.raises(asyncio.CancelledError):
                await leader

    asyncio.run(main())


def test_journal_refuses_a_second_process(tmp_path):
    """The first process is not affected."""
    with open_journal(tmp_path) as first:
        anyio.run(first.load)
        with pytest.raises(JournalLocked, match="in use by another exporter"):
            load(tmp_path)
        anyio.run(first.write, claim("a"))
    assert len(load(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["noise", "empty", "cut", "folder-of-wal"])
def test_journal_moves_a_damaged_file_aside_and_creates_a_new_one(damage, tmp_path):
    with open_journal(tmp_path) as journal:
        anyio.run(journal.load)
        anyio.run(journal.write, *[claim(str(number)) for number in range(500)])
    path = tmp_path / FILE_NAME
    match damage:
        case "noise":
            path.write_bytes(random.Random(0).randbytes(path.stat().st_size))
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(path.read_bytes()[:10_000])
        case "folder-of-wal":
            path.write_bytes(path.read_bytes()[:4096] + b"\0" * 8192)
    emitted = []
    assert load(tmp_path, emitted.append) == []
    if damage != "empty":  # SQLite takes an empty file for a new one
        assert [type(event) for event in emitted] == [events.JournalDamaged]
        assert Path(emitted[0].path).exists()
    assert load(tmp_path, emitted.append) == []
    assert len(emitted) == (damage != "empty")


@pytest.mark.parametrize(
    ("column", "value"),
    [("value", None), ("value", "nonsense"), ("value", b"\xff"), ("value", "{}"), ("kind", "unknown"), ("kind", None)],
)
def test_journal_skips_and_reports_an_unreadable_row(column, value, tmp_path):
    """All other records are used, and the row stays in the file."""
    with open_journal(tmp_path) as journal:
        anyio.run(journal.load)
        anyio.run(journal.write, *[claim(str(number)) for number in range(5)])
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database, database:
        database.execute("CREATE TABLE copy AS SELECT * FROM record")
        database.execute(f"UPDATE copy SET {column} = ? WHERE task = '3'", (value,))
        database.execute("DROP TABLE record")
        database.execute("ALTER TABLE copy RENAME TO record")
    emitted = []
    assert {record.task_id for record in load(tmp_path, emitted.append)} == set("0124")
    (skipped,) = emitted
    assert (type(skipped), skipped.rows) == (events.JournalRowsSkipped, 1)
    assert "task '3'" in skipped.first
    assert {record.task_id for record in reader.read_records(tmp_path)} == set("0124")


def test_journal_of_a_newer_version_is_refused_and_stays_as_it_is(tmp_path):
    with open_journal(tmp_path) as journal:
        anyio.run(journal.load)
        anyio.run(journal.write, claim("a"))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database, database:
        database.execute("PRAGMA user_version=99")
    for access in (load, reader.read_records):
        with pytest.raises(JournalError, match="newer version") as caught:
            access(tmp_path)
        assert "Install" in caught.value.hint
    assert not list(tmp_path.glob("*.damaged*"))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database, database:
        database.execute("PRAGMA user_version=0")
    assert [record.task_id for record in load(tmp_path)] == ["a"]


def test_journal_is_recreated_from_memory_when_its_file_is_damaged_later(tmp_path):
    emitted = []
    with open_journal(tmp_path, emitted.append) as journal:
        anyio.run(journal.load)
        anyio.run(journal.write, claim("a"))
        journal._disconnect()  # because SQLite has the pages in its cache
        (tmp_path / FILE_NAME).write_bytes(b"no database at all" * 1000)
        anyio.run(journal.write, claim("b"))
    assert emitted == [events.JournalDamaged(str(tmp_path / f"{FILE_NAME}.damaged-0"))]
    assert {record.task_id for record in load(tmp_path)} == {"a", "b"}


def test_journal_error_names_the_folder_and_the_option(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="file") as caught:
        load(tmp_path / "file" / "state")
    assert "--state" in caught.value.hint


def test_journal_is_readable_by_its_user_only(tmp_path):
    if os.name != "posix":
        pytest.skip("only POSIX has file modes")
    load(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert (tmp_path / "state" / FILE_NAME).stat().st_mode & 0o077 == 0


def test_journal_lock_ends_with_its_process(tmp_path):
    """However the process ends."""
    code = (
        "import anyio, os, pathlib\n"
        "from aluma_async.journal.sqlite import SqliteJournal\n"
        f"anyio.run(SqliteJournal(pathlib.Path({str(tmp_path)!r})).load)\n"
        "os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=MAX_SECONDS).returncode == 9
    assert load(tmp_path) == []


def test_journal_keeps_failed_tasks_where_an_earlier_version_ignores_them(tmp_path):
    """Version 12ddb49 reads every row of the table ``record``, and takes an unknown kind for damage."""
    with open_journal(tmp_path) as journal:
        anyio.run(journal.load)
        anyio.run(journal.write, claim("a"), BreakerRecord("b", "UnexportableTask", "p", ("default",)))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        assert database.execute("SELECT kind, task FROM record").fetchall() == [("claim", "a")]
        assert database.execute("SELECT task FROM breaker").fetchall() == [("b",)]
        with database:
            database.execute("DELETE FROM record")  # as the earlier version does when the claim is settled
    assert load(tmp_path) == [BreakerRecord("b", "UnexportableTask", "p", ("default",))]


def test_journal_without_the_table_of_failed_tasks_is_readable(tmp_path):
    with open_journal(tmp_path) as journal:
        anyio.run(journal.load)
        anyio.run(journal.write, claim("a"))
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database, database:
        database.execute("DROP TABLE breaker")
    assert [record.task_id for record in reader.read_records(tmp_path)] == ["a"]
    assert [record.task_id for record in load(tmp_path)] == ["a"]


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_journal_refuses_to_go_on_when_its_file_is_gone(replaced, tmp_path):
    """What is written to the removed file would be lost, and the next process may already use another one."""

    async def main():
        with open_journal(tmp_path) as journal:
            await journal.load()
            await journal.write(claim("a"))
            for path in tmp_path.glob("journal*"):
                path.unlink()
            if replaced:
                (tmp_path / "journal.sqlite3").write_bytes(b"")
            for _ in range(2):
                with pytest.raises(JournalLost, match="was removed or replaced"):
                    await journal.write(claim("b"))
            with pytest.raises(JournalLost):
                await journal.pop_released()

    anyio.run(main)


@pytest.mark.parametrize("name", ["lock", FILE_NAME, f"{FILE_NAME}-wal"])
def test_load_follows_no_link_in_the_state_folder(name, tmp_path):
    """Another user may have created it before the folder was protected."""
    state, victim = tmp_path / "state", tmp_path / "victim"
    state.mkdir(0o700)
    victim.touch()
    (state / name).symlink_to(victim)
    journal = SqliteJournal(state)
    with pytest.raises(JournalError, match=f"{name} is a symbolic link"):
        anyio.run(journal.load)
    journal.close()
    with pytest.raises(JournalError, match=f"{name} is a symbolic link"):
        (is_locked if name == "lock" else reader.release_holds)(state, *([] if name == "lock" else [["t"]]))
    assert not victim.stat().st_size
