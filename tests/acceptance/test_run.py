"""Runs as real processes against the simulated Aluma: demo, ``--once``, stop signals and log priorities."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support.files import expected_hashes, hash_files
from tests.support.processes import (
    CLAIMED,
    MAX_SECONDS,
    PENDING,
    PROGRAM,
    Simulator,
    environment,
    simulator,
    start_program,
)

needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console")


def test_demo_exports_verifies_and_can_be_repeated(run_cli, tmp_path):
    trees = []
    for _ in range(2):
        done = run_cli("demo", "--tasks", "12")
        assert done.returncode == 0, done.stderr
        assert "12 tasks" in done.stderr
        assert "all are identical to the originals" in done.stderr
        assert str(tmp_path / "aluma-export") in done.stderr
        assert done.stdout == ""
        trees.append(sorted(path for path in tmp_path.rglob("*") if ".aluma-async" not in path.parts))
        assert hash_files(tmp_path / "aluma-export") == expected_hashes(12)
    assert trees[0] == trees[1]


def test_once_exports_all_pending_tasks_and_exits(run_cli, tmp_path):
    """Every byte is identical, and without --max-at-once the requests in flight are limited to twice the workers."""
    with simulator("--tasks", "50", "--seed", "7", "--latency", "0.01") as aluma:
        done = run_cli("--once", "-o", "out", "--base-url", aluma.base_url, "-w", "4")
        assert done.returncode == 0, done.stderr
        assert hash_files(tmp_path / "out") == expected_hashes(50, seed=7)
        state = aluma.state()
        assert state["tasks"] == {"completed": 50}
        assert state["in_flight_peak"] <= 8
        assert "Exported  50 tasks" in done.stderr
        again = run_cli("--once", "-o", "out", "--base-url", aluma.base_url)
        assert (again.returncode, "Exported  0 tasks" in again.stderr) == (0, True)


def test_run_exits_with_1_when_tasks_cool_down(run_cli, tmp_path):
    (tmp_path / "c.toml").write_text('[destinations.x]\ntype = "folder"\npath = "out"\non_conflict = "fail"')
    codes = []
    for seed in ("1", "2"):  # different tasks, files with the same names
        with simulator("--tasks", "3", "--profile", "small", "--seed", seed) as aluma:
            done = run_cli("-c", "c.toml", "--once", "--base-url", aluma.base_url)
            codes.append(done.returncode)
    assert codes == [0, 1]
    assert "3 cooling down" in done.stderr


# -- signals


@contextmanager
def start_run(tmp_path, *arguments):
    """Start a run that logs JSON; yield it and a function that reads its log up to an event."""
    env = environment(tmp_path, SimulatedAluma.client_secret, {})
    with start_program(*arguments, "-o", "out", "-v", "--log-format", "json", cwd=tmp_path, env=env) as process:
        yield process, lambda kind: next(line for line in process.stderr if json.loads(line)["event"] == kind)


@needs_signals
def test_first_signal_finishes_tasks_in_progress(tmp_path):
    with (
        simulator("--tasks", "500", "--profile", "small", "--latency", "0.05") as aluma,
        start_run(tmp_path, "-w", "4", "--base-url", aluma.base_url) as (run, read_to),
    ):
        read_to("TaskCompleted")
        run.send_signal(signal.SIGINT)
        assert "again to stop now" in read_to("Draining")
        assert run.wait(MAX_SECONDS) == 0
        tasks = aluma.state()["tasks"]
        assert CLAIMED not in tasks
        assert 0 < tasks["completed"] < 500
        completed = expected_hashes(tasks["completed"], profile="small")  # the oldest tasks are exported first
        assert hash_files(tmp_path / "out").total() == completed.total()


@needs_signals
def test_drain_timeout_releases_unfinished_tasks(tmp_path):
    slow = ["--max-bytes-per-second", "1000", "--drain-timeout", "0.1"]
    with (
        simulator("--tasks", "1", "--profile", "bulk") as aluma,
        start_run(tmp_path, *slow, "--base-url", aluma.base_url) as (run, read_to),
    ):
        read_to("TaskStarted")
        run.send_signal(signal.SIGTERM)
        read_to("Draining")
        assert run.wait(MAX_SECONDS) == 0
        assert aluma.state()["tasks"] == {PENDING: 1}


@needs_signals
def test_second_signal_ends_the_run_at_once(tmp_path):
    slow = ["--max-bytes-per-second", "1000"]
    with (
        simulator("--tasks", "1", "--profile", "bulk") as aluma,
        start_run(tmp_path, *slow, "--base-url", aluma.base_url) as (run, read_to),
    ):
        read_to("TaskStarted")
        run.send_signal(signal.SIGINT)
        read_to("Draining")
        run.send_signal(signal.SIGINT)
        assert run.wait(MAX_SECONDS) == 130


@needs_signals
def test_simulate_prints_its_state_when_stopped():
    with start_program("simulate", "--port", "0", "--tasks", "3") as process:
        Simulator(process)
        process.send_signal(signal.SIGTERM)
        assert "Tasks: 3 pending:start_client_action" in process.stdout.read()
        assert process.wait(MAX_SECONDS) == 0


def test_log_lines_have_priorities_when_stderr_is_the_journal(tmp_path):
    """``JOURNAL_STREAM`` holds device and inode of the stream. An error that ends the run has priority 3."""
    with simulator("--tasks", "3", "--profile", "small") as aluma:
        for secret, code, priorities in ((SimulatedAluma.client_secret, 0, {"<6>"}), ("wrong", 77, {"<3>"})):
            with (tmp_path / f"{code}.log").open("w+") as stream:
                status = os.fstat(stream.fileno())
                env = environment(tmp_path, secret, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
                run = [*PROGRAM, "--once", "-o", "out", "--base-url", aluma.base_url]
                assert subprocess.run(run, cwd=tmp_path, env=env, stderr=stream, timeout=MAX_SECONDS).returncode == code
                stream.seek(0)
                lines = stream.read().splitlines()
            assert {line[:3] for line in lines} == priorities
            assert len(lines) >= 2
