"""``cancel`` and ``status`` next to a running or killed exporter."""

import json
import os
import pty
import subprocess
from contextlib import contextmanager

import pytest

from aluma_async.journal.lock import is_locked
from aluma_async.testing import SimulatedAluma
from tests.support.processes import (
    CLAIMED,
    MAX_SECONDS,
    PENDING,
    PROGRAM,
    environment,
    expect_error,
    simulator,
    start_program,
)


@pytest.fixture
def aluma_with_2_bulky_tasks():
    """A simulated Aluma whose tasks take long to download."""
    with simulator("--tasks", "2", "--profile", "bulk") as aluma:
        yield aluma


@contextmanager
def exporter_with_claim(tmp_path, aluma):
    """Start an exporter that does not finish; yield it and the id of the task that it has claimed."""
    env = environment(tmp_path, SimulatedAluma.client_secret, {})
    slow = ["-w", "1", "--max-bytes-per-second", "1000"]
    options = ["-o", "out", *slow, "--state", "state", "-v", "--log-format", "json", "--base-url", aluma.base_url]
    with start_program(*options, cwd=tmp_path, env=env) as exporter:
        for line in exporter.stderr:
            if (event := json.loads(line))["event"] == "TaskStarted":
                yield exporter, event["task"]
                return


def test_cancel_releases_the_claim_of_a_dead_exporter(run_cli, tmp_path, aluma_with_2_bulky_tasks):
    """The exporter's state folder is gone, too: without the command, the task is blocked until the lease expires."""
    aluma = aluma_with_2_bulky_tasks
    with exporter_with_claim(tmp_path, aluma) as (exporter, task):
        exporter.kill()
    assert aluma.state()["tasks"] == {PENDING: 1, CLAIMED: 1}
    done = run_cli("cancel", "--yes", "--state", "another", "--base-url", aluma.base_url, "--", task)
    assert (done.returncode, done.stdout) == (0, f"task {task}: claim released\n")
    assert aluma.state()["tasks"] == {PENDING: 2}
    done = run_cli("cancel", "--yes", "--base-url", aluma.base_url, "--", task)
    expect_error(done, 1, "no claim to release", PENDING)


def test_cancel_refuses_claims_of_a_running_exporter(run_cli, tmp_path, aluma_with_2_bulky_tasks):
    aluma = aluma_with_2_bulky_tasks
    with exporter_with_claim(tmp_path, aluma) as (_, task):
        done = run_cli("cancel", "--yes", "--state", "state", "--base-url", aluma.base_url, "--", task)
        expect_error(done, 1, "in progress in the exporter", "stop it first")
        assert CLAIMED in aluma.state()["tasks"]
        assert is_locked(tmp_path / "state")


def test_cancel_asks_for_confirmation(run_cli, tmp_path, aluma_with_2_bulky_tasks):
    """Without a terminal, --yes is required. Any answer but yes changes nothing."""
    aluma = aluma_with_2_bulky_tasks
    done = run_cli("cancel", "--base-url", aluma.base_url, "x")
    assert (done.returncode, "--yes" in done.stderr) == (2, True)
    with exporter_with_claim(tmp_path, aluma) as (exporter, task):
        exporter.kill()
    keyboard, terminal = pty.openpty()
    env = environment(tmp_path, SimulatedAluma.client_secret, {"ALUMA_ASYNC_BASE_URL": aluma.base_url})
    command = [*PROGRAM, "cancel", "--", task]
    with subprocess.Popen(command, stdin=terminal, stderr=subprocess.PIPE, env=env) as process:
        os.write(keyboard, b"n\n")
        output = process.stderr.read().decode()
        assert process.wait(MAX_SECONDS) == 1
    os.close(keyboard)
    os.close(terminal)
    assert "Release the claim?" in output
    assert CLAIMED in aluma.state()["tasks"]


def test_cancel_reports_an_unknown_task(run_cli, aluma_with_50_tasks):
    done = run_cli("cancel", "--yes", "--base-url", aluma_with_50_tasks.base_url, "nobody")
    expect_error(done, 1, "task nobody: unknown to Aluma", "history")


def test_status_shows_the_step_of_a_claim(run_cli, tmp_path, aluma_with_2_bulky_tasks):
    with exporter_with_claim(tmp_path, aluma_with_2_bulky_tasks) as (_, task):
        assert f"{task}  being exported" in run_cli("status", "--state", "state").stdout
        (claim,) = json.loads(run_cli("status", "--state", "state", "--json").stdout)["in_hand"]
        assert claim["step"] in ("started", "claimed")


def test_status_and_retry_name_the_copy_of_a_quarantined_task(run_cli, tmp_path):
    """A record that cannot be read is reported; the others are listed."""
    for name, record in (
        ("t1", {"task": {"id": "t1"}, "error": "UnexportableTask", "message": "no name"}),
        ("t2", {"task": None}),
    ):
        folder = tmp_path / "state" / "quarantine" / name
        folder.mkdir(parents=True)
        (folder / "quarantine.json").write_text(json.dumps(record))
    copy = str(tmp_path / "state" / "quarantine" / "t1")
    state = ["--state", str(tmp_path / "state")]
    done = run_cli("status", "--json", *state)
    (row,) = json.loads(done.stdout)["quarantined"]
    assert row == {
        "task": "t1",
        "folder": copy,
        "error": "UnexportableTask",
        "message": "no name",
        "state": "failed",
        "complete": False,
        "missing": 1,
        "files": 0,
        "bytes": row["bytes"],
        "stored_at": None,
        "redelivered_at": None,
    }
    assert "t2" in done.stderr
    lines = run_cli("status", *state).stdout.splitlines()
    row = lines.index("  UnexportableTask: no name") + 1
    assert lines[row] == f"    t1  failed, incomplete copy: 1 file missing  {copy}"
    done = run_cli("retry", *state, "t1", "t3")
    assert (done.returncode, done.stdout) == (1, "ended the hold of 0 tasks\n")
    assert f"t1: deleted at Aluma; a copy of its files is in {copy}" in done.stderr
    assert "t3: not on hold" in done.stderr


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_id_that_begins_with_a_dash_is_explained(run_cli, command):
    expect_error(run_cli(command, "-SpM0"), 2, "No such option", 'Put "--" before an id')
    assert '"--"' not in run_cli("status", "-SpM0").stderr
