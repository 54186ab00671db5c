"""One script of an administrator: unit file, wrong secret, service, lost share, reload and stop."""

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
from tests.support.processes import CLAIMED, MAX_SECONDS, environment, simulator, start_program

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
notify_command = ["{python}", "notify.py"]
"""
NOTIFY = "import json, sys; open('notifications', 'a').write(json.load(sys.stdin)['event'] + chr(10))"


class ServiceManager:
    """The socket to which a service sends its notifications."""

    def __init__(self, path):
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(20)

    def read_to(self, line):
        """Read messages up to one with a line that matches."""
        message = ""
        while not any(re.fullmatch(line, received) for received in message.splitlines()):
            message = self._socket.recv(9999).decode()

    def close(self):
        self._socket.close()


class Endpoints:
    """Metrics and health of a running exporter."""

    def __init__(self, url):
        self._url = url

    def get(self, path):
        try:
            with urllib.request.urlopen(self._url + path, timeout=MAX_SECONDS) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self):
        status, text = self.get("/readyz")
        return status, json.loads(text)["reason"]

    def exported(self):
        return float(re.search(r'tasks_total{outcome="exported"} (\S+)', self.get("/metrics")[1])[1])

    def wait_until(self, condition):
        """Wait for a true result, and return it."""
        end = time.monotonic() + MAX_SECONDS
        while not (result := condition()):
            assert time.monotonic() < end, self.ready()
            time.sleep(0.02)
        return result


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


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
def test_administrator_installs_operates_and_stops_the_service(run_cli, tmp_path):
    manager = ServiceManager(tmp_path / "notify")
    listen = f"127.0.0.1:{free_port()}"
    endpoints = Endpoints(f"http://{listen}")
    secret = tmp_path / "credentials" / "aluma-client-secret"
    secret.parent.mkdir()
    (tmp_path / "notify.py").write_text(NOTIFY)
    with simulator("--tasks", str(TASKS), "--profile", "small", "--latency", "0.04") as aluma:
        write_config(tmp_path, aluma.base_url, listen)

        # systemd accepts the unit.
        unit = tmp_path / "aluma-async.service"
        unit.write_text(run_cli("systemd").stdout)
        if shutil.which("systemd-analyze"):
            done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
            assert (done.returncode, done.stdout + done.stderr) == (0, "")

        # A wrong secret is reported, and ends a run with a code after which the unit is not restarted.
        secret.write_text("wrong")
        systemd = {"CREDENTIALS_DIRECTORY": str(secret.parent), "STATE_DIRECTORY": str(tmp_path / "state")}
        checked = run_cli("check", secret="", **systemd)
        assert checked.returncode == 77
        assert re.search(r"^FAIL .*Aluma", checked.stdout, re.MULTILINE)
        assert run_cli("--no-progress", secret="", **systemd).returncode == 77
        secret.write_text(SimulatedAluma.client_secret)
        assert run_cli("check", secret="", **systemd).returncode == 0

        # The service is ready after the first listing, and sends watchdog notifications.
        env = environment(tmp_path, "", {**systemd, "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "1000000"})
        with start_program("--no-progress", cwd=tmp_path, env=env) as service:
            manager.read_to("READY=1")
            manager.read_to("WATCHDOG=1")
            assert endpoints.get("/healthz")[0] == 200
            assert endpoints.ready() == (200, "")
            endpoints.wait_until(lambda: endpoints.exported() > 20)

            # The share is lost, and an empty folder is in its place.
            (tmp_path / "export").rename(tmp_path / "away")
            (tmp_path / "export").mkdir()
            reason = endpoints.wait_until(lambda: endpoints.ready()[1])
            assert "destination" in reason
            assert str(tmp_path / "export") in reason
            assert endpoints.get("/healthz")[0] == 200, "a restart would not help"
            status = json.loads(run_cli("status", "--json", secret="", **systemd).stdout)
            assert status["cooling_down"] or status["in_hand"]
            manager.read_to(f"STATUS=.*{tmp_path / 'export'}.*")
            manager.read_to("WATCHDOG=1")

            # The share is back, and the export continues.
            before = endpoints.exported()
            (tmp_path / "export").rmdir()
            (tmp_path / "away").rename(tmp_path / "export")
            endpoints.wait_until(lambda: endpoints.ready() == (200, ""))
            endpoints.wait_until(lambda: endpoints.exported() > before + 5)

            # Reloading an invalid configuration changes nothing; a valid one is in effect at once.
            write_config(tmp_path, aluma.base_url, listen, workers=0)
            assert run_cli("check", "--config-only", secret="", **systemd).returncode == 78
            service.send_signal(signal.SIGHUP)
            manager.read_to(r"RELOADING=1")
            manager.read_to("READY=1")
            write_config(tmp_path, aluma.base_url, listen, workers=2)
            assert run_cli("check", "--config-only", secret="", **systemd).returncode == 0
            service.send_signal(signal.SIGHUP)
            manager.read_to("READY=1")
            endpoints.wait_until(lambda: "concurrency_limit 2.0" in endpoints.get("/metrics")[1])
            at_reload = endpoints.exported()
            endpoints.wait_until(lambda: endpoints.exported() > at_reload + 5)

            # At a stop, tasks in progress are finished, and no claim is left.
            service.send_signal(signal.SIGTERM)
            manager.read_to("STOPPING=1")
            assert service.wait(MAX_SECONDS) == 0
            log = service.stderr.read()
        manager.close()
        tasks = aluma.state()["tasks"]
    assert tasks.get(CLAIMED, 0) == 0
    assert 0 < tasks["completed"] < TASKS
    completed = expected_hashes(tasks["completed"], profile="small").total()
    assert hash_files(tmp_path / "export").total() == completed
    assert not hash_files(tmp_path / "export") - expected_hashes(TASKS, profile="small")
    assert (tmp_path / "notifications").read_text().splitlines() == ["oldest-task-too-old", "paused", "resumed"]
    assert re.search(r"configuration not reloaded: .*workers", log)
    assert "configuration reloaded: 2 workers, 2 requests at once" in log
    assert "Traceback" not in log
    assert SimulatedAluma.client_secret not in log
