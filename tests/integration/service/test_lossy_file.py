"""``LossyFile``: no write waits for the reader of the messages."""

import os
import threading

import pytest

from aluma_async.service.lossy_file import LossyFile

pytestmark = pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")


@pytest.fixture
def terminal():
    """The two ends of a terminal: what is shown, and what a program writes to."""
    screen, program = os.openpty()
    yield screen, program
    os.close(screen)
    os.close(program)


@pytest.mark.parametrize("size", [1, 100, 511, 2000])
def test_lossy_file_discards_what_a_stopped_terminal_does_not_take(terminal, size):
    """Ctrl-S stops it. It still reports that it is ready as long as it takes a single byte."""
    file = LossyFile(terminal[1])

    def fill():
        while not file.lost_bytes:
            file.write(b"x" * (size - 1) + b"\n")

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    file.close()


def test_lossy_file_does_not_change_the_flags_that_the_shell_shares(terminal):
    screen, program = terminal
    with LossyFile(program) as file:
        assert os.get_blocking(program)
        assert file.isatty()
        assert file.write(b"message\n") == 8
        assert os.read(screen, 100) == b"message\r\n"
