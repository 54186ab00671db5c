"""Copies that outlive the process that exported their tasks: no later process removes them."""

import asyncio
import os
import subprocess
import sys

import pytest

from aluma_async.clock import wall_time
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import ExportRecord
from aluma_async.quarantine.folder import QuarantineFolder
from tests.support.files import ROOT, expected_hashes, hash_files
from tests.support.processes import FAST_CONFIG, MAX_SECONDS, PROGRAM, environment, simulator
from tests.support.quarantine import make_copy

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

CONFIG = FAST_CONFIG.replace("[retry]", "[retry]\npark_after = 1").replace("[exporter]", '[exporter]\nstate = "state"')
PROGRAMS = {
    "refused": """
from aluma_async import FolderDestination
from aluma_async.cli.main import main
from aluma_async.exceptions import DestinationError

open_delivery = FolderDestination.open


def open_or_refuse(self, claim):
    if self.root.name == "out":
        raise DestinationError("refused")
    return open_delivery(self, claim)


FolderDestination.open = open_or_refuse
main()
""",
    "killed after Complete": """
import os
import signal

from aluma_async import AlumaClient
from aluma_async.cli.main import main

complete = AlumaClient.complete


async def complete_and_die(self, task):
    await complete(self, task)
    os.kill(os.getpid(), signal.SIGKILL)


AlumaClient.complete = complete_and_die
main()
""",
}


def run(folder, aluma, program=""):
    (folder / "program.py").write_text(PROGRAMS.get(program, ""))
    command = [sys.executable, "program.py"] if program else PROGRAM
    return run_command(folder, *command, "--once", "-q", "-o", "out", "--base-url", aluma.base_url)


def run_command(folder, *command):
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, "simulated-secret", {"PYTHONPATH": os.fspath(ROOT)}),
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS,
    )


def test_copy_of_an_exported_task_stays_after_a_kill_until_it_is_deleted(tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG)
    folder = QuarantineFolder(tmp_path / "state" / "quarantine")
    with simulator("--tasks", "1", "--profile", "small") as aluma:
        assert run(tmp_path, aluma, "refused").returncode == 1
        assert run_command(tmp_path, *PROGRAM, "retry", "--all").returncode == 0
        assert run(tmp_path, aluma, "killed after Complete").returncode < 0
        assert aluma.state()["tasks"] == {"completed": 1}
        done = run(tmp_path, aluma)
        assert done.returncode == 0, done.stderr
        (copy,) = folder.copies()[0]
        assert run_command(tmp_path, *PROGRAM, "quarantine", "delete", "--yes", copy.task_id).returncode == 0
        assert folder.copies() == ([], [])
        assert hash_files(tmp_path / "out") == expected_hashes(1, profile="small")


@pytest.mark.parametrize("record", [{}, {"state": "failed", "stored_at": 1e9}, {"state": "parked", "stored_at": 1e9}])
def test_copy_stays_although_the_history_has_a_later_export_of_its_task(record, tmp_path):
    """The task was offered again after that export, and the clock was ahead then, or the copy has no time."""
    state = tmp_path / "state"
    make_copy(state / "quarantine" / "t1", {"task": {"id": "t1"}, "error": "E", "message": "", **record})
    journal = SqliteJournal(state)
    journal.put_export(ExportRecord("t1", wall_time() + 7200, 1, 1, 1.0, ("out",)))

    async def write():
        await journal.load()
        await journal.flush()
        journal.close()

    asyncio.run(write())
    (tmp_path / "config.toml").write_text(CONFIG)
    with simulator("--tasks", "1", "--profile", "small") as aluma:
        assert run(tmp_path, aluma).returncode == 0
    assert [copy.task_id for copy in QuarantineFolder(state / "quarantine").copies()[0]] == ["t1"]
