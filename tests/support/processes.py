"""Start the program and the simulated Aluma as separate processes, as users do."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

from aluma_async.models import TaskState
from aluma_async.testing import SimulatedAluma

PROGRAM = [sys.executable, "-m", "aluma_async"]
CLAIMED, PENDING = TaskState.CLAIMED, TaskState.PENDING
MAX_SECONDS = 120
"""Limit for one step of a process: many times what it needs, because the machine may be busy."""


class Simulator:
    """A simulated Aluma in a separate process."""

    def __init__(self, process):
        self._process = process
        output = []
        for line in process.stdout:
            output.append(line)
            if line.startswith("Ctrl-C"):
                break
        self.output = "".join(output)
        self.base_url = self.output.split()[3]

    def state(self):
        """Return the number of tasks by state and of requests by operation."""
        with urllib.request.urlopen(f"{self.base_url}/simulated") as reply:
            return json.load(reply)


@contextmanager
def simulator(*options):
    """Run a simulated Aluma on a free port."""
    with start_program("simulate", "--port", "0", *options) as process:
        yield Simulator(process)


@contextmanager
def start_program(*arguments, **options):
    """Start the program; kill it at the end of the block."""
    process = subprocess.Popen(
        [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **options
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def environment(home, secret, extra):
    """Return environment variables with the credentials and no other setting of the program."""
    other = ("ALUMA_", "XDG_", "STATE_", "CONFIGURATION_", "CREDENTIALS_", "NOTIFY_", "JOURNAL_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(other) and not name.lower().endswith("_proxy")
    }
    credentials = {"ALUMA_CLIENT_ID": SimulatedAluma.client_id, "ALUMA_CLIENT_SECRET": secret}
    # With PYTHONFAULTHANDLER, the standard error of a process that crashes shows where.
    return {
        **kept,
        "HOME": str(home),
        "LOCALAPPDATA": str(home),
        "PYTHONFAULTHANDLER": "1",
        **credentials,
        **extra,
    }


def expect_error(done, code, *parts):
    """Check the exit code, and that the error has one or two lines which contain ``parts``."""
    assert done.returncode == code, done.stderr
    assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
    assert all(part in done.stderr for part in parts), done.stderr


FAST_CONFIG = """
[retry]
cooldown_initial_seconds = 0.5
cooldown_max_seconds = 2
wait_initial_seconds = 0.1
[exporter]
poll_wait_initial_seconds = 0.2
poll_wait_max_seconds = 1
"""


def wait_until(condition, seconds=MAX_SECONDS):
    """Wait until ``condition()`` is true; return the seconds that it took."""
    started_at = time.monotonic()
    while not condition():
        assert time.monotonic() - started_at < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - started_at
