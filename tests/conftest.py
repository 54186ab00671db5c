"""Fixtures of all tests that run the program."""

import gc
import os
import subprocess

import pytest

from aluma_async.testing import SimulatedAluma
from tests import databases
from tests.processes import PENDING, PROGRAM, environment, simulator


def pytest_configure():
    """Let the processes that tests start, some hundreds, keep what they compile."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_collection_finish():
    """Keep what is imported by now out of every collection of rubbish."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def fifty():
    """An Aluma with 50 tasks that nobody exports."""
    with simulator("--tasks", "50", "--profile", "small") as aluma:
        yield aluma
        assert aluma.ledger()["tasks"] == {PENDING: 50}


@pytest.fixture
def cli(tmp_path):
    """Run the program in an empty folder, as a user without any config; no output may hold the secret."""

    def run(*arguments, secret=SimulatedAluma.client_secret, **environ):
        done = subprocess.run(
            [*PROGRAM, *map(str, arguments)],
            cwd=tmp_path,
            env=environment(tmp_path, secret, environ),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        assert not secret or secret not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def server():
    """A PostgreSQL of its own."""
    with databases.postgres() as running:
        yield running
