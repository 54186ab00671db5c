"""The program behind a proxy, and with odd specifications: nothing is deleted at Aluma that is not safe here."""

import json
import time
from contextlib import contextmanager

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support.files import hash_files
from tests.support.processes import FAST_CONFIG, PENDING, environment, simulator, start_program, wait_until
from tests.support.proxy import proxy_for

TASKS = 6
NOT_FOUND = (404, "text/plain", "default backend - 404")
FORBIDDEN = (403, "application/json", '{"message": "forbidden"}')
LOG_IN = (403, "text/html", "<html>Please log in</html>")
LIMITS = "[limits]\nmax_specification_bytes = 1048576\n"
SHORT_CONFIG = FAST_CONFIG.replace("0.5", "0.1").replace("= 2", "= 0.1") + LIMITS


@pytest.fixture
def aluma():
    with simulator("--tasks", str(TASKS), "--profile", "small") as running:
        yield running


@pytest.fixture
def export(run_cli, proxy, tmp_path):
    """Run the program once, and return the result."""

    def run(*options):
        (tmp_path / "config.toml").write_text(SHORT_CONFIG)
        return run_cli("--once", "-o", "out", "--base-url", proxy.base_url, *options)

    return run


def with_urls(change):
    """Return a change of specifications that replaces the URL of each file."""

    def apply(specification):
        for document in specification["documents"]:
            for file in document["files"]:
                if file["source"] == "url":
                    file["url"] = change(file["url"])
        return specification

    return apply


def with_source(source):
    def apply(specification):
        specification["documents"][0]["files"][0]["source"] = source
        return specification

    return apply


@contextmanager
def exported(run_cli, tmp_path, fault, tasks):
    """Export from a simulated Aluma with a fault; yield the result of the run and the simulated Aluma."""
    with simulator("--tasks", str(tasks), "--profile", "small", "--fault", f"{fault}=1") as aluma:
        (tmp_path / "config.toml").write_text(SHORT_CONFIG)
        yield run_cli("--once", "-o", "out", "--base-url", aluma.base_url), aluma


def with_long_text(specification):
    file = {"folder": "", "filename": "long.txt", "source": "content", "content": "x" * 2**20}
    specification["documents"][0]["files"].append(file)
    return specification


@pytest.mark.parametrize(
    "spell",
    [
        lambda origin, url: origin + url,
        lambda origin, url: url.lstrip("/"),
        lambda origin, url: url + "?name=a b",
        lambda origin, url: url + "?name=Müller",
    ],
    ids=["absolute", "without a slash", "with a space", "not ASCII"],
)
def test_file_is_exported_however_its_url_is_spelled(export, aluma, proxy, tmp_path, spell):
    origin = proxy.base_url.removesuffix(proxy.target.path)
    proxy.change = with_urls(lambda url: spell(origin, url))
    done = export()
    assert done.returncode == 0, done.stderr
    assert aluma.state()["tasks"] == {"completed": TASKS}
    assert len(hash_files(tmp_path / "out")) >= TASKS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_urls(lambda url: f"https://files.example.com{url}"), "download_hosts"),
        (with_source("fax"), "unknown source 'fax'"),
        (lambda specification: {"documents": []}, "contains no document"),
        (lambda specification: {"documents": [{"files": []}]}, "contains no file"),
        (lambda specification: {}, "unreadable Export Specification"),
    ],
    ids=["another host", "unknown source", "no documents", "no files", "no specification"],
)
def test_task_that_cannot_be_exported_today_is_kept(export, aluma, proxy, change, message):
    """It cools down and is parked: tomorrow's settings, or tomorrow's version, may export it."""
    proxy.change = change
    done = export()
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    state = aluma.state()
    assert state["tasks"] == {PENDING: TASKS}
    assert not {"fail", "complete"} & set(state["requests"])
    proxy.change = None
    assert export("--state", "other").returncode == 0
    assert aluma.state()["tasks"] == {"completed": TASKS}


def test_task_with_a_specification_above_the_limit_is_kept(export, aluma, proxy):
    """The reason, the limit and the setting are shown, and that there is no safety copy."""
    proxy.change = with_long_text
    done = export()
    assert done.returncode == 1, done.stderr
    assert "larger than max_specification_bytes (1048576), so it was not read" in done.stderr
    assert "there is no copy of the task" in done.stderr
    assert aluma.state()["tasks"] == {PENDING: TASKS}
    assert not {"fail", "complete"} & set(aluma.state()["requests"])
    proxy.change = None
    assert export("--state", "other").returncode == 0


@pytest.mark.parametrize(
    ("fault", "message"), [("cut", "has no end"), ("doubly-chunked", "the frame of a"), ("altered", "digest")]
)
def test_file_that_a_proxy_has_changed_is_not_stored(run_cli, tmp_path, fault, message):
    with exported(run_cli, tmp_path, fault, 2) as (done, aluma):
        assert done.returncode == 1, done.stderr
        assert message in done.stderr
        assert aluma.state()["tasks"] == {PENDING: 2}
        assert not {"fail", "complete"} & set(aluma.state()["requests"])
        assert not hash_files(tmp_path / "out")


def test_specification_of_another_task_is_not_exported(run_cli, tmp_path):
    """Only the first Start of the run is answered with the right one."""
    with exported(run_cli, tmp_path, "other-specification", TASKS) as (done, aluma):
        assert done.returncode == 1, done.stderr
        assert "received the Export Specification of another task" in done.stderr
        tasks = aluma.state()["tasks"]
        assert 1 <= tasks["completed"] < TASKS
        assert tasks[PENDING] == TASKS - tasks["completed"]
        names = hash_files(tmp_path / "out")
        assert len(names) == 2 * tasks["completed"]
        assert not [name for name in names if "~" in str(name)], "each file was exported under one task only"


@pytest.mark.parametrize("answer", [NOT_FOUND, (404, "application/json", '{"message": "no Route matched"}'), LOG_IN])
def test_answer_of_a_proxy_to_downloads_deletes_no_task(export, run_cli, aluma, proxy, answer):
    """Nor does the same answer to several attempts."""
    proxy.answer = lambda verb: answer if verb == "file" else None
    for _ in range(4):
        done = export()
        assert done.returncode == 1, done.stderr
        time.sleep(0.2)  # longer than the cool-downs
    assert aluma.state()["tasks"] == {PENDING: TASKS}
    proxy.answer = lambda verb: None
    run_cli("retry", "--all")  # because a busy machine has made more attempts in a run, and parked the tasks
    wait_until(lambda: export().returncode == 0)


@pytest.mark.parametrize("answer", [FORBIDDEN, NOT_FOUND, LOG_IN, (405, "text/plain", "method not allowed")])
def test_rejected_complete_is_reported_and_sent_by_the_next_run(export, aluma, proxy, answer, tmp_path):
    """The claim is kept, and the exit code is 1: a run that completed nothing is no success."""
    proxy.answer = lambda verb: answer if verb == "complete" else None
    done = export("--log-format", "json")
    assert done.returncode == 1, done.stderr
    state = aluma.state()
    assert "completed" not in state["tasks"]
    assert not {"fail", "cancel"} & set(state["requests"])
    claimed = state["requests"]["start"]
    proxy.answer = lambda verb: None
    done = export()
    assert done.returncode == 0, done.stderr
    state = aluma.state()
    assert state["tasks"] == {"completed": TASKS}
    assert state["requests"]["start"] == TASKS, f"{claimed} claims were kept, and none was exported again"


@pytest.mark.parametrize("answer", [FORBIDDEN, LOG_IN])
def test_rejected_start_is_not_repeated_for_each_task(export, aluma, proxy, answer):
    proxy.answer = lambda verb: answer if verb == "start" else None
    done = export()
    assert done.returncode in (1, 69), done.stderr
    assert "403" in done.stderr
    assert proxy.count("start") <= TASKS
    assert aluma.state()["tasks"] == {PENDING: TASKS}
    proxy.answer = lambda verb: None
    assert export().returncode == 0
    assert json.dumps(aluma.state()["tasks"]) == json.dumps({"completed": TASKS})


def test_service_pauses_when_every_start_is_rejected(tmp_path):
    """Without the pause, each task would be started once a minute."""
    (tmp_path / "config.toml").write_text(SHORT_CONFIG)
    env = environment(tmp_path, SimulatedAluma.client_secret, {})
    with simulator("--tasks", "60", "--profile", "small") as aluma, proxy_for(aluma.base_url) as proxy:
        proxy.answer = lambda verb: FORBIDDEN if verb == "start" else None
        options = ("-w", "4", "-o", "out", "-q", "--base-url", proxy.base_url)
        with start_program(*options, cwd=tmp_path, env=env) as service:
            wait_until(lambda: proxy.count("start"))
            time.sleep(1)
            assert service.poll() is None
            assert proxy.count("start") <= 10, "one for each worker, and one after each pause"
        assert aluma.state()["tasks"] == {PENDING: 60}
