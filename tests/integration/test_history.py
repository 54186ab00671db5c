"""What was exported is remembered: when, how much, where to; for long, within bounds, and without names of files."""

import asyncio
import json
import sqlite3
from contextlib import closing

import pytest

from aluma_async import events
from aluma_async.exceptions import ClaimConflict
from aluma_async.journal import history, sqlite
from aluma_async.journal.history import MAX_AGE_SECONDS, MAX_TASKS, TRIM_EVERY, History
from aluma_async.journal.sqlite import FILE_NAME, SqliteJournal
from aluma_async.models import ClaimRecord, ClaimState, ExportRecord, ExportTask, Timestamp
from tests.support.processes import simulator

NOW = Timestamp("boot", 0.0, 1_800_000_000.0)


def record(number, at=NOW.wall):
    return ExportRecord(f"task-{number}", at, 2, 1000, 0.5, ("default",))


@pytest.fixture
def journal(tmp_path):
    made = SqliteJournal(tmp_path)
    asyncio.run(made.load())
    yield made
    made.close()


def put(folder, records):
    """Write rows as many runs would have."""
    with closing(sqlite.connect(folder / FILE_NAME)) as database:
        for begin in range(0, len(records), 500):
            history.insert(database, records[begin : begin + 500])


def remembered(folder, since=0.0):
    return [one.task_id for one in sqlite.read_history(folder, since)]


def test_what_was_exported_comes_back_in_its_order(journal, tmp_path):
    """Far more than one page, with an exporter at work on the same file."""
    put(tmp_path, [record(number) for number in range(3000)])
    journal.put_export(record("new"))
    asyncio.run(journal.flush())
    assert remembered(tmp_path) == [*(f"task-{number}" for number in range(3000)), "task-new"]
    assert list(sqlite.read_history(tmp_path))[-1] == record("new")


def test_it_costs_no_write_of_its_own(journal, tmp_path):
    """It rides along with what is written anyway: one transaction, whatever is in it."""

    async def main():
        for number in range(50):
            journal.put_export(record(number))
        journal.put(ClaimRecord("x", ClaimState.CLAIMED, NOW))
        assert remembered(tmp_path) == []
        await journal.write(ClaimRecord("y", ClaimState.STARTING, NOW))

    asyncio.run(main())
    assert len(remembered(tmp_path)) == 50
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as database:
        assert database.execute("SELECT count(*) FROM exported").fetchone() == (1,)


def test_closing_writes_what_was_only_noted(journal, tmp_path):
    journal.put_export(record(1))
    journal.close()
    assert remembered(tmp_path) == ["task-1"]


def test_the_oldest_are_dropped_where_there_are_too_many(journal, tmp_path):
    put(tmp_path, [record(number) for number in range(MAX_TASKS + 1500)])
    for number in range(TRIM_EVERY):
        journal.put_export(record(f"new-{number}"))
    asyncio.run(journal.flush())
    found = remembered(tmp_path)
    assert MAX_TASKS - 500 <= len(found) <= MAX_TASKS
    assert found[-1] == f"task-new-{TRIM_EVERY - 1}"


@pytest.mark.parametrize("others", [0, 3])
def test_what_is_too_old_is_dropped(tmp_path, others):
    made = SqliteJournal(tmp_path)
    asyncio.run(made.load())
    put(tmp_path, [record("old", NOW.wall - MAX_AGE_SECONDS - 10)])
    if others:
        put(tmp_path, [record(number) for number in range(others)])
    with closing(sqlite.connect(tmp_path / FILE_NAME)) as database:
        history.trim(database, NOW.wall)
    assert len(remembered(tmp_path)) == others
    made.close()


def test_since_leaves_out_what_was_before(journal, tmp_path):
    put(tmp_path, [record(number, NOW.wall + number) for number in range(10)])
    assert remembered(tmp_path, NOW.wall + 7) == ["task-7", "task-8", "task-9"]


def test_where_there_is_no_journal_nothing_is_remembered_and_none_is_made(tmp_path):
    assert remembered(tmp_path / "none") == []
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


# -- from outside

ROUTES = """
[[routes]]
project = "ACME Medical Records"
to = ["archive", "ledger"]
[destinations.archive]
type = "folder"
path = "archive"
[destinations.default]
type = "folder"
path = "default"
[destinations.ledger]
type = "folder"
path = "ledger"
"""


def test_history_tells_what_was_exported_when_and_where_to(run_cli, tmp_path):
    (tmp_path / "config.toml").write_text(ROUTES)
    with simulator("--tasks", "30", "--profile", "small") as aluma:
        waiting = json.loads(run_cli("list", "--json", "--base-url", aluma.base_url).stdout)
        assert run_cli("--once", "--base-url", aluma.base_url, "--state", "state").returncode == 0
        done = run_cli("history", "--json", "--state", "state")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert "30 tasks exported" in done.stderr
    assert {row["task"] for row in rows} == {task["id"] for task in waiting}
    assert set(rows[0]) == {"time", "task", "files", "bytes", "seconds", "destinations"}
    acme = {task["id"] for task in waiting if task["project_name"] == "ACME Medical Records"}
    for row in rows:
        assert row["destinations"] == (["archive", "ledger"] if row["task"] in acme else ["default"])
        assert row["files"] > 0
    status = json.loads(run_cli("status", "--json", "--state", "state").stdout)
    assert status["exported_in_24_hours"] == 30
    assert status["seconds_since_last_export"] < 60
    assert "exported in the last 24 h: 30, the last" in run_cli("status", "--state", "state").stdout
    assert json.loads(run_cli("status", "--json", "--state", "none").stdout)["seconds_since_last_export"] is None
    one = rows[3]["task"]
    assert one in run_cli("history", "--state", "state", "--task", one, "--since", "10min").stdout
    assert run_cli("history", "--state", "state", "--since", "2020-01-01", "--task", "nobody").stdout == ""
    assert run_cli("history", "--state", "state", "--since", "tomorrow").returncode == 2
    assert not any(task["name"] in done.stdout for task in waiting), "names of tasks are not kept"


def test_after_a_faulty_run_the_history_agrees_with_aluma(run_cli, tmp_path):
    """Lost replies included: what Aluma counts as completed is there once, and nothing else."""
    (tmp_path / "config.toml").write_text(
        "[retry]\ncooldown_initial_seconds = 0.2\ncooldown_max_seconds = 0.5\nwait_initial_seconds = 0.01\n"
        "[exporter]\npoll_wait_initial_seconds = 0.1\npoll_wait_max_seconds = 0.2\n"
    )
    faults = [f"--fault={kind}=0.05" for kind in ("drop-after", "error-after", "drop-before", "truncate")]
    with simulator("--tasks", "40", "--profile", "small", "--seed", "3", *faults) as aluma:
        for _ in range(20):
            done = run_cli("--once", "-q", "-o", "out", "--state", "state", "--base-url", aluma.base_url)
            if done.returncode == 0 and aluma.state()["tasks"] == {"completed": 40}:
                break
        rows = [
            json.loads(line)["task"] for line in run_cli("history", "--json", "--state", "state").stdout.splitlines()
        ]
        assert len(rows) == len(set(rows)) == aluma.state()["tasks"]["completed"] == 40
