"""Commands on a terminal of 80 columns: no line is broken by the terminal."""

import fcntl
import os
import struct
import subprocess
import termios

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support.processes import PROGRAM, environment, simulator

pty = pytest.importorskip("pty")


def output_on_terminal(tmp_path, aluma, *arguments, pipe=False):
    """Return the lines of a command whose stderr, and without ``pipe`` also stdout, is a terminal."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = environment(tmp_path, SimulatedAluma.client_secret, {"ALUMA_ASYNC_BASE_URL": aluma.base_url})
    out = subprocess.PIPE if pipe else terminal
    with subprocess.Popen([*PROGRAM, *arguments], stdout=out, stderr=terminal, env=env, cwd=tmp_path) as process:
        os.close(terminal)
        text = process.stdout.read().decode() if pipe else read_all(controller)
    os.close(controller)
    return text.replace("\r", "").splitlines()


def read_all(controller):
    parts = []
    while True:
        try:
            parts.append(os.read(controller, 65536))
        except OSError:  # the other end is closed
            return b"".join(parts).decode()


def test_list_and_history_fit_into_80_columns(tmp_path):
    """Also through a pipe to a pager. A task takes one line."""
    with simulator("--tasks", "30", "--profile", "small") as aluma:
        for pipe in (False, True):
            listed = output_on_terminal(tmp_path, aluma, "list", pipe=pipe)
            assert max(map(len, listed)) <= 80
            assert len(listed) == 30 + (not pipe)
        output_on_terminal(tmp_path, aluma, "--once", "-o", "out", "--state", "state", "--no-progress")
        history = output_on_terminal(tmp_path, aluma, "history", "--state", "state")
        assert max(map(len, history)) <= 80
        assert [line for line in history if not line.endswith("default")] == ["30 tasks exported"]
