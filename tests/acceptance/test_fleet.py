"""``[fleet]`` with the real program: several exporters on one store share the tasks, whatever is killed."""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from itertools import chain

import pytest

from aluma_async.fleet.stores.sqlite import FILE_NAME
from aluma_async.journal import reader
from aluma_async.journal.folders import journal_folder
from aluma_async.models import ClaimRecord
from aluma_async.testing import SimulatedAluma
from tests.support.files import expected_hashes, hash_files
from tests.support.processes import FAST_CONFIG, MAX_SECONDS, PROGRAM, environment, expect_error, simulator, wait_until
from tests.support.valkey import valkey_server

COMPLETED, SECONDS = "completed", MAX_SECONDS
TASKS = ("--tasks", "300", "--profile", "small", "--seed", "5")


class Store:
    """The store of a fleet, which can be lost."""

    def __init__(self, folder, server=None):
        self._folder, self._server = folder, server
        self.url = server.url if server else "sqlite:store"

    def lose(self):
        """Remove the store for some seconds; then it is empty."""
        if self._server:
            self._server.kill()
            time.sleep(2)
            self._server.start()
        else:
            for file in self._folder.glob(f"store/*/{FILE_NAME}*"):
                file.unlink(missing_ok=True)


@pytest.fixture(params=["sqlite", "valkey"])
def store(request, tmp_path):
    if request.param == "sqlite":
        yield Store(tmp_path)
    else:
        with valkey_server() as server:
            yield Store(tmp_path, server)


class Fleet:
    """Exporters with state folders of their own, and one store and output folder."""

    def __init__(self, folder, aluma, store, stack, *options):
        self.folder, self._aluma, self._stack = folder, aluma, stack
        self._options = ("--base-url", aluma.base_url, "--log-format", "json", *options)
        self._started = 0
        (folder / "config.toml").write_text(f'{FAST_CONFIG}\n[fleet]\nurl = "{store.url}"\n')

    def start(self, name, *options):
        """Start an exporter; it is killed at the end."""
        self._started += 1
        log = self._stack.enter_context((self.folder / f"log-{name}-{self._started}").open("wb"))
        process = self._stack.enter_context(
            subprocess.Popen(
                [*PROGRAM, "-o", "out", "--state", f"state-{name}", *self._options, *options],
                cwd=self.folder,
                env=environment(self.folder, SimulatedAluma.client_secret, {}),
                stderr=log,
            )
        )
        self._stack.callback(process.kill)
        return process

    def claims(self, name):
        records = reader.read_records(self.folder / f"state-{name}")
        return [record.task_id for record in records if isinstance(record, ClaimRecord)]

    def exported(self, name):
        return [record.task_id for record in reader.read_history(self.folder / f"state-{name}")]

    @property
    def completed(self):
        return self._aluma.state()["tasks"].get(COMPLETED, 0)

    def wait_until_completed(self, count):
        wait_until(lambda: self.completed >= count, SECONDS)

    def stop(self, *processes):
        """Stop exporters, which end without an error."""
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(SECONDS) for process in processes] == [0] * len(processes)


@contextmanager
def fleet(folder, store, *options, tasks=TASKS, latency="0.05"):
    with simulator(*tasks, "--latency", latency) as aluma, ExitStack() as stack:
        yield Fleet(folder, aluma, store, stack, *options), aluma


def check_exported(folder, count=300):
    assert hash_files(folder / "out") == expected_hashes(count, profile="small", seed=5)


@pytest.mark.parametrize("count", [2, 3])
def test_fleet_exports_each_task_once_within_common_limits(count, store, tmp_path):
    """No Start is refused, one listing serves all, and each exporter does a part of the work."""
    names = "abc"[:count]
    with fleet(tmp_path, store, "--max-at-once", "12", "-w", "6") as (running, aluma):
        processes = [running.start(name) for name in names]
        running.wait_until_completed(300)
        running.stop(*processes)
        state = aluma.state()
    check_exported(tmp_path)
    assert state["tasks"] == {COMPLETED: 300}
    assert state["requests"].get("refused", 0) <= 1, "at most 0.5 %"
    assert state["in_flight_peak"] <= 12
    exported = [running.exported(name) for name in names]
    assert min(map(len, exported)) >= 30, "the work is divided"
    assert len(set(chain(*exported))) == sum(map(len, exported)) == 300
    assert not any(running.claims(name) for name in names)


def test_fleet_releases_the_claims_of_a_killed_exporter(store, tmp_path):
    """Within seconds, not at the end of the lease; no task is lost or exported twice."""
    with fleet(tmp_path, store, "-w", "4", latency="0.3") as (running, aluma):
        one, two, three = (running.start(name) for name in "abc")
        running.wait_until_completed(60)
        wait_until(lambda: running.claims("c"), SECONDS)
        three.kill()
        three.wait()
        left = set(running.claims("c"))
        assert left
        running.wait_until_completed(300)
        running.stop(one, two)
        state = aluma.state()
    check_exported(tmp_path)
    assert state["tasks"] == {COMPLETED: 300}
    assert not state["requests"].get("requeued"), "no lease has expired"
    assert state["requests"].get("refused", 0) <= 2
    assert state["requests"]["start"] <= 300 + len(left)
    exported = running.exported("a") + running.exported("b")
    assert len(exported) == len(set(exported))
    assert left & set(exported), "another exporter has exported the tasks of the killed one"


def test_fleet_continues_when_its_store_is_lost(store, tmp_path):
    """Exports go on meanwhile, and the exporters share the work again afterwards."""
    with fleet(tmp_path, store, "-w", "4", latency="0.2") as (running, aluma):
        processes = [running.start(name) for name in "ab"]
        running.wait_until_completed(60)
        store.lose()
        assert all(process.poll() is None for process in processes)
        running.wait_until_completed(300)
        running.stop(*processes)
        state = aluma.state()
    check_exported(tmp_path)
    assert state["tasks"] == {COMPLETED: 300}
    assert state["requests"].get("refused", 0) <= 45, "15 %, without a store"
    assert min(len(running.exported(name)) for name in "ab") >= 30
    assert not running.claims("a") + running.claims("b")


def test_fleet_restarts_with_the_claims_of_the_process_before(store, tmp_path):
    """The lock of the state folder proves that it has ended, so that nothing is waited for."""
    with fleet(tmp_path, store, "-w", "4", latency="0.3") as (running, aluma):
        first, other = running.start("a"), running.start("b")
        running.wait_until_completed(40)
        wait_until(lambda: running.claims("a"), SECONDS)
        first.kill()
        first.wait()
        again = running.start("a")
        running.wait_until_completed(300)
        running.stop(again, other)
        state = aluma.state()
    check_exported(tmp_path)
    assert state["tasks"] == {COMPLETED: 300}
    assert not state["requests"].get("requeued")


def test_processes_of_a_fleet_are_its_nodes(store, tmp_path):
    """Beside another exporter; they are not limited to a part of the tasks."""
    with fleet(tmp_path, store, "--max-at-once", "12", "-w", "4", latency="0.1") as (running, aluma):
        several, single = running.start("a", "--processes", "2"), running.start("b")
        running.wait_until_completed(300)
        running.stop(several, single)
        state = aluma.state()
    check_exported(tmp_path)
    assert state["requests"].get("refused", 0) <= 1
    assert state["in_flight_peak"] <= 12
    history = [reader.read_history(journal_folder(tmp_path / "state-a", number)) for number in (1, 2)]
    assert running.exported("b")
    assert all(history)


def test_once_exports_what_is_pending_with_a_store_of_an_earlier_run(store, tmp_path):
    for seed in ("5", "6"):
        tasks = ("--tasks", "20", "--profile", "small", "--seed", seed)
        with fleet(tmp_path, store, tasks=tasks, latency="0") as (running, _):
            assert running.start("a", "--once").wait(SECONDS) == 0
            assert running.completed == 20


# -- check and configuration


def run_check(folder, aluma, url, run_cli):
    (folder / "config.toml").write_text(f'[fleet]\nurl = "{url}"\n')
    return run_cli("check", "-c", "config.toml", "-o", "out", "--state", "state", "--base-url", aluma.base_url)


def test_check_tries_the_store(store, tmp_path, run_cli):
    with simulator("--tasks", "0") as aluma:
        done = run_check(tmp_path, aluma, store.url, run_cli)
    assert done.returncode == 0, done.stdout
    assert "ok    environment: store of the fleet 'default'" in done.stdout
    assert "warn  environment: [fleet]" not in done.stdout


@pytest.mark.parametrize(
    ("url", "part"),
    [("redis://:canary@127.0.0.1:1", "the store of the fleet: "), ("sqlite:config.toml/x", "cannot be created")],
)
def test_check_names_the_problem_of_the_store(url, part, tmp_path, run_cli):
    pytest.importorskip("redis")
    with simulator("--tasks", "0") as aluma:
        done = run_check(tmp_path, aluma, url, run_cli)
    assert done.returncode in (69, 78)
    assert re.search(rf"FAIL  environment: store of the fleet.*{re.escape(part)}", done.stdout), done.stdout
    assert "canary" not in done.stdout + done.stderr


def test_missing_client_library_is_named_with_its_extra(tmp_path):
    (tmp_path / "config.toml").write_text('[fleet]\nurl = "redis://127.0.0.1:1"\n')
    code = "import sys; sys.modules['redis'] = None; from aluma_async.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "-c", "config.toml", "-o", "out", "--state", "state"],
        cwd=tmp_path,
        env=environment(tmp_path, SimulatedAluma.client_secret, {}),
        capture_output=True,
        text=True,
        check=False,
    )
    expect_error(done, 78, "[fleet] url: needs redis", "aluma-async[fleet]")


def test_configuration_shows_no_password_of_the_store(tmp_path, run_cli):
    (tmp_path / "config.toml").write_text('[fleet]\nurl = "rediss://user:canary@store.example/0"\n')
    done = run_cli("config", "show", "--json", "-c", "config.toml")
    assert "canary" not in done.stdout
    assert "store.example" in json.dumps(json.loads(done.stdout))
