"""``fail`` is killed in the middle: no document is lost, no task stays claimed, and the command can be repeated."""

import os
import subprocess
import sys

import pytest

from aluma_async.journal import reader
from aluma_async.models import ClaimRecord
from aluma_async.testing import SimulatedAluma
from tests.acceptance.test_fail import ALL, CONFIG, FAILED, TASKS, check_copies, park
from tests.support.files import ROOT
from tests.support.processes import MAX_SECONDS, PENDING, environment
from tests.support.server import aluma_server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

PROGRAM = """
import os
import signal

from aluma_async.cli.main import main
from aluma_async.{module} import {owner}

original, calls = {owner}.{method}, []


async def call_and_die(self, *arguments, **options):
    result = await original(self, *arguments, **options) if {after} else None
    calls.append(arguments)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return result if {after} else await original(self, *arguments, **options)


{owner}.{method} = call_and_die
main()
"""
MOMENTS = {
    "before the copy is whole": ("pipeline.copying", "CopyWriter", "finish", False),
    "after the copy was stored": ("pipeline.quarantine", "Quarantine", "store", True),
    "after the journal has recorded it": ("pipeline.claim_tracker", "ClaimTracker", "record_failing", True),
    "after Aluma has executed Fail": ("aluma.client", "AlumaClient", "fail", True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_fail_can_be_repeated_after_a_kill(moment, run_cli, tmp_path):
    (tmp_path / "config.toml").write_text(CONFIG + '[destinations.default]\ntype = "folder"\npath = "out"\n')
    state = tmp_path / "state"
    module, owner, method, after = MOMENTS[moment]
    (tmp_path / "program.py").write_text(PROGRAM.format(module=module, owner=owner, method=method, after=after))
    arguments = ("fail", "--reason", "UnexportableTask", "--yes", "-q")
    with aluma_server(TASKS, impossible_tasks=ALL) as aluma:
        parked = park(run_cli, aluma)
        killed = subprocess.run(
            [sys.executable, "program.py", *arguments, "--base-url", aluma.base_url],
            cwd=tmp_path,
            env=environment(tmp_path, SimulatedAluma.client_secret, {"PYTHONPATH": os.fspath(ROOT)}),
            capture_output=True,
            timeout=MAX_SECONDS,
        )
        assert killed.returncode < 0, killed.stderr
        check_copies(state, aluma)
        for _ in range(2):
            done = run_cli(*arguments, "--base-url", aluma.base_url)
            check_copies(state, aluma)
        assert "no parked task with the error UnexportableTask has a copy" in done.stderr, "there is nothing left to do"
        assert set(aluma.simulated.ids("failed")) >= parked
        assert len(aluma.simulated.ids("failed")) == TASKS
        assert not aluma.simulated.ids(PENDING)
    assert not [record for record in reader.read_records(state) if isinstance(record, ClaimRecord)]
    assert len(parked) == TASKS - FAILED
