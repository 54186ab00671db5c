"""The first hour of an administrator, as a script: from the printed unit to a stop, with what goes wrong on the way."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support.files import expected_hashes, hash_files
from tests.support.processes import CLAIMED, environment, simulator, start_program

TASKS = 1000
CONFIG = """
[aluma]
base_url = "{base_url}"
client_id = "simulated-client"
[exporter]
workers = {workers}
poll_wait_initial_seconds = 0.1
poll_wait_max_seconds = 0.5
[limits]
max_at_once = {workers}
[retry]
cooldown_initial_seconds = 60
cooldown_max_seconds = 60
[destinations.default]
type = "folder"
path = "{folder}/export"
[service]
listen = "{listen}"
notify_command = ["{python}", "tell.py"]
"""
TELL = "import json, sys; open('told', 'a').write(json.load(sys.stdin)['event'] + chr(10))"


class Manager:
    """A service manager: the socket that a unit's process talks to."""

    def __init__(self, path):
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(20)

    def read_to(self, line):
        """Read on to a message with such a line; return those before it, too."""
        said = []
        while not any(re.fullmatch(line, each) for each in said[-1:] and said[-1].splitlines()):
            said.append(self._socket.recv(9999).decode())
        return said

    def close(self):
        self._socket.close()


class Admin:
    """What somebody can ask a running exporter."""

    def __init__(self, url):
        self._url = url

    def get(self, path):
        try:
            with urllib.request.urlopen(self._url + path, timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self):
        status, text = self.get("/readyz")
        return status, json.loads(text)["reason"]

    def exported(self):
        return float(re.search(r'tasks_total{outcome="exported"} (\S+)', self.get("/metrics")[1])[1])

    def wait_until(self, condition):
        """Ask again and again, for half a minute."""
        end = time.monotonic() + 30
        while not (found := condition()):
            assert time.monotonic() < end, self.ready()
            time.sleep(0.02)
        return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def write_config(folder, base_url, listen, **changed):
    values = {
        "base_url": base_url,
        "listen": listen,
        "folder": folder,
        "workers": 4,
        "python": sys.executable,
        **changed,
    }
    (folder / "config.toml").write_text(CONFIG.format(**values))


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there is no systemd here")
def test_the_first_hour_of_an_administrator(run_cli, tmp_path):
    manager = Manager(tmp_path / "notify")
    listen = f"127.0.0.1:{free_port()}"
    admin = Admin(f"http://{listen}")
    secret = tmp_path / "credentials" / "aluma-client-secret"
    secret.parent.mkdir()
    (tmp_path / "tell.py").write_text(TELL)
    with simulator("--tasks", str(TASKS), "--profile", "small", "--latency", "0.04") as aluma:
        write_config(tmp_path, aluma.base_url, listen)

        # The unit: systemd has nothing to say against it.
        unit = tmp_path / "aluma-async.service"
        unit.write_text(run_cli("systemd").stdout)
        if shutil.which("systemd-analyze"):
            said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
            assert (said.returncode, said.stdout + said.stderr) == (0, "")

        # A wrong secret is told, and a run with it ends with the code that the unit does not start anew.
        secret.write_text("wrong")
        systemd = {"CREDENTIALS_DIRECTORY": str(secret.parent), "STATE_DIRECTORY": str(tmp_path / "state")}
        checked = run_cli("check", secret="", **systemd)
        assert checked.returncode == 77
        assert re.search(r"^FAIL .*Aluma", checked.stdout, re.MULTILINE)
        assert run_cli("--no-progress", secret="", **systemd).returncode == 77
        secret.write_text(SimulatedAluma.client_secret)
        assert run_cli("check", secret="", **systemd).returncode == 0

        # As a service: ready after the first listing, and alive.
        env = environment(tmp_path, "", {**systemd, "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"})
        with start_program("--no-progress", cwd=tmp_path, env=env) as service:
            manager.read_to("READY=1")
            manager.read_to("WATCHDOG=1")
            assert admin.get("/healthz")[0] == 200
            assert admin.ready() == (200, "")
            admin.wait_until(lambda: admin.exported() > 20)

            # The share goes away under it, and an empty folder is in its place.
            (tmp_path / "export").rename(tmp_path / "away")
            (tmp_path / "export").mkdir()
            reason = admin.wait_until(lambda: admin.ready()[1])
            assert "destination" in reason
            assert str(tmp_path / "export") in reason
            assert admin.get("/healthz")[0] == 200, "a new start would not help"
            held = json.loads(run_cli("status", "--json", secret="", **systemd).stdout)
            assert held["cooling_down"] or held["in_hand"]
            manager.read_to(f"STATUS=.*{tmp_path / 'export'}.*")
            manager.read_to("WATCHDOG=1")

            # It comes back, and all goes on by itself.
            before = admin.exported()
            (tmp_path / "export").rmdir()
            (tmp_path / "away").rename(tmp_path / "export")
            admin.wait_until(lambda: admin.ready() == (200, ""))
            admin.wait_until(lambda: admin.exported() > before + 5)

            # A reload with a mistake changes nothing, one without holds at once.
            write_config(tmp_path, aluma.base_url, listen, workers=0)
            assert run_cli("check", "--config-only", secret="", **systemd).returncode == 78
            service.send_signal(signal.SIGHUP)
            manager.read_to(r"RELOADING=1")
            manager.read_to("READY=1")
            write_config(tmp_path, aluma.base_url, listen, workers=2)
            assert run_cli("check", "--config-only", secret="", **systemd).returncode == 0
            service.send_signal(signal.SIGHUP)
            manager.read_to("READY=1")
            admin.wait_until(lambda: "concurrency_limit 2.0" in admin.get("/metrics")[1])
            at_reload = admin.exported()
            admin.wait_until(lambda: admin.exported() > at_reload + 5)

            # A stop: what is in hand is finished, and nothing is left claimed.
            service.send_signal(signal.SIGTERM)
            manager.read_to("STOPPING=1")
            assert service.wait(30) == 0
            said = service.stderr.read()
        manager.close()
        ledger = aluma.state()["tasks"]
    assert ledger.get(CLAIMED, 0) == 0
    assert 0 < ledger["completed"] < TASKS
    completed = expected_hashes(ledger["completed"], profile="small").total()
    assert hash_files(tmp_path / "export").total() == completed
    assert not hash_files(tmp_path / "export") - expected_hashes(TASKS, profile="small"), "each file as it was there"
    assert (tmp_path / "told").read_text().splitlines() == ["oldest-task-too-old", "paused", "resumed"]
    assert re.search(r"configuration not reloaded: .*workers", said)
    assert "configuration reloaded: 2 workers, 2 requests at once" in said
    assert "Traceback" not in said
    assert SimulatedAluma.client_secret not in said
