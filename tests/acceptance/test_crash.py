"""Real processes, real files and real ends: SIGKILL, a full disk, a suspended process, errors of the disk."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager

import pytest

from tests.support.files import ROOT, expected_hashes, hash_files
from tests.support.processes import FAST_CONFIG, PENDING, PROGRAM, environment, simulator, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")

COMPLETED = "completed"


@contextmanager
def exporter(folder, aluma, *options, before=(), **how):
    """An exporter in a process (group) of its own; killed at the end if it still runs."""
    (folder / "config.toml").write_text(FAST_CONFIG)
    command = [*before, *PROGRAM, "-o", "out", "--state", "state", "--base-url", aluma.base_url, "-q", *options]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder, "simulated-secret", {}),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **how,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def only_whole_files(root, known):
    seen = hash_files(root)
    assert not set(seen) - set(known), "a file is visible that is not whole"
    return seen


@pytest.mark.parametrize(("tasks", "kills", "seconds"), [(120, 20, 45.0)])
def test_twenty_kills_and_all_is_exported_within_ten_seconds_of_the_last_start(tasks, kills, seconds, tmp_path):
    chance, known = random.Random(3), expected_hashes(tasks, profile="small")
    with simulator("--tasks", str(tasks), "--profile", "small", "--latency", "0.3") as aluma:
        for _ in range(kills):
            with exporter(tmp_path, aluma, "--workers", "4"):
                time.sleep(chance.uniform(0.5, 2 * seconds / kills - 0.5))
            only_whole_files(tmp_path / "out", known)
        with exporter(tmp_path, aluma) as process:
            wait_until(lambda: aluma.state()["tasks"] == {COMPLETED: tasks}, 10)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert not aluma.state()["requests"].get("requeued")
    for path in (path for path in (tmp_path / "state").rglob("*") if path.is_file()):
        kept = path.read_bytes()
        for canary in (b"simulated-secret", b"Bearer", b"PatientName", b"%PDF", b".pdf"):
            assert canary not in kept, f"{path} holds {canary!r}"
    assert only_whole_files(tmp_path / "out", known) == known
    assert not list((tmp_path / "out" / ".aluma-async" / "staging").iterdir())


def test_a_task_that_ends_the_process_is_found_and_parked_and_the_others_are_exported(tmp_path):
    """The poison is a task at whose Start the process is ended; a service manager starts it again each time."""
    (tmp_path / "deadly.py").write_text(
        "import os, signal, sys\n"
        "from aluma_async.pipeline.worker import Worker\n"
        "deliver = Worker._transfer_files\n"
        "async def deadly(self, claim):\n"
        "    if claim.task.name == '00008.pdf':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return await deliver(self, claim)\n"
        "Worker._transfer_files = deadly\n"
        "from aluma_async.cli.main import main\n"
        "main()\n"
    )
    with simulator("--tasks", "30", "--profile", "small", "--latency", "0.05") as aluma:
        for _ in range(12):
            command = [sys.executable, "deadly.py", "-o", "out", "--state", "state", "--base-url", aluma.base_url]
            (tmp_path / "config.toml").write_text(FAST_CONFIG)
            done = subprocess.run(
                [*command, "--once", "-q"],
                cwd=tmp_path,
                env=environment(tmp_path, "simulated-secret", {"PYTHONPATH": str(ROOT)}),
                capture_output=True,
                text=True,
                timeout=60,
            )
            if done.returncode >= 0:
                break
        assert done.returncode == 1, done.stderr
        assert aluma.state()["tasks"] == {COMPLETED: 29, PENDING: 1}
        told = held(tmp_path)
    (parked,) = told["parked"]
    assert "ended 6 times" in parked["message"]


def held(folder, *more):
    command = [*PROGRAM, "status", "--json", "--state", "state", *more]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder, "", {}), capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


def test_a_second_exporter_on_one_state_folder_is_refused_and_the_first_goes_on(tmp_path):
    with (
        simulator("--tasks", "40", "--profile", "small", "--latency", "0.3") as aluma,
        exporter(tmp_path, aluma) as first,
    ):
        wait_until(lambda: (tmp_path / "state" / "journal.sqlite3").exists(), 20)
        with exporter(tmp_path, aluma, "--once") as second:
            said = second.communicate(timeout=30)[1]
        assert second.returncode == 75
        assert "in use by another exporter" in said
        assert "--state" in said
        wait_until(lambda: aluma.state()["tasks"] == {COMPLETED: 40}, 30)
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0


def test_a_damaged_journal_is_reported_and_the_run_goes_on(tmp_path):
    with simulator("--tasks", "10", "--profile", "small") as aluma:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "journal.sqlite3").write_bytes(random.Random(0).randbytes(9000))
        with exporter(tmp_path, aluma, "--once") as process:
            said = process.communicate(timeout=30)[1]
        assert process.returncode == 0
        assert "journal was damaged" in said
        assert aluma.state()["tasks"] == {COMPLETED: 10}


def test_a_process_that_is_suspended_past_its_claims_says_nothing_about_them(tmp_path):
    known = expected_hashes(12, profile="small")
    options = ("--tasks", "12", "--profile", "small", "--latency", "0.4", "--claim-timeout", "3")
    with simulator(*options) as aluma, exporter(tmp_path, aluma, "--claim-timeout", "3", "--workers", "6") as process:
        wait_until(lambda: aluma.state()["requests"].get("start", 0) >= 3, 20)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: aluma.state()["requests"].get("requeued", 0) >= 3, 20)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: aluma.state()["tasks"] == {COMPLETED: 12}, 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert only_whole_files(tmp_path / "out", known) >= known


@contextmanager
def mounted(where, *command):
    """Mount something for a moment, where that is allowed."""
    where.mkdir()
    if subprocess.run([*command, str(where)], capture_output=True).returncode:
        pytest.skip("needs the right to mount: " + " ".join(map(str, command)))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], capture_output=True, check=False)


def test_a_full_disk_stops_claiming_and_when_there_is_space_it_goes_on_by_itself(tmp_path):
    known = expected_hashes(100, profile="small")
    out = tmp_path / "out"
    with (
        mounted(out, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"),
        simulator("--tasks", "100", "--profile", "small") as aluma,
    ):
        with exporter(tmp_path, aluma) as process:
            wait_until(lambda: aluma.state()["requests"].get("cancel", 0) > 0, 30)
            time.sleep(4)  # long enough for a queue of 100 to be claimed and given back, if it were
            seen = aluma.state()
            assert seen["requests"]["start"] < 100, "the queue is not churned"
            assert "failed" not in seen["tasks"]
            only_whole_files(out, known)
            subprocess.run(["mount", "-o", "remount,size=100m", str(out)], check=True)
            wait_until(lambda: aluma.state()["tasks"] == {COMPLETED: 100}, 60)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=30)[1]
        assert "claiming paused" in said
        assert hash_files(out) == known


def test_a_power_loss_takes_no_file_of_a_task_that_was_completed(tmp_path):
    """The image of a mounted file system is copied: what a disk holds when the power fails; its log mends the rest."""
    image, copy = tmp_path / "disk", tmp_path / "copy"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    mkfs = shutil.which("mkfs.ext4", path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if not mkfs or subprocess.run([mkfs, "-q", "-F", str(image)], capture_output=True).returncode:
        pytest.skip("needs mkfs.ext4")
    out = tmp_path / "out"
    with (
        mounted(out, "mount", "-o", "loop", image),
        simulator("--tasks", "200", "--profile", "small", "--latency", "0.05") as aluma,
        exporter(tmp_path, aluma) as process,
    ):
        wait_until(lambda: aluma.state()["tasks"].get(COMPLETED, 0) > 40, 60)
        process.send_signal(signal.SIGSTOP)  # power fails in one moment, and a copy takes several
        completed = aluma.state()["tasks"][COMPLETED]
        shutil.copyfile(image, copy)
    known = expected_hashes(200, profile="small")
    with mounted(tmp_path / "after", "mount", "-o", "loop", copy):
        seen = only_whole_files(tmp_path / "after", known)
    assert seen.total() >= 2 * completed, f"{completed} tasks were completed, and {seen.total()} files are there"


traced = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")


def strace(*inject):
    return ("strace", "-f", "-qq", "-o", os.devnull, "-e", "trace=none", *(part for i in inject for part in ("-e", i)))


@traced
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_crash_at_each_step_on_the_disk_leaves_only_whole_files_and_nothing_is_lost(call, tmp_path):
    known = expected_hashes(2, profile="small")
    for number in range(1, 40, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        with simulator("--tasks", "2", "--profile", "small") as aluma:
            inject = f"inject={call}:signal=KILL:when={number}"
            with exporter(folder, aluma, "--once", before=strace(inject)) as process:
                said = process.communicate(timeout=60)[1]
            if "Operation not permitted" in said:
                pytest.skip("may not trace")
            if process.returncode == 0:
                return
            only_whole_files(folder / "out", known)
            with exporter(folder, aluma, "--once") as process:
                assert process.wait(30) == 0
            assert aluma.state()["tasks"] == {COMPLETED: 2}
            assert only_whole_files(folder / "out", known) == known


@traced
@pytest.mark.parametrize("error", ["fsync:error=EIO:when=3", "rename:error=EIO:when=2", "mkdir:error=ENOSPC:when=4"])
def test_an_error_of_the_disk_fails_no_task_and_loses_nothing(error, tmp_path):
    known = expected_hashes(4, profile="small")
    with simulator("--tasks", "4", "--profile", "small") as aluma:
        with exporter(tmp_path, aluma, "--once", before=strace(f"inject={error}")) as process:
            process.wait(60)
        assert "failed" not in aluma.state()["tasks"]
        only_whole_files(tmp_path / "out", known)
        wait_until(lambda: run_once(tmp_path, aluma) == 0, 30)
        assert aluma.state()["tasks"] == {COMPLETED: 4}
    assert only_whole_files(tmp_path / "out", known) == known


def run_once(folder, aluma):
    with exporter(folder, aluma, "--once") as process:
        return process.wait(30)


def test_too_few_files_may_be_open_and_no_task_is_failed(tmp_path):
    with simulator("--tasks", "20", "--profile", "small") as aluma:
        with exporter(tmp_path, aluma, "--once", before=("prlimit", "--nofile=40")) as process:
            process.wait(60)
        assert "failed" not in aluma.state()["tasks"]
        wait_until(lambda: run_once(tmp_path, aluma) == 0, 30)
        assert aluma.state()["tasks"] == {COMPLETED: 20}
    assert (
        hash_files(tmp_path / "out")
        == expected_hashes(20, profile="small")
        == Counter(expected_hashes(20, profile="small"))
    )
