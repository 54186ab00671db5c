"""``quarantine delete`` while an exporter fails a task: the copy stays, or the task is not failed."""

import os
import subprocess
import sys

import pytest

from aluma_async.quarantine.folder import QuarantineFolder
from tests.support.files import ROOT
from tests.support.holds import end_holds
from tests.support.processes import FAST_CONFIG, MAX_SECONDS, PENDING, PROGRAM, environment
from tests.support.server import aluma_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX locks")

CONFIG = FAST_CONFIG.replace("[exporter]", '[exporter]\nstate = "state"')


@pytest.mark.parametrize("moment", ["stored", "recorded"])
def test_copy_of_a_task_that_is_being_failed_is_not_deleted(moment, tmp_path):
    """Before Fail is sent: just after the copy was stored, or after the journal has recorded the Fail."""
    method = {"stored": "pipeline.breaker FailBreaker record", "recorded": "aluma.client AlumaClient fail"}[moment]
    module, owner, name = method.split()
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "program.py").write_text(
        f"""
import subprocess

from aluma_async.cli.main import main
from aluma_async.{module} import {owner}

original = {owner}.{name}


async def delete_first(self, task, *arguments):
    task_id = getattr(task, "id", task)
    subprocess.run([*{PROGRAM!r}, "quarantine", "delete", "--yes", "--", task_id])
    return await original(self, task, *arguments)


{owner}.{name} = delete_first
main()
"""
    )
    with aluma_server(1, impossible_tasks=(0,)) as aluma:
        subprocess.run(
            [*PROGRAM, "--once", "-q", "-o", "out", "--base-url", aluma.base_url],
            cwd=tmp_path,
            env=environment(tmp_path, aluma.simulated.client_secret, {}),
            capture_output=True,
            timeout=MAX_SECONDS,
        )
        end_holds(tmp_path / "state")  # a task is failed at its second attempt
        done = subprocess.run(
            [sys.executable, "program.py", "--once", "-q", "-o", "out", "--base-url", aluma.base_url],
            cwd=tmp_path,
            env=environment(tmp_path, aluma.simulated.client_secret, {"PYTHONPATH": os.fspath(ROOT)}),
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
        )
        assert "not deleted: the exporter is working on this task" in done.stderr
        assert not aluma.simulated.ids(PENDING)
        (task_id,) = aluma.simulated.ids("failed")
    quarantine = QuarantineFolder(tmp_path / "state/quarantine")
    (copy,) = quarantine.find(task_id)
    assert not quarantine.verify(copy, strict=True)
