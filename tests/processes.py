"""The program and the simulated Aluma as processes of their own, as users start them."""

import json
import os
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

from aluma_async.testing import SimulatedAluma

PROGRAM = [sys.executable, "-m", "aluma_async"]
CLAIMED, PENDING = "pending:complete_client_action", "pending:start_client_action"


class Simulator:
    """A simulated Aluma in a process of its own."""

    def __init__(self, process):
        self._process = process
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        self.said = "".join(said)
        self.base_url = self.said.split()[3]

    def ledger(self):
        with urllib.request.urlopen(f"{self.base_url}/simulated") as reply:
            return json.load(reply)


@contextmanager
def simulator(*options):
    with started("simulate", "--port", "0", *options) as process:
        yield Simulator(process)


@contextmanager
def started(*arguments, **options):
    process = subprocess.Popen(
        [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **options
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def environment(home, secret, more):
    """Make an environment in which nothing is set up but the credentials."""
    other = ("ALUMA_", "XDG_", "STATE_", "CONFIGURATION_", "CREDENTIALS_", "NOTIFY_", "JOURNAL_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(other) and not name.lower().endswith("_proxy")
    }
    credentials = {"ALUMA_CLIENT_ID": SimulatedAluma.client_id, "ALUMA_CLIENT_SECRET": secret}
    return {**kept, "HOME": str(home), "LOCALAPPDATA": str(home), **credentials, **more}


def expect_error(done, code, *says):
    """An error is one or two lines that say what is wrong, where, and what to do."""
    assert done.returncode == code, done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
    assert all(part in done.stderr for part in says), done.stderr
