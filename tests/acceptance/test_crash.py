"""Real processes and files under SIGKILL, SIGSTOP, power loss and disk errors: no file is lost or partial."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.support.files import ROOT, expected_hashes, hash_files
from tests.support.processes import FAST_CONFIG, MAX_SECONDS, PENDING, PROGRAM, environment, simulator, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

COMPLETED = "completed"


@contextmanager
def start_exporter(folder, aluma, *options, prefix=()):
    """Start an exporter in a process group of its own; kill it at the end of the block if it still runs."""
    (folder / "config.toml").write_text(FAST_CONFIG)
    command = [*prefix, *PROGRAM, "-o", "out", "--state", "state", "--base-url", aluma.base_url, "-q", *options]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder, "simulated-secret", {}),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def run_once(folder, aluma):
    """Return the exit code of a run with ``--once``."""
    with start_exporter(folder, aluma, "--once") as process:
        return process.wait(MAX_SECONDS)


def status_of(folder):
    """Return the JSON output of ``status``."""
    command = [*PROGRAM, "status", "--json", "--state", "state"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, "", {}),
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS,
        check=True,
    )
    return json.loads(done.stdout)


def check_no_partial_files(root, expected):
    """Check that every visible file is complete; return the hashes of the files."""
    files = hash_files(root)
    assert not set(files) - set(expected), "a partial file is visible"
    return files


def test_exporter_recovers_soon_after_20_kills(tmp_path):
    """All tasks are exported, no task had to wait for the end of a lease, and the state folder holds no secrets."""
    tasks, kills = 120, 20
    random_source, expected = random.Random(3), expected_hashes(tasks, profile="small")
    with simulator("--tasks", str(tasks), "--profile", "small", "--latency", "0.3") as aluma:
        for _ in range(kills):
            with start_exporter(tmp_path, aluma, "--workers", "4"):
                time.sleep(random_source.uniform(0.5, 2.0))
            check_no_partial_files(tmp_path / "out", expected)
        with start_exporter(tmp_path, aluma) as process:
            wait_until(lambda: aluma.state()["tasks"] == {COMPLETED: tasks})
            process.send_signal(signal.SIGTERM)
            assert process.wait(MAX_SECONDS) == 0
        assert not aluma.state()["requests"].get("requeued")
    for path in (path for path in (tmp_path / "state").rglob("*") if path.is_file()):
        content = path.read_bytes()
        for canary in (b"simulated-secret", b"Bearer", b"PatientName", b"%PDF", b".pdf"):
            assert canary not in content, f"{path} contains {canary!r}"
    assert check_no_partial_files(tmp_path / "out", expected) == expected
    assert not list((tmp_path / "out" / ".aluma-async" / "staging").iterdir())


POISON = """
import os
import signal

from aluma_async import AlumaClient
from aluma_async.cli.main import main

open_file = AlumaClient.open_file


def open_file_or_die(self, claim, file):
    if claim.task.name == "00008.pdf":
        os.kill(os.getpid(), signal.SIGKILL)
    return open_file(self, claim, file)


AlumaClient.open_file = open_file_or_die
main()
"""
"""An exporter that is killed whenever it downloads a file of one of the tasks."""


def test_task_that_kills_the_process_is_parked_and_others_are_exported(tmp_path):
    """A service manager restarts the process each time."""
    (tmp_path / "poison.py").write_text(POISON)
    with simulator("--tasks", "30", "--profile", "small", "--latency", "0.05") as aluma:
        for _ in range(12):
            command = [sys.executable, "poison.py", "-o", "out", "--state", "state", "--base-url", aluma.base_url]
            (tmp_path / "config.toml").write_text(FAST_CONFIG)
            done = subprocess.run(
                [*command, "--once", "-q"],
                cwd=tmp_path,
                env=environment(tmp_path, "simulated-secret", {"PYTHONPATH": str(ROOT)}),
                capture_output=True,
                text=True,
                timeout=MAX_SECONDS,
            )
            if done.returncode >= 0:
                break
        assert done.returncode == 1, done.stderr
        assert aluma.state()["tasks"] == {COMPLETED: 29, PENDING: 1}
        (parked,) = status_of(tmp_path)["parked"]
    assert "ended 7 times" in parked["message"], "six times, and once more for the safety copy"


def test_second_exporter_on_a_state_folder_is_refused(tmp_path):
    """The first one continues."""
    with (
        simulator("--tasks", "40", "--profile", "small", "--latency", "0.3") as aluma,
        start_exporter(tmp_path, aluma) as first,
    ):
        wait_until(lambda: (tmp_path / "state" / "journal.sqlite3").exists())
        with start_exporter(tmp_path, aluma, "--once") as second:
            output = second.communicate(timeout=MAX_SECONDS)[1]
        assert second.returncode == 75
        assert "in use by another exporter" in output
        assert "--state" in output
        wait_until(lambda: aluma.state()["tasks"] == {COMPLETED: 40})
        first.send_signal(signal.SIGTERM)
        assert first.wait(MAX_SECONDS) == 0


def test_damaged_journal_is_reported_and_replaced(tmp_path):
    with simulator("--tasks", "10", "--profile", "small") as aluma:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "journal.sqlite3").write_bytes(random.Random(0).randbytes(9000))
        with start_exporter(tmp_path, aluma, "--once") as process:
            output = process.communicate(timeout=MAX_SECONDS)[1]
        assert process.returncode == 0
        assert "journal was damaged" in output
        assert aluma.state()["tasks"] == {COMPLETED: 10}


def test_suspended_exporter_does_not_settle_expired_claims(tmp_path):
    """The suspended exporter's leases expire. Afterwards its tasks are exported again, completely."""
    expected = expected_hashes(12, profile="small")
    options = ("--tasks", "12", "--profile", "small", "--latency", "0.4", "--claim-timeout", "3")
    with (
        simulator(*options) as aluma,
        start_exporter(tmp_path, aluma, "--claim-timeout", "3", "--workers", "6") as process,
    ):
        wait_until(lambda: aluma.state()["requests"].get("start", 0) >= 3)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: aluma.state()["requests"].get("requeued", 0) >= 3)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: aluma.state()["tasks"] == {COMPLETED: 12})
        process.send_signal(signal.SIGTERM)
        assert process.wait(MAX_SECONDS) == 0
    assert check_no_partial_files(tmp_path / "out", expected) >= expected


@contextmanager
def mount(folder, *command):
    """Mount a file system for the block; skip the test without the permission to do so."""
    folder.mkdir()
    if subprocess.run([*command, str(folder)], capture_output=True).returncode:
        pytest.skip("needs the permission to mount: " + " ".join(map(str, command)))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_full_disk_stops_claiming_until_there_is_space(tmp_path):
    expected = expected_hashes(100, profile="small")
    out = tmp_path / "out"
    with (
        mount(out, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"),
        simulator("--tasks", "100", "--profile", "small") as aluma,
    ):
        with start_exporter(tmp_path, aluma) as process:
            wait_until(lambda: aluma.state()["requests"].get("cancel", 0) > 0)
            time.sleep(4)  # long enough to claim and release a queue of 100
            state = aluma.state()
            assert state["requests"]["start"] < 100
            assert "failed" not in state["tasks"]
            check_no_partial_files(out, expected)
            subprocess.run(["mount", "-o", "remount,size=100m", str(out)], check=True)
            wait_until(lambda: aluma.state()["tasks"] == {COMPLETED: 100})
            process.send_signal(signal.SIGTERM)
            output = process.communicate(timeout=MAX_SECONDS)[1]
        assert "claiming paused" in output
        assert hash_files(out) == expected


def test_power_loss_loses_no_file_of_a_completed_task(tmp_path):
    """A copy of the image of a mounted file system is the content of a disk at a power loss."""
    image, copy = tmp_path / "disk", tmp_path / "copy"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    mkfs = shutil.which("mkfs.ext4", path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if not mkfs or subprocess.run([mkfs, "-q", "-F", str(image)], capture_output=True).returncode:
        pytest.skip("needs mkfs.ext4")
    out = tmp_path / "out"
    with (
        mount(out, "mount", "-o", "loop", image),
        simulator("--tasks", "200", "--profile", "small", "--latency", "0.05") as aluma,
        start_exporter(tmp_path, aluma) as process,
    ):
        wait_until(lambda: aluma.state()["tasks"].get(COMPLETED, 0) > 40)
        process.send_signal(signal.SIGSTOP)  # because copying takes time, and a power loss does not
        completed = aluma.state()["tasks"][COMPLETED]
        shutil.copyfile(image, copy)
    expected = expected_hashes(200, profile="small")
    with mount(tmp_path / "after", "mount", "-o", "loop", copy):
        files = check_no_partial_files(tmp_path / "after", expected)
    assert files.total() >= 2 * completed, f"{completed} tasks were completed, but only {files.total()} files exist"


needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")


def strace(*injections):
    """Return the command that runs a program with faults in its system calls."""
    faults = (part for injection in injections for part in ("-e", injection))
    return ("strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=none", *faults)


@needs_strace
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_kill_at_a_disk_call_leaves_no_partial_file_and_loses_none(call, tmp_path):
    expected = expected_hashes(2, profile="small")
    for number in range(1, 40, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        with simulator("--tasks", "2", "--profile", "small") as aluma:
            inject = f"inject={call}:signal=KILL:when={number}"
            with start_exporter(folder, aluma, "--once", prefix=strace(inject)) as process:
                output = process.communicate(timeout=MAX_SECONDS)[1]
            if "Operation not permitted" in output:
                pytest.skip("needs the permission to trace")
            if process.returncode == 0:
                return
            check_no_partial_files(folder / "out", expected)
            with start_exporter(folder, aluma, "--once") as process:
                assert process.wait(MAX_SECONDS) == 0
            assert aluma.state()["tasks"] == {COMPLETED: 2}
            assert check_no_partial_files(folder / "out", expected) == expected


@needs_strace
@pytest.mark.parametrize("error", ["fsync:error=EIO:when=3", "rename:error=EIO:when=2", "mkdir:error=ENOSPC:when=4"])
def test_disk_error_fails_no_task_and_loses_no_file(error, tmp_path):
    expected = expected_hashes(4, profile="small")
    with simulator("--tasks", "4", "--profile", "small") as aluma:
        with start_exporter(tmp_path, aluma, "--once", prefix=strace(f"inject={error}")) as process:
            process.wait(MAX_SECONDS)
        assert "failed" not in aluma.state()["tasks"]
        check_no_partial_files(tmp_path / "out", expected)
        wait_until(lambda: run_once(tmp_path, aluma) == 0)
        assert aluma.state()["tasks"] == {COMPLETED: 4}
    assert check_no_partial_files(tmp_path / "out", expected) == expected


def test_too_few_file_descriptors_fail_no_task(tmp_path):
    with simulator("--tasks", "20", "--profile", "small") as aluma:
        with start_exporter(tmp_path, aluma, "--once", prefix=("prlimit", "--nofile=40")) as process:
            process.wait(MAX_SECONDS)
        assert "failed" not in aluma.state()["tasks"]
        wait_until(lambda: run_once(tmp_path, aluma) == 0)
        assert aluma.state()["tasks"] == {COMPLETED: 20}
    assert hash_files(tmp_path / "out") == expected_hashes(20, profile="small")
