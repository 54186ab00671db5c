"""The exporter is killed after Complete, before it removes the safety copy: the next one removes it."""

import os
import subprocess
import sys

import pytest

from aluma_async.quarantine.folder import QuarantineFolder
from tests.support.files import ROOT, expected_hashes, hash_files
from tests.support.processes import FAST_CONFIG, PROGRAM, environment, simulator

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
    "killed before the removal": """
import os
import signal
import time

from aluma_async.cli.main import main
from aluma_async.quarantine.folder import QuarantineFolder


def die(self, copy):
    time.sleep(0.5)  # so that the journal is written meanwhile
    os.kill(os.getpid(), signal.SIGKILL)


QuarantineFolder.remove = die
main()
""",
}


@pytest.mark.parametrize("program", ["killed after Complete", "killed before the removal"])
def test_copy_of_an_exported_task_is_removed_after_a_kill(program, tmp_path):
    def run(program=""):
        (tmp_path / "program.py").write_text(PROGRAMS.get(program, ""))
        command = [sys.executable, "program.py"] if program else PROGRAM
        return subprocess.run(
            [*command, "--once", "-q", "-o", "out", "--base-url", aluma.base_url],
            cwd=tmp_path,
            env=environment(tmp_path, "simulated-secret", {"PYTHONPATH": os.fspath(ROOT)}),
            capture_output=True,
            text=True,
            timeout=60,
        )

    (tmp_path / "config.toml").write_text(CONFIG)
    folder = QuarantineFolder(tmp_path / "state" / "quarantine")
    with simulator("--tasks", "1", "--profile", "small") as aluma:
        assert run("refused").returncode == 1
        assert len(folder.copies()[0]) == 1
        retried = subprocess.run(
            [*PROGRAM, "retry", "--all"],
            cwd=tmp_path,
            env=environment(tmp_path, "", {}),
            capture_output=True,
            timeout=60,
        )
        assert retried.returncode == 0
        assert run(program).returncode < 0
        assert aluma.state()["tasks"] == {"completed": 1}
        assert len(folder.copies()[0]) == 1
        done = run()
        assert done.returncode == 0, done.stderr
        assert folder.copies() == ([], [])
        assert hash_files(tmp_path / "out") == expected_hashes(1, profile="small")
