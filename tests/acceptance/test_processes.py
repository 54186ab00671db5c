"""``--processes N`` with the real program: nothing is lost, whichever process is killed, and the output is one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from aluma_async.journal import reader
from aluma_async.journal.folders import journal_folders
from aluma_async.journal.lock import is_locked
from aluma_async.models import ClaimRecord
from aluma_async.testing import SimulatedAluma
from tests.support.files import expected_hashes, hash_files
from tests.support.processes import (
    CLAIMED,
    FAST_CONFIG,
    MAX_SECONDS,
    PROGRAM,
    environment,
    expect_error,
    simulator,
    wait_until,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes as Linux shows them")
COMPLETED = "completed"


class Service:
    """A run with several processes, and its log."""

    def __init__(self, process, log):
        self.process = process
        self.pid = process.pid
        self._log = log

    @property
    def lines(self):
        """The lines of the log so far, without an incomplete last one."""
        return [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def events(self, kind):
        return [line for line in self.lines if line["event"] == kind]

    @property
    def children(self):
        """The process ids of the exporters, by number."""
        found = {}
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(OSError):
                if match := re.search(rb"ALUMA_ASYNC_PROCESS=(\d+)/", Path(f"/proc/{pid}/environ").read_bytes()):
                    found[int(match[1])] = int(pid)
        return found


@contextmanager
def start_service(folder, aluma, count, *options, config="", **environ):
    """Start a run with several processes that logs JSON; end it and its processes at the end of the block."""
    (folder / "config.toml").write_text(f"{FAST_CONFIG}\n{config}")
    arguments = ["--processes", str(count), "-o", "out", "--state", "state", "--base-url", aluma.base_url]
    log, children = folder / f"log-{time.monotonic_ns()}", {}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*PROGRAM, *arguments, "--log-format", "json", *options],
            cwd=folder,
            env=environment(folder, SimulatedAluma.client_secret, environ),
            stderr=stderr,
        )
    service = Service(process, log)
    try:
        yield service
    finally:
        with suppress(OSError):
            children = service.children
        process.kill()
        process.wait()
        for pid in children.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def exists(pid):
    """Return whether a process runs, and is not only waited for."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def completed(aluma):
    return aluma.state()["tasks"].get(COMPLETED, 0)


def claims(folder):
    return [record for record in reader.read_records(folder / "state") if isinstance(record, ClaimRecord)]


def get(url):
    try:
        with urllib.request.urlopen(url) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_four_processes_export_each_task_once_into_one_folder(tmp_path):
    """No Start is refused, the sum of their requests keeps the limit, and there is one summary."""
    with (
        simulator("--tasks", "400", "--seed", "7", "--latency", "0.02") as aluma,
        start_service(tmp_path, aluma, 4, "--once", "--max-at-once", "12") as service,
    ):
        assert service.process.wait(120) == 0
        state = aluma.state()
        (summary,) = service.events("RunSummary")
    assert hash_files(tmp_path / "out") == expected_hashes(400, seed=7)
    assert state["tasks"] == {COMPLETED: 400}
    assert state["requests"]["start"] == 400
    assert state["in_flight_peak"] <= 12
    assert summary["exported"] == 400
    assert not claims(tmp_path)
    exported = [record.task_id for record in reader.read_history(tmp_path / "state")]
    assert (len(exported), len(set(exported))) == (400, 400)


def test_killed_process_is_restarted_and_recovers_its_claims(tmp_path):
    """Its tasks do not wait for the end of their lease."""
    with (
        simulator("--tasks", "200", "--profile", "small", "--latency", "0.1") as aluma,
        start_service(tmp_path, aluma, 3, "--once", "-w", "4") as service,
    ):
        for _ in range(2):
            before = completed(aluma)
            wait_until(lambda before=before: completed(aluma) >= before + 20, 60)
            os.kill(service.children[2], signal.SIGKILL)
        assert service.process.wait(120) == 0
        assert aluma.state()["tasks"] == {COMPLETED: 200}
        assert not aluma.state()["requests"].get("requeued")
        ended = service.events("ProcessEnded")
        assert service.events("RunSummary")[0]["exported"] >= 190, "what a killed process reported counts"
    assert [("SIGKILL" in line["message"]) for line in ended] == [True, True]
    assert hash_files(tmp_path / "out") == expected_hashes(200, profile="small")


def test_processes_end_with_their_killed_parent(tmp_path):
    """Even stopped ones hold no lock for long, and the next run continues."""
    with simulator("--tasks", "150", "--profile", "small", "--latency", "0.1") as aluma:
        with start_service(tmp_path, aluma, 3, "-w", "4") as service:
            wait_until(lambda: completed(aluma) >= 20, 60)
            children = service.children
            service.process.kill()
            wait_until(lambda: not any(map(exists, children.values())), 5)
        wait_until(lambda: not is_locked(tmp_path / "state"), 5)
        with start_service(tmp_path, aluma, 3, "--once") as service:
            assert service.process.wait(120) == 0
        assert aluma.state()["tasks"] == {COMPLETED: 150}
        assert not aluma.state()["requests"].get("requeued")
    assert hash_files(tmp_path / "out") == expected_hashes(150, profile="small")


@pytest.mark.parametrize("everywhere", [False, True])
def test_first_signal_drains_all_processes(everywhere, tmp_path):
    """Also if each process gets the signal itself, as from systemd: it does not count twice."""
    with (
        simulator("--tasks", "400", "--profile", "small", "--latency", "0.2") as aluma,
        start_service(tmp_path, aluma, 3, "-w", "4") as service,
    ):
        wait_until(lambda: completed(aluma) >= 10, 60)
        for pid in [service.pid, *(service.children.values() if everywhere else ())]:
            os.kill(pid, signal.SIGTERM)
        assert service.process.wait(MAX_SECONDS) == 0
        tasks = aluma.state()["tasks"]
        assert CLAIMED not in tasks
        assert 0 < tasks[COMPLETED] < 400
        assert len([line for line in service.events("Draining") if "process" not in line]) == 1
        assert service.events("RunSummary")[0]["exported"] == tasks[COMPLETED]
    assert not claims(tmp_path)


def test_second_signal_ends_all_processes_at_once(tmp_path):
    with (
        simulator("--tasks", "10", "--profile", "bulk") as aluma,
        start_service(tmp_path, aluma, 2, "--max-bytes-per-second", "1000") as service,
    ):
        wait_until(lambda: aluma.state()["tasks"].get(CLAIMED), 60)
        children = service.children
        service.process.send_signal(signal.SIGINT)
        wait_until(lambda: service.events("Draining"))
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(5) == 130
        wait_until(lambda: not any(map(exists, children.values())), 2)


def test_sighup_reloads_the_configuration_of_all_processes(tmp_path):
    """An invalid one is reported once."""
    with (
        simulator("--tasks", "0") as aluma,
        start_service(tmp_path, aluma, 2, config="[limits]\nmax_at_once = 9") as service,
    ):
        wait_until(lambda: aluma.state()["requests"].get("token", 0) >= 2, 60)
        file = tmp_path / "config.toml"
        for text, event, count in (("max_at_once = 5", "Reloaded", 2), ("max_at_once = 'x'", "ReloadFailed", 1)):
            file.write_text(re.sub("max_at_once = .*", text, file.read_text()))
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda event=event, count=count: len(service.events(event)) >= count)
        requests = {re.search(r"(\d+) requests", line["message"])[1] for line in service.events("Reloaded")}
        assert requests == {"3", "2"}, "each process has its share of the new limit"
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(MAX_SECONDS) == 0


@pytest.mark.parametrize("then", [2, 1])
def test_fewer_processes_take_over_claims_and_holds(then, tmp_path):
    """All processes are killed in the middle; the journals of those that do not exist any more are emptied."""
    with simulator("--tasks", "120", "--profile", "small", "--latency", "0.2") as aluma:
        with start_service(tmp_path, aluma, 4, "-w", "4") as service:
            wait_until(lambda: completed(aluma) >= 20 and set(service.children) == {1, 2, 3, 4}, 60)
            children = service.children
            service.process.kill()
            wait_until(lambda: not any(map(exists, children.values())), 5)
        assert claims(tmp_path)
        if then == 1:
            with start_service(tmp_path, aluma, 1, "--once") as service:
                assert service.process.wait(120) == 0
        else:
            with start_service(tmp_path, aluma, then, "--once") as service:
                assert service.process.wait(120) == 0
        assert aluma.state()["tasks"] == {COMPLETED: 120}
        assert not aluma.state()["requests"].get("requeued")
    assert len(journal_folders(tmp_path / "state")) == 4
    assert not claims(tmp_path)
    assert hash_files(tmp_path / "out") == expected_hashes(120, profile="small")


def test_listen_shows_the_metrics_and_the_health_of_all_processes(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        simulator("--tasks", "30", "--profile", "small") as aluma,
        start_service(tmp_path, aluma, 2, "--listen", str(port)) as service,
    ):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: completed(aluma) == 30, 60)
        wait_until(lambda: get(f"{url}/readyz")[0] == 200)
        page = get(f"{url}/metrics")[1]
        exported = re.findall(r'aluma_export_tasks_total{outcome="exported",process="(\d)"} (\d+)', page)
        assert ({number for number, _ in exported}, sum(int(count) for _, count in exported)) == ({"1", "2"}, 30)
        assert get(f"{url}/healthz")[0] == 200
        os.kill(service.children[2], signal.SIGSTOP)
        assert 'aluma_export_files_total{process="1"}' in get(f"{url}/metrics")[1], "the others are shown"
        os.kill(service.children[2], signal.SIGKILL)
        wait_until(lambda: 'process_restarts_total{process="2"} 1.0' in get(f"{url}/metrics")[1])


def test_stuck_process_is_ended_with_a_traceback_and_restarted(tmp_path):
    """A process that does not even handle the signal is killed."""
    with (
        simulator("--tasks", "0") as aluma,
        start_service(tmp_path, aluma, 2, config="[service]\nstuck_after_seconds = 8") as service,
    ):
        wait_until(lambda: aluma.state()["requests"].get("token", 0) >= 2, 60)
        before = service.children[2]
        os.kill(before, signal.SIGSTOP)
        wait_until(lambda: service.events("ProcessStuck"), 40)
        assert service.events("ProcessStuck")[0]["message"].startswith("process 2 is stuck")
        wait_until(lambda: service.children.get(2, before) != before, 40)
        os.kill(service.children[1], signal.SIGABRT)
        wait_until(lambda: any("most recent call first" in line["message"] for line in service.lines))


def test_process_that_fails_again_and_again_ends_the_service(tmp_path):
    """Otherwise nobody would notice; a service manager starts it again later."""
    with (
        simulator("--tasks", "300", "--profile", "small", "--latency", "0.3") as aluma,
        start_service(tmp_path, aluma, 2, "-w", "2") as service,
    ):
        killed = set()

        def kill_next():
            pid = service.children.get(2) if service.process.poll() is None else None
            if pid and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            return service.process.poll() is not None

        wait_until(lambda: completed(aluma) >= 2, 60)
        wait_until(kill_next, 60)
        assert service.process.returncode == 1
        assert len(killed) == 5
        assert "again and again" in service.events("ProcessFailed")[0]["message"]


def test_commands_read_the_folders_of_all_processes(tmp_path, run_cli):
    """Tasks on hold and exported tasks of all processes; a hold ends in the process that has it."""
    config = '[destinations.default]\ntype = "folder"\npath = "out"\non_conflict = "fail"\n'
    with simulator("--tasks", "12", "--profile", "small", "--seed", "1") as aluma:
        (tmp_path / "c.toml").write_text(config)
        options = ("-c", "c.toml", "--state", "state", "--processes", "3", "--once", "--base-url", aluma.base_url)
        assert run_cli(*options).returncode == 0
    with simulator("--tasks", "12", "--profile", "small", "--seed", "2") as aluma:
        done = run_cli(*options[:-1], aluma.base_url)
        assert done.returncode == 1
        assert "12 cooling down" in done.stderr
        assert done.stderr.count("Exported ") == 1
    shown = json.loads(run_cli("status", "--state", "state", "--json").stdout)
    assert (len(shown["cooling_down"]), shown["exported_in_24_hours"]) == (12, 12)
    assert len(run_cli("history", "--state", "state").stdout.splitlines()) == 12
    assert "ended the hold of 12 tasks" in run_cli("retry", "--all", "--state", "state").stdout
    assert json.loads(run_cli("status", "--state", "state", "--json").stdout)["cooling_down"] == []


# -- start


def test_error_at_the_start_is_reported_once(tmp_path, run_cli):
    """The first process begins alone."""
    with simulator("--tasks", "1") as aluma:
        options = ("--processes", "3", "-o", "out", "--base-url", aluma.base_url)
        done = run_cli(*options, secret="wrong")
        assert done.returncode == 77
        assert done.stderr.count("[1] aluma-async:") == 1
        assert "[2]" not in done.stderr
        assert "Exported" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--processes", "0"], 2, "0 is not in the range"),
        (["--processes", "65"], 2, "65 is not in the range"),
        (["--processes", "2", "status"], 2, "--processes has no effect on status"),
        (["--processes", "4", "--max-at-once", "3", "-o", "out"], 78, "fewer requests than"),
    ],
)
def test_senseless_number_of_processes_is_refused(arguments, code, part, run_cli):
    expect_error(run_cli(*arguments), code, part)


def test_state_folder_in_use_is_refused_before_a_process_starts(tmp_path, run_cli):
    with simulator("--tasks", "0") as aluma, start_service(tmp_path, aluma, 2):
        wait_until(lambda: aluma.state()["requests"].get("token", 0) >= 2, 60)
        for count in ("1", "2", "3"):
            done = run_cli("--processes", count, "-o", "out", "--state", "state", "--base-url", aluma.base_url)
            assert done.returncode == 75
            assert "in use by another exporter" in done.stderr


def test_variable_of_a_process_is_refused_without_its_parent(run_cli):
    done = run_cli("-o", "out", ALUMA_ASYNC_PROCESS="2/4")
    expect_error(done, 2, "ALUMA_ASYNC_PROCESS is set")
    assert "has no effect" not in run_cli("-o", "out", "check", "--config-only", ALUMA_ASYNC_PROCESS="2/4").stdout


def test_single_process_imports_nothing_of_the_supervisor(tmp_path):
    """Nor what only a fleet, or a run after one with several processes, needs."""
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules))); "
        "from aluma_async.cli.main import main; main()"
    )
    with simulator("--tasks", "1", "--profile", "small") as aluma:
        done = subprocess.run(
            [sys.executable, "-c", code, "--once", "-o", "out", "--base-url", aluma.base_url],
            cwd=tmp_path,
            env=environment(tmp_path, SimulatedAluma.client_secret, {}),
            capture_output=True,
            text=True,
            check=True,
        )
    modules = done.stdout.split()
    assert "aluma_async.cli.run" in modules
    extra = (
        "supervisor",
        "cli.supervise",
        "cli.process",
        "config.processes",
        "journal.redistribution",
        "fleet",
        "wiring.fleet",
    )
    assert not [name for name in modules if name.startswith(tuple(f"aluma_async.{part}" for part in extra))]


# -- systemd


def test_service_manager_hears_from_the_parent_only(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, simulator("--tasks", "5") as aluma:
        manager.bind(path)
        manager.settimeout(0.2)
        messages = []

        def receive():
            with suppress(TimeoutError):
                while True:
                    messages.append(manager.recv(4096).decode())
            return messages

        def has(start):
            return any(message.startswith(start) for message in receive())

        with start_service(tmp_path, aluma, 2, NOTIFY_SOCKET=path, WATCHDOG_USEC="3000000") as service:
            wait_until(lambda: has("READY=1"), 60)
            wait_until(lambda: any("WATCHDOG=1" in message for message in receive()))
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: has("RELOADING=1"))
            wait_until(lambda: sum(message.startswith("READY=1") for message in receive()) == 2, 15)
            wait_until(lambda: any("5 exported" in message for message in receive()))
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(MAX_SECONDS) == 0
            assert has("STOPPING=1")
    assert sum(message.startswith("STOPPING=1") for message in messages) == 1
