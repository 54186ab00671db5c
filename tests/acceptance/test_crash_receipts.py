"""The exporter is killed between the commit and Complete (or Fail): the next one settles the claim only with proof.

Complete and Fail delete the only copy at Aluma, and the destination may have changed before the next start.
"""

import shutil
import subprocess
import sys

import pytest

from tests.support.files import ROOT, expected_hashes, hash_files
from tests.support.holds import end_holds
from tests.support.processes import FAST_CONFIG, MAX_SECONDS, PROGRAM, environment, simulator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

CONFIG = (
    FAST_CONFIG
    + """
[destinations.default]
type = "folder"
path = "out"
durability = "{durability}"
"""
)
UNEXPORTABLE = """
import os
import signal

from aluma_async import AlumaClient, FolderDestination
from aluma_async.cli.main import main
from aluma_async.exceptions import UnexportableTask


async def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


open_delivery = FolderDestination.open


def open_or_refuse(self, claim):
    if {fail} and self.root.name == "out":
        raise UnexportableTask("the task can never be exported")
    return open_delivery(self, claim)


FolderDestination.open = open_or_refuse
main()
"""
"""An exporter to which all tasks look unexportable."""
KILLED = UNEXPORTABLE.replace("main()\n", "AlumaClient.complete = AlumaClient.fail = die\nmain()\n")
"""An exporter that is killed when it is about to send Complete or Fail."""
REBOOTED = """
from aluma_async import clock

clock._BOOT = "another boot"
from aluma_async.cli.main import main

main()
"""
"""An exporter on a machine that was booted again."""


class Machine:
    """A folder with a configuration, and the exporters that run in it one after the other."""

    def __init__(self, folder, aluma, durability="full"):
        self.folder = folder
        self.parked = 0
        self.aluma = aluma
        (folder / "config.toml").write_text(CONFIG.format(durability=durability))

    def run(self, program=None):
        """Run an exporter over all tasks; return the process when it has ended."""
        if program:
            (self.folder / "program.py").write_text(program)
        command = [sys.executable, "program.py"] if program else PROGRAM
        return subprocess.run(
            [*command, "--once", "-q", "--state", "state", "--base-url", self.aluma.base_url],
            cwd=self.folder,
            env=environment(self.folder, "simulated-secret", {"PYTHONPATH": str(ROOT)}),
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
        )

    def run_until_killed(self, *, fail=False):
        """Run an exporter that is killed before Complete, or before Fail, which is at the second attempt."""
        if fail:
            self.run(UNEXPORTABLE.format(fail=True))
            end_holds(self.folder / "state")
            self.parked = 1
        done = self.run(KILLED.format(fail=fail))
        assert done.returncode < 0, done.stderr
        assert self.requests("complete") == self.requests("fail") == 0

    def requests(self, name):
        return self.aluma.state()["requests"].get(name, 0)

    def exported_again(self):
        """Return whether the claim was cancelled and the task exported a second time, completely."""
        assert hash_files(self.folder / "out") >= expected_hashes(1, profile="small")
        assert self.requests("fail") == 0
        assert self.aluma.state()["tasks"] == {"completed": 1}
        return (self.requests("cancel"), self.requests("start")) == (1 + self.parked, 2 + self.parked)


@pytest.fixture
def aluma():
    with simulator("--tasks", "1", "--profile", "small") as aluma:
        yield aluma


def remove_file(folder):
    next(path for path in (folder / "out").rglob("*") if ".aluma-async" not in path.parts and path.is_file()).unlink()


def replace_disk(folder):
    """Another disk that was used by an exporter, too; it has a copy of the files, for example an older backup."""
    (folder / "out").rename(folder / "old")
    shutil.copytree(folder / "old", folder / "out")
    (folder / "out" / ".aluma-async" / "root").write_text("0" * 32)


def replace_folder_with_empty_one(folder):
    (folder / "out").rename(folder / "old")
    (folder / "out").mkdir()


def test_committed_task_is_completed_without_a_second_download(aluma, tmp_path):
    machine = Machine(tmp_path, aluma)
    machine.run_until_killed()
    before = aluma.state()["requests"]
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert aluma.state()["tasks"] == {"completed": 1}
    after = {name: count for name, count in aluma.state()["requests"].items() if count != before.get(name, 0)}
    assert after.pop("complete") == 1
    assert not {"start", "cancel", "fail", "file"} & after.keys(), after
    assert hash_files(tmp_path / "out") == expected_hashes(1, profile="small")


@pytest.mark.parametrize("change", [remove_file, replace_folder_with_empty_one])
def test_committed_task_whose_files_are_not_there_is_exported_again(change, aluma, tmp_path):
    machine = Machine(tmp_path, aluma)
    machine.run_until_killed()
    change(tmp_path)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert machine.exported_again()
    assert "its files, saved before, are missing from the destination" in done.stderr


def test_disk_with_another_marker_is_not_used_until_that_is_confirmed(aluma, tmp_path):
    """It could be the folder below the mount point of a share."""
    machine = Machine(tmp_path, aluma)
    machine.run_until_killed()
    replace_disk(tmp_path)
    done = machine.run()
    assert done.returncode == 69, done.stderr
    assert machine.requests("complete") == 0
    next(path for path in (tmp_path / "state" / "mounts").iterdir() if path.name in done.stderr).unlink()
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert machine.exported_again()


@pytest.mark.parametrize("durability", ["full", "rename"])
def test_nothing_is_completed_after_another_boot(durability, aluma, tmp_path):
    """Unsynced files prove nothing; and the age of the claim is not certain, so that Complete could hit another one."""
    machine = Machine(tmp_path, aluma, durability)
    machine.run_until_killed()
    done = machine.run(REBOOTED)
    assert done.returncode == 0, done.stderr
    assert machine.exported_again()


def test_unsynced_files_are_enough_in_the_same_boot(aluma, tmp_path):
    machine = Machine(tmp_path, aluma, "rename")
    machine.run_until_killed()
    assert machine.run().returncode == 0
    assert (machine.requests("start"), machine.requests("complete")) == (1, 1)


def test_destination_that_fails_at_the_start_completes_nothing(aluma, tmp_path):
    """The claim is released. When the destination is back, the task is exported again."""
    machine = Machine(tmp_path, aluma)
    machine.run_until_killed()
    (tmp_path / "out").rename(tmp_path / "away")
    (tmp_path / "out").touch()
    assert machine.run().returncode == 69
    assert (machine.requests("complete"), machine.requests("cancel")) == (0, 1)
    (tmp_path / "out").unlink()
    (tmp_path / "away").rename(tmp_path / "out")
    assert machine.run().returncode == 0
    assert machine.exported_again()


def test_task_in_the_quarantine_is_failed_after_a_restart(aluma, tmp_path):
    machine = Machine(tmp_path, aluma)
    machine.run_until_killed(fail=True)
    machine.run()
    assert aluma.state()["tasks"] == {"failed": 1}
    assert (machine.requests("start"), machine.requests("cancel")) == (2, 1)


def test_complete_copy_on_another_disk_is_enough(aluma, tmp_path):
    """All of its files are read and compared with the hashes in its record."""
    machine = Machine(tmp_path, aluma)
    machine.run_until_killed(fail=True)
    quarantine = tmp_path / "state" / "quarantine"
    quarantine.rename(tmp_path / "old")
    shutil.copytree(tmp_path / "old", quarantine, ignore=shutil.ignore_patterns(".aluma-async"))
    machine.run()
    assert aluma.state()["tasks"] == {"failed": 1}


@pytest.mark.parametrize("change", ["removed", "replaced", "file removed", "file changed"])
def test_task_whose_quarantine_was_replaced_is_not_failed(change, aluma, tmp_path):
    machine = Machine(tmp_path, aluma)
    machine.run_until_killed(fail=True)
    quarantine = tmp_path / "state" / "quarantine"
    file = next(path for path in quarantine.rglob("files/**/*") if path.is_file())
    match change:
        case "file removed":
            file.unlink()
        case "file changed":
            file.write_bytes(bytes(file.stat().st_size))
        case "removed":
            quarantine.rename(tmp_path / "old")
        case "replaced":
            quarantine.rename(tmp_path / "old")
            shutil.copytree(tmp_path / "old" / ".aluma-async", quarantine / ".aluma-async")
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert machine.exported_again()
    assert "missing from the quarantine" in done.stderr


def test_committed_task_is_not_completed_at_another_aluma(aluma, tmp_path):
    """The state folder was used with another ``base_url``. The next run with the first one completes the task."""
    machine = Machine(tmp_path, aluma)
    machine.run_until_killed()
    with simulator("--tasks", "2", "--profile", "small", "--seed", "7") as other:
        machine.aluma = other
        done = machine.run()
        assert done.returncode == 1
        client = f"{aluma.base_url} (client simulated-client)"
        assert f"it is claimed at {client}, and this run uses {other.base_url}" in done.stderr
        assert other.state()["tasks"] == {"completed": 2}
    history = subprocess.run(
        [*PROGRAM, "history", "--json", "--state", "state"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert history.stdout.count('"task"') == 2, "the task of the first Aluma is not among them"
    machine.aluma = aluma
    assert machine.run().returncode == 0
    assert aluma.state()["tasks"] == {"completed": 1}
    assert (machine.requests("start"), machine.requests("cancel")) == (1, 0)
