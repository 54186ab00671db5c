"""Operator commands: what they tell, what they refuse, and what they change at Aluma."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from contextlib import contextmanager, suppress

import pytest

from aluma_async.journal import sqlite
from aluma_async.testing import SimulatedAluma
from tests.support.processes import CLAIMED, PENDING, PROGRAM, environment, expect_error, simulator, start_program


@pytest.fixture
def bulky(tmp_path):
    """An Aluma with two tasks that take long; the id of the first, claimed by an exporter that was killed."""
    with simulator("--tasks", "2", "--profile", "bulk") as aluma:
        yield aluma


@contextmanager
def claimed(tmp_path, aluma, state="state"):
    """Start an exporter that never gets done; return it when it has claimed, and the id."""
    env = environment(tmp_path, SimulatedAluma.client_secret, {})
    options = ["-o", "out", "-w", "1", "--max-bytes-per-second", "1000", "--state", state, "-v", "--log-format", "json"]
    with start_program(*options, "--base-url", aluma.base_url, cwd=tmp_path, env=env) as run:
        for line in run.stderr:
            if (said := json.loads(line))["event"] == "TaskStarted":
                yield run, said["task"]
                return


def test_a_claim_that_nobody_holds_any_more_is_given_back(run_cli, tmp_path, bulky):
    """The exporter is gone with its state folder, say; Aluma's time-out would take half an hour."""
    with claimed(tmp_path, bulky) as (run, task):
        run.kill()
    assert bulky.state()["tasks"] == {PENDING: 1, CLAIMED: 1}
    done = run_cli("cancel", "--yes", "--state", "another", "--base-url", bulky.base_url, "--", task)
    assert (done.returncode, done.stdout) == (0, f"task {task}: claim released\n")
    assert bulky.state()["tasks"] == {PENDING: 2}
    done = run_cli("cancel", "--yes", "--base-url", bulky.base_url, "--", task)
    expect_error(done, 1, "no claim to release", PENDING)


def test_what_a_running_exporter_has_in_hand_is_refused(run_cli, tmp_path, bulky):
    with claimed(tmp_path, bulky) as (_, task):
        done = run_cli("cancel", "--yes", "--state", "state", "--base-url", bulky.base_url, "--", task)
        expect_error(done, 1, "in progress in the exporter", "stop it first")
        assert CLAIMED in bulky.state()["tasks"]
        assert sqlite.is_locked(tmp_path / "state")


def test_cancel_asks_and_takes_no_for_an_answer(run_cli, tmp_path, bulky):
    """Where nobody can be asked, --yes is needed."""
    done = run_cli("cancel", "--base-url", bulky.base_url, "x")
    assert (done.returncode, "--yes" in done.stderr) == (2, True)
    with claimed(tmp_path, bulky) as (run, task):
        run.kill()
    ours, theirs = pty.openpty()
    env = environment(tmp_path, SimulatedAluma.client_secret, {"ALUMA_ASYNC_BASE_URL": bulky.base_url})
    with subprocess.Popen([*PROGRAM, "cancel", "--", task], stdin=theirs, stderr=subprocess.PIPE, env=env) as asking:
        os.write(ours, b"n\n")
        said = asking.stderr.read().decode()
        assert asking.wait(30) == 1
    os.close(ours)
    os.close(theirs)
    assert "Release the claim?" in said
    assert CLAIMED in bulky.state()["tasks"]


def test_a_task_that_aluma_does_not_know(run_cli, aluma_with_50_tasks):
    done = run_cli("cancel", "--yes", "--base-url", aluma_with_50_tasks.base_url, "nobody")
    expect_error(done, 1, "task nobody: unknown to Aluma", "history")


def test_status_tells_in_words_how_far_a_claim_has_come(run_cli, tmp_path, bulky):
    with claimed(tmp_path, bulky) as (_, task):
        assert f"{task}  being exported" in run_cli("status", "--state", "state").stdout
        (claim,) = json.loads(run_cli("status", "--state", "state", "--json").stdout)["in_hand"]
        assert claim["step"] in ("started", "claimed")


def test_a_listing_fits_into_the_terminal(tmp_path, aluma_with_50_tasks):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    env = environment(tmp_path, SimulatedAluma.client_secret, {"ALUMA_ASYNC_BASE_URL": aluma_with_50_tasks.base_url})
    said = b""
    with subprocess.Popen([*PROGRAM, "list"], stdout=theirs, stderr=subprocess.PIPE, env=env) as listing:
        os.close(theirs)
        with suppress(OSError):  # how the end of a terminal is told
            while piece := os.read(ours, 65536):
                said += piece
        assert listing.wait(30) == 0
    os.close(ours)
    lines = said.decode().splitlines()
    assert len(lines) == 50
    assert max(map(len, lines)) <= 72


def test_under_systemd_each_line_has_its_priority(tmp_path):
    """The journal names itself by the device and inode of the stream; what ends a run is told as an error."""
    with simulator("--tasks", "3", "--profile", "small") as aluma:
        for secret, code, priorities in ((SimulatedAluma.client_secret, 0, {"<6>"}), ("wrong", 77, {"<3>"})):
            with (tmp_path / f"{code}.log").open("w+") as stream:
                status = os.fstat(stream.fileno())
                env = environment(tmp_path, secret, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
                run = [*PROGRAM, "--once", "-o", "out", "--base-url", aluma.base_url]
                assert subprocess.run(run, cwd=tmp_path, env=env, stderr=stream, timeout=60).returncode == code
                stream.seek(0)
                lines = stream.read().splitlines()
            assert {line[:3] for line in lines} == priorities
            assert len(lines) >= 2
