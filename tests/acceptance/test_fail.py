"""``fail``: parked tasks are failed at Aluma after the administrator has confirmed it, and never without a copy."""

import json
import os
import pty
import subprocess

import pytest
from msgspec.structs import replace

from aluma_async.journal import reader
from aluma_async.journal.lock import lock_folder
from aluma_async.models import BreakerRecord, ClaimRecord, HoldRecord
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.quarantine.records import CopyState
from aluma_async.testing import SimulatedAluma
from aluma_async.testing.behaviour import SpecQuirk
from tests.acceptance.test_redeliver import CONFIG as TABLE_CONFIG
from tests.acceptance.test_redeliver import Narrow
from tests.support.databases import SqliteDatabase
from tests.support.holds import end_holds
from tests.support.processes import FAST_CONFIG, MAX_SECONDS, PENDING, PROGRAM, environment, expect_error
from tests.support.proxy import proxy_for
from tests.support.server import aluma_server

PROJECTS = 4
TASKS = 5 * PROJECTS
FAILED = 3 * PROJECTS
ONE_PARKED = FAILED + 1
"""Number of tasks of which one is the fourth of its project."""
ALL = tuple(range(TASKS))
CONFIG = FAST_CONFIG.replace("[retry]", "[retry]\npark_after = 1").replace("[exporter]", '[exporter]\nstate = "state"')


@pytest.fixture
def state(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG + '[destinations.default]\ntype = "folder"\npath = "out"\n')
    return tmp_path / "state"


def park(run_cli, aluma, **environ):
    """Let the exporter handle each task twice, because at the first time none is failed; return the ids of the rest."""
    for end in (end_holds, lambda state: None):
        done = run_cli("--once", "--base-url", aluma.base_url, "-q", **environ)
        assert done.returncode == 1, done.stderr
        end(run_cli.folder / "state")
    return set(aluma.simulated.ids(PENDING))


def records(state, kind):
    return [record for record in reader.read_records(state) if isinstance(record, kind)]


def the_copy(state, task_id):
    """Return the copy of a task."""
    (copy,) = QuarantineFolder(state / "quarantine").find(task_id)
    return copy


def check_copies(state, aluma):
    """Check that each failed task has a complete copy with its specification."""
    quarantine = QuarantineFolder(state / "quarantine")
    copies = {copy.task_id: copy for copy in quarantine.copies()[0]}
    for task_id in aluma.simulated.ids("failed"):
        assert copies[task_id].record.state is CopyState.FAILED
        assert not quarantine.verify(copies[task_id])
        assert quarantine.read_specification(copies[task_id]) == aluma.simulated.specification(task_id)


def test_fail_by_reason_fails_the_tasks_that_the_breaker_has_parked(run_cli, state):
    """The exporter fails three tasks of each project by itself; afterwards it may fail three more."""
    with aluma_server(TASKS, impossible_tasks=ALL) as aluma:
        parked = park(run_cli, aluma)
        assert len(parked) == TASKS - FAILED
        assert len(records(state, BreakerRecord)) == FAILED
        limits = json.loads(run_cli("status", "--json").stdout)["failure_limits"]
        assert len(limits) == PROJECTS
        assert {(row["error"], row["failed"], row["parked"]) for row in limits} == {("UnexportableTask", 3, 2)}
        assert "'aluma-async fail --reason UnexportableTask'" in run_cli("status").stdout
        run_cli("retry", "--all")
        assert park(run_cli, aluma) == parked, "the next process fails no more"
        done = run_cli("fail", "--reason", "UnexportableTask", "--yes", "--base-url", aluma.base_url, "-q")
        assert (done.returncode, done.stdout) == (0, f"failed {TASKS - FAILED} tasks at Aluma\n"), done.stderr
        assert len(aluma.simulated.ids("failed")) == TASKS
        assert all("confirmed by the administrator: Unexport" in aluma.simulated.messages[key] for key in parked)
        check_copies(state, aluma)
    assert not reader.read_records(state), "no claim is open, no task is on hold, and the breaker is reset"
    assert json.loads(run_cli("status", "--json").stdout)["failure_limits"] == []


def test_fail_by_id_fails_only_these_tasks(run_cli, state, tmp_path):
    """Their column is too narrow, and the administrator does not want the documents."""
    (tmp_path / "config.toml").write_text(TABLE_CONFIG)
    database = SqliteDatabase(tmp_path / "data.db")
    Narrow(database)
    with aluma_server(8) as aluma:
        parked = sorted(park(run_cli, aluma, DATABASE_URL=database.url))
        assert len(parked) == 8
        command = ("fail", "--yes", "--base-url", aluma.base_url, "-q", "--", *parked[:2], "nobody")
        done = run_cli(*command, DATABASE_URL=database.url)
        assert (done.returncode, done.stdout) == (1, "failed 2 tasks at Aluma\n"), done.stderr
        assert "nobody: no copy in the quarantine" in done.stderr
        assert sorted(aluma.simulated.ids("failed")) == parked[:2]
        assert aluma.simulated.messages[parked[0]].startswith("confirmed by the administrator: SchemaMismatch: ")
        check_copies(state, aluma)
    assert {record.task_id for record in records(state, HoldRecord)} == set(parked[2:])


def test_fail_keeps_a_task_whose_file_has_another_version_than_its_copy(run_cli, state):
    """One of the two may be the answer of a proxy, so both are kept, here and at Aluma."""
    new = "%PDF-1.7 new version\n%%EOF\n"
    with aluma_server(TASKS, impossible_tasks=ALL) as aluma, proxy_for(aluma.base_url) as proxy:
        parked = park(run_cli, aluma)
        with_pdf = {task_id for task_id in parked if list(the_copy(state, task_id).folder.rglob("*.pdf"))}
        proxy.answer = lambda verb: (200, "application/pdf", new) if verb == "file" else None
        done = run_cli("fail", "--reason", "UnexportableTask", "--yes", "--base-url", proxy.base_url, "-q")
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("fetched twice with different content") == len(with_pdf) > 0
        assert set(aluma.simulated.ids(PENDING)) == with_pdf
    for task_id in with_pdf:
        assert len(QuarantineFolder(state / "quarantine").find(task_id)) == 2


def test_fail_keeps_a_task_whose_file_cannot_be_fetched_any_more(run_cli, state):
    """The file in the safety copy may be outdated. A proxy answers 404 meanwhile."""
    with aluma_server(TASKS, impossible_tasks=ALL) as aluma, proxy_for(aluma.base_url) as proxy:
        park(run_cli, aluma)
        proxy.answer = lambda verb: (404, "text/plain", "default backend - 404") if verb == "file" else None
        done = run_cli("fail", "--reason", "UnexportableTask", "--yes", "--base-url", proxy.base_url, "-q")
        assert done.returncode == 1, done.stderr
        kept = set(aluma.simulated.ids(PENDING))
        assert kept
        assert all(the_copy(state, task_id).is_complete for task_id in kept)


def test_fail_refuses_a_task_with_an_incomplete_copy(run_cli, state):
    with aluma_server(1, quirks={0: SpecQuirk.UNKNOWN_SOURCE}) as aluma:
        (task_id,) = park(run_cli, aluma)
        done = run_cli("fail", "--reason", "BadSpecification", "--yes", "--base-url", aluma.base_url)
        assert done.returncode == 1
        assert "not failed: incomplete copy: 1 file missing" in done.stderr
        assert aluma.simulated.ids(PENDING) == [task_id]


def test_fail_refuses_a_task_whose_specification_has_changed(run_cli, state):
    """The administrator has seen another one. The task stays parked, and has a copy of each."""
    with aluma_server(ONE_PARKED, impossible_tasks=ALL) as aluma:
        (task_id,) = park(run_cli, aluma)
        (hold,) = records(state, HoldRecord)
        shown = the_copy(state, task_id)
        aluma.simulated.behaviour = replace(aluma.simulated.behaviour, impossible_tasks=())
        done = run_cli("fail", "--yes", "--base-url", aluma.base_url, "-q", "--", task_id)
        assert (done.returncode, done.stdout) == (1, "failed 0 tasks at Aluma\n")
        assert "its Export Specification has changed" in done.stderr
        assert aluma.simulated.ids(PENDING) == [task_id]
    copies = QuarantineFolder(state / "quarantine").find(task_id)
    assert [copy.record.state for copy in copies] == [CopyState.PARKED] * 2, [copy.missing for copy in copies]
    assert copies[0] == shown
    assert shown.is_complete
    (after,) = records(state, HoldRecord)
    assert (after.parked, after.failures) == (True, hold.failures + 1)
    assert not records(state, ClaimRecord)


def test_fail_fails_nothing_when_the_copy_was_damaged(run_cli, state):
    with aluma_server(ONE_PARKED, impossible_tasks=ALL) as aluma:
        (task_id,) = park(run_cli, aluma)
        spec = the_copy(state, task_id).folder / "specification.json"
        spec.write_bytes(spec.read_bytes().replace(b"documents", b"document_"))
        done = run_cli("fail", "--yes", "--base-url", aluma.base_url, "-q", "--", task_id)
        assert (done.returncode, "it has changed since it was stored" in done.stderr) == (1, True)
        assert aluma.simulated.ids(PENDING) == [task_id]


def test_fail_reports_a_task_that_is_not_pending(run_cli, state):
    with aluma_server(ONE_PARKED, impossible_tasks=ALL) as aluma:
        (task_id,) = park(run_cli, aluma)
        aluma.time_out()
        done = run_cli("fail", "--yes", "--base-url", aluma.base_url, "-q", "--", task_id)
        assert (done.returncode, f"{task_id}: not failed: not pending at Aluma" in done.stderr) == (1, True)


def test_fail_asks_for_confirmation(run_cli, state, tmp_path):
    """Without a terminal, --yes is required. Any answer but yes changes nothing."""
    with aluma_server(ONE_PARKED, impossible_tasks=ALL) as aluma:
        (task_id,) = park(run_cli, aluma)
        done = run_cli("fail", "--base-url", aluma.base_url, "--", task_id)
        assert (done.returncode, "--yes" in done.stderr) == (2, True)
        keyboard, terminal = pty.openpty()
        env = environment(tmp_path, SimulatedAluma.client_secret, {"ALUMA_ASYNC_BASE_URL": aluma.base_url})
        command = [*PROGRAM, "fail", "--", task_id]
        with subprocess.Popen(command, stdin=terminal, stderr=subprocess.PIPE, env=env, cwd=tmp_path) as process:
            os.write(keyboard, b"n\n")
            output = process.stderr.read().decode()
            assert process.wait(MAX_SECONDS) == 1
        os.close(keyboard)
        os.close(terminal)
        assert "Fail 1 task at Aluma (UnexportableTask)?" in output
        assert aluma.simulated.ids(PENDING) == [task_id]


def test_fail_is_refused_while_an_exporter_uses_the_state_folder(run_cli, state):
    state.mkdir()
    with lock_folder(state):
        done = run_cli("fail", "--reason", "UnexportableTask", "--yes")
    expect_error(done, 75, "state folder state: in use by another exporter", "Stop the exporter, fail the tasks")


def test_fail_requires_ids_or_a_reason(run_cli, state):
    expect_error(run_cli("fail", "--yes"), 2, "name the tasks to fail, or use --reason")
    expect_error(run_cli("fail", "t1", "--reason", "X", "--yes"), 2, "name the tasks to fail, or use --reason")
    expect_error(run_cli("fail", "--reason", "X", "--yes"), 1, "no parked task with the error X")
