"""The program with default settings beside sick tasks, defective plug-ins and an API that fails."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support.processes import CLAIMED, environment, simulator, start_program, wait_until
from tests.support.proxy import proxy_for

SICK, HEALTHY = 30, 40
MAX_SECONDS = 60
"""Time in which healthy tasks are exported whatever other tasks do."""
NOT_READY_SECONDS = 60
"""Three times the promise for an exporter that has just worked, because the machine may be busy: unit tests hold it."""
END_SECONDS = 3
"""Time after the drain timeout in which a run ends."""
PLUGIN = """
    import asyncio
    import time
    from contextlib import asynccontextmanager

    class Abort(BaseException):
        pass

    class Defective:
        async def probe(self):
            pass

        @asynccontextmanager
        async def open(self, claim):
            yield self

        def resumable_size(self, file):
            return None

        async def save(self, file, chunks):
            async for _ in chunks:
                pass
            if int(file.filename[:7]) < {sick}:
                {step}
"""


@pytest.fixture
def aluma():
    with simulator("--tasks", str(SICK + HEALTHY), "--profile", "small") as running:
        yield running


@pytest.fixture
def exporter(proxy, tmp_path):
    """Start the program as a service, which runs until the end of the block."""

    @contextmanager
    def start(*options, **environ):
        env = environment(tmp_path, SimulatedAluma.client_secret, environ)
        options = ("--base-url", proxy.base_url, "--no-progress", *options)
        with start_program(*options, cwd=tmp_path, env=env) as running:
            yield running

    return start


def count_exported(aluma):
    return aluma.state()["tasks"].get("completed", 0)


def use_folders(specification):
    """Let the files of the first tasks of the listing have a folder of their own."""
    for document in specification["documents"]:
        for file in document["files"]:
            file["folder"] = "sick" if int(file["filename"][:7]) < SICK else "healthy"
    return specification


def use_folder(tmp_path):
    """More sick tasks than workers, first in the listing; not even root may write to their folder."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sick").symlink_to("/proc/sys")
    return 'type = "folder"\npath = "out"\n'


def use_sqlite(tmp_path):
    """The table of the sick tasks is a view, into which nothing can be inserted."""
    with closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("CREATE VIEW sick AS SELECT 1 AS a")
    return f'type = "sql"\nurl = "sqlite:///{tmp_path}/a.db"\ntable = "{{folder}}"\nmode = "files"\ncreate = true\n'


@pytest.mark.parametrize("use", [use_folder, use_sqlite])
def test_healthy_tasks_are_exported_behind_tasks_with_an_unusable_place(exporter, aluma, proxy, tmp_path, use):
    (tmp_path / "c.toml").write_text("[destinations.default]\n" + use(tmp_path))
    proxy.change = use_folders
    with exporter("-c", "c.toml"):
        wait_until(lambda: count_exported(aluma) == HEALTHY, MAX_SECONDS)


@pytest.fixture
def install_plugin(tmp_path):
    """Install a destination that does something with each file of the first tasks; return the folder."""

    def install(step):
        info = tmp_path / "site" / "defective-1.0.dist-info"
        info.mkdir(parents=True)
        (tmp_path / "site" / "defective.py").write_text(textwrap.dedent(PLUGIN.format(sick=SICK, step=step)))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: defective\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[aluma_async.destinations]\ndefective = defective:Defective\n")
        (tmp_path / "c.toml").write_text('[destinations.default]\ntype = "defective"\n')
        return str(tmp_path / "site")

    return install


@pytest.mark.parametrize(
    "defect",
    [
        "raise asyncio.CancelledError",
        "raise SystemExit",
        "raise GeneratorExit",
        "raise Abort",
        "asyncio.current_task().cancel()",
    ],
)
def test_service_goes_on_when_a_plugin_raises_anything(exporter, aluma, install_plugin, defect):
    with exporter("-c", "c.toml", PYTHONPATH=install_plugin(defect)) as running:
        wait_until(lambda: count_exported(aluma) >= HEALTHY, MAX_SECONDS)
        assert running.poll() is None


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Readiness:
    """``/readyz`` of a running exporter."""

    def __init__(self, port):
        self._url = f"http://127.0.0.1:{port}/readyz"

    def status(self):
        try:
            with urllib.request.urlopen(self._url, timeout=5) as response:
                return response.status
        except urllib.error.HTTPError as error:
            self.reason = json.load(error)["reason"]
            return error.code
        except OSError:
            return None


@pytest.mark.parametrize("answer", [(500, "text/plain", ""), (401, "application/json", "{}"), None])
def test_service_is_not_ready_while_the_api_fails(exporter, aluma, proxy, tmp_path, answer):
    """Soon after it has drained its tasks; and ready again within one polling interval. No answer: it hangs."""
    port = free_port()
    (tmp_path / "config.toml").write_text("[exporter]\npoll_wait_max_seconds = 5\n")
    readiness = Readiness(port)
    is_down = True

    def fail(_):
        while is_down and answer is None:
            time.sleep(0.1)
        return answer if is_down else None

    with exporter("-o", "out", "--listen", str(port)):
        wait_until(lambda: count_exported(aluma) == SICK + HEALTHY, MAX_SECONDS)
        wait_until(lambda: readiness.status() == 200, MAX_SECONDS)
        proxy.answer = fail
        wait_until(lambda: readiness.status() == 503, NOT_READY_SECONDS)
        is_down = False
        wait_until(lambda: readiness.status() == 200, NOT_READY_SECONDS)


def test_busy_service_is_not_ready_while_the_api_fails(tmp_path):
    """No listing is due then: errors of all requests count, whatever they are. A success makes it ready again."""
    port, page, answers = free_port(), (200, "text/html", "<html>"), {}
    readiness = Readiness(port)

    def answer(verb):
        if verb == "file" and not answers:
            time.sleep(0.2)
        return answers.get("now")

    with simulator("--tasks", "2000", "--profile", "small") as aluma, proxy_for(aluma.base_url) as proxy:
        proxy.answer = answer
        options = ("--base-url", proxy.base_url, "--no-progress", "-o", "out", "--listen", str(port))
        env = environment(tmp_path, SimulatedAluma.client_secret, {})
        with start_program(*options, cwd=tmp_path, env=env):
            wait_until(lambda: count_exported(aluma) > 0, MAX_SECONDS)
            for answers["now"] in (page, (429, "application/json", "{}")):
                wait_until(lambda: readiness.status() == 503, NOT_READY_SECONDS)
                assert "no request has succeeded" in readiness.reason
                answers["now"] = None
                wait_until(lambda: readiness.status() == 200, MAX_SECONDS)


def test_service_works_beside_silent_connections_to_its_health_port(exporter, aluma):
    """More connections than a process may have descriptors."""
    port = free_port()
    silent = []
    try:
        with exporter("-o", "out", "--listen", str(port)) as running:
            wait_until(lambda: Readiness(port).status() is not None, MAX_SECONDS)
            for _ in range(900):
                silent.append(socket.create_connection(("127.0.0.1", port)))
            wait_until(lambda: count_exported(aluma) == SICK + HEALTHY, MAX_SECONDS)
            assert Readiness(port).status() == 200
            assert running.poll() is None
    finally:
        for connection in silent:
            connection.close()


def test_second_signal_ends_a_process_that_a_plugin_blocks(exporter, aluma, install_plugin):
    with exporter("-c", "c.toml", PYTHONPATH=install_plugin("time.sleep(600)")) as running:
        wait_until(lambda: CLAIMED in aluma.state()["tasks"], MAX_SECONDS)
        running.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        running.send_signal(signal.SIGTERM)
        assert running.wait(MAX_SECONDS) == 130


@pytest.mark.parametrize(
    "step", ["await asyncio.to_thread(time.sleep, 600)", "time.sleep(600)"], ids=["thread", "loop"]
)
def test_drain_ends_although_a_plugin_does_not_return(aluma, install_plugin, tmp_path, step):
    """A while after the drain timeout; the tasks are named, and the next run releases their claims."""
    env = environment(tmp_path, SimulatedAluma.client_secret, {"PYTHONPATH": install_plugin(step)})
    with (tmp_path / "c.toml").open("a") as config:
        config.write("[exporter]\ndrain_timeout_seconds = 1\n")
    program = f"from aluma_async.cli import main, signals; signals.END_SECONDS = {END_SECONDS}; main.main()"
    options = ("-c", "c.toml", "--base-url", aluma.base_url, "--no-progress")
    command = [sys.executable, "-c", program, *options]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as running:
        try:
            wait_until(lambda: aluma.state()["tasks"].get(CLAIMED, 0), MAX_SECONDS)
            time.sleep(1)
            running.send_signal(signal.SIGTERM)
            assert running.wait(END_SECONDS + 10) == 1
            assert "a place or a plug-in does not return" in running.stderr.read()
        finally:
            running.kill()
