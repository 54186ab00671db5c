"""A state folder that an earlier version wrote is read, recovered from and shown.

``tests/fixtures/earlier_state`` was written by the code of commit 12ddb49, before its records got their present
names: open claims in every state, cool-downs, parked and released tasks, the history, and one task in quarantine.
"""

import json
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from aluma_async import Exporter, events
from aluma_async.journal import reader
from aluma_async.journal.database import FILE_NAME
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import ClaimRecord, ClaimState, ExportTask, HoldRecord, TaskState, Timestamp
from aluma_async.testing import MemoryDestination, run_virtual

FIXTURE = Path(__file__).parents[1] / "fixtures" / "earlier_state"
WRITTEN_AT = 1_790_000_000.0
QUARANTINED = "DT17Eihksyl29g63namsOw"
WRITTEN = Timestamp("boot", 1000.0, WRITTEN_AT)
CLAIMS = {
    "started": ClaimState.STARTING,
    "started-doubted": ClaimState.STARTING,
    "claimed": ClaimState.CLAIMED,
    "committed": ClaimState.COMMITTED,
    "committed-unheard": ClaimState.COMMITTED,
    "failing": ClaimState.FAILING,
    "loose": ClaimState.ORPHANED,
    "loose-doubted": ClaimState.ORPHANED,
}


@pytest.fixture
def state(tmp_path):
    """A copy of the state folder, in the folder from which ``run_cli`` runs."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "state"))


def test_journal_reads_records_of_an_earlier_version(state):
    records = reader.read_records(state)
    claims = {record.task_id: record for record in records if isinstance(record, ClaimRecord)}
    holds = {record.task_id: record for record in records if isinstance(record, HoldRecord)}
    assert {task_id: claim.state for task_id, claim in claims.items()} == CLAIMS
    assert {claim.sent_at for claim in claims.values()} == {WRITTEN}
    assert [task_id for task_id, claim in claims.items() if claim.settlement_unconfirmed] == ["committed-unheard"]
    assert [task_id for task_id, claim in claims.items() if claim.start_unconfirmed_at == WRITTEN] == [
        "loose-doubted",
        "started-doubted",
    ]
    assert (claims["committed"].files, claims["committed"].bytes) == (2, 20)
    assert claims["failing"].message == "file 2: unknown source 'fax'"
    assert holds == {
        "cooling": HoldRecord("cooling", WRITTEN, 60.0, 1, 0, False, "BadReply", "task cooling: cut short"),
        "crashed": HoldRecord(
            "crashed",
            WRITTEN,
            21600.0,
            crashes=6,
            parked=True,
            error="Crash",
            message="the exporter ended 6 times while it was at work on this task",
        ),
        "parked": HoldRecord("parked", WRITTEN, 21600.0, 1, 0, True, "DestinationError", "a file could not be written"),
    }


def test_history_reads_tasks_that_an_earlier_version_exported(state):
    exported = list(reader.read_history(state))
    assert [(record.task_id, record.files, record.bytes) for record in exported] == [
        ("gjVdMBC0wlq2Ku8LLBlXXQ", 1, 22),
        ("z8lppK0E0FoCbkMTVDAkiA", 3, 55),
    ]
    assert {(record.at, record.seconds, record.destinations) for record in exported} == {
        (WRITTEN_AT, 0.001, ("default",))
    }


class RecordingSource:
    """An Aluma that accepts everything and lists nothing; it keeps what is requested."""

    def __init__(self) -> None:
        self.settled: dict[str, str] = {}

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        for tasks in ():
            yield tasks

    async def complete(self, task: ExportTask) -> None:
        self.settled[task.id] = "complete"

    async def cancel(self, task: ExportTask) -> None:
        self.settled[task.id] = "cancel"

    async def fail(self, task: ExportTask, message: str) -> None:
        self.settled[task.id] = f"fail: {message}"

    async def state(self, task: ExportTask) -> str:
        return TaskState.PENDING


@pytest.mark.parametrize("boot", ["boot", "another boot"])
def test_recovery_settles_claims_of_an_earlier_version(boot, state):
    """Without receipts nothing proves that files are there, so all claims are cancelled; the holds are kept."""

    async def main():
        journal, source, emitted = SqliteJournal(state), RecordingSource(), []
        exporter = Exporter(
            source,
            MemoryDestination(),
            journal=journal,
            clock=lambda: Timestamp(boot, 1030.0 + anyio.current_time(), WRITTEN_AT + 30 + anyio.current_time()),
            on_event=emitted.append,
        )
        try:
            await exporter.run_until_drained()
        finally:
            journal.close()
        assert source.settled == {
            "started": "cancel",
            "started-doubted": "cancel",
            "claimed": "cancel",
            "committed": "cancel",
            "committed-unheard": "cancel",
            "failing": "cancel",
            "loose": "cancel",
            "loose-doubted": "cancel",
        }
        assert not [event for event in emitted if isinstance(event, events.TaskCompleted | events.TaskFailed)]

    run_virtual(main)
    records = reader.read_records(state)
    # A Start whose outcome was unknown may still be executed, so its claim stays open.
    assert sorted(record.task_id for record in records if isinstance(record, ClaimRecord)) == [
        "loose-doubted",
        "started",
        "started-doubted",
    ]
    holds = {record.task_id: record for record in records if isinstance(record, HoldRecord)}
    assert {task_id for task_id, hold in holds.items() if hold.parked} == {"crashed", "parked"}
    assert {task_id: hold.crashes for task_id, hold in holds.items() if hold.crashes} == {
        "claimed": 1,
        "crashed": 6,
        "started": 1,
        "started-doubted": 1,
    }
    with closing(sqlite3.connect(state / FILE_NAME)) as database:
        assert not database.execute("SELECT * FROM released").fetchall(), "the operator's release was applied"


def test_status_shows_the_state_of_an_earlier_version(run_cli, state):
    with closing(sqlite3.connect(state / FILE_NAME)) as database, database:
        # As if it had been written half a minute ago.
        now = (str(WRITTEN_AT), str(time.time() - 30))
        database.execute("UPDATE record SET value = replace(value, ?, ?)", now)
        database.execute("UPDATE exported SET at = ?, value = replace(value, ?, ?)", (now[1], *now))
    shown = json.loads(run_cli("status", "--state", "state", "--json").stdout)
    assert {row["task"]: row["step"] for row in shown["in_hand"]} == {
        task_id: str(step) for task_id, step in CLAIMS.items()
    }
    assert [row["task"] for row in shown["cooling_down"]] == ["cooling"]
    assert {row["task"]: row["error"] for row in shown["parked"]} == {
        "crashed": "Crash",
        "parked": "DestinationError",
    }
    (quarantined,) = shown["quarantined"]
    assert (quarantined["task"], quarantined["error"]) == (QUARANTINED, "ImpossibleExport")
    assert "fax" in quarantined["message"]
    assert shown["exported_in_24_hours"] == 2
    lines = run_cli("status", "--state", "state").stdout
    for task_id in (*CLAIMS, "cooling", "crashed", "parked", QUARANTINED):
        assert task_id in lines


def test_retry_releases_a_task_that_an_earlier_version_parked(run_cli, state):
    assert run_cli("retry", "--state", "state", "parked").returncode == 0
    with closing(sqlite3.connect(state / FILE_NAME)) as database:
        assert database.execute("SELECT task FROM released ORDER BY task").fetchall() == [("parked",), ("released",)]
