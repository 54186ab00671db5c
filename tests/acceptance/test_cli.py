"""The command line as its users meet it: real processes against the simulated Aluma on a port."""

import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import get_args

import pytest

from aluma_async.cli.simulate import FRAMINGS, PROFILES
from aluma_async.testing import SimulatedAluma
from aluma_async.testing.sample_data import Profile
from tests.support.files import expected_hashes, hash_files
from tests.support.processes import CLAIMED, PENDING, Simulator, environment, expect_error, simulator, start_program

CANARY = "canary-7d41"
signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console")


# -- the main job


def test_the_demo_exports_verifies_and_can_be_run_again(run_cli, tmp_path):
    trees = []
    for _ in range(2):
        done = run_cli("demo", "--tasks", "12")
        assert done.returncode == 0, done.stderr
        assert "12 tasks" in done.stderr
        assert "all are identical to the originals" in done.stderr
        assert str(tmp_path / "aluma-export") in done.stderr
        assert done.stdout == ""
        trees.append(sorted(path for path in tmp_path.rglob("*") if ".aluma-async" not in path.parts))
        assert hash_files(tmp_path / "aluma-export") == expected_hashes(12)
    assert trees[0] == trees[1]


def test_once_exports_what_waits_every_byte_right_and_ends(run_cli, tmp_path):
    with simulator("--tasks", "50", "--seed", "7", "--latency", "0.01") as aluma:
        done = run_cli("--once", "-o", "out", "--base-url", aluma.base_url, "-w", "4")
        assert done.returncode == 0, done.stderr
        assert hash_files(tmp_path / "out") == expected_hashes(50, seed=7)
        ledger = aluma.state()
        assert ledger["tasks"] == {"completed": 50}
        assert ledger["in_flight_peak"] <= 8, "twice the workers, if nothing else is said"
        assert "Exported  50 tasks" in done.stderr
        again = run_cli("--once", "-o", "out", "--base-url", aluma.base_url)
        assert (again.returncode, "Exported  0 tasks" in again.stderr) == (0, True)


def test_a_task_that_cannot_be_exported_now_makes_the_run_end_with_1(run_cli, tmp_path):
    (tmp_path / "c.toml").write_text('[destinations.x]\ntype = "folder"\npath = "out"\non_conflict = "fail"')
    codes = []
    for seed in ("1", "2"):  # other tasks, files of the same names
        with simulator("--tasks", "3", "--profile", "small", "--seed", seed) as aluma:
            done = run_cli("-c", "c.toml", "--once", "--base-url", aluma.base_url)
            codes.append(done.returncode)
    assert codes == [0, 1]
    assert "3 cooling down" in done.stderr


def test_environment_goes_before_the_file_and_an_option_before_both(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "config.toml").write_text('[aluma]\nbase_url = "http://127.0.0.1:9"\nprojects = ["Nobody"]')
    done = run_cli("list", ALUMA_ASYNC_BASE_URL=aluma_with_50_tasks.base_url)
    assert (done.returncode, done.stdout) == (0, "")
    done = run_cli("list", "--project", "ACME Medical Records", ALUMA_ASYNC_BASE_URL=aluma_with_50_tasks.base_url)
    assert len(done.stdout.splitlines()) == 13
    done = run_cli(
        "list",
        ALUMA_ASYNC_BASE_URL=aluma_with_50_tasks.base_url,
        ALUMA_ASYNC_PROJECT="HR Onboarding,ACME Medical Records",
    )
    assert len(done.stdout.splitlines()) == 25
    done = run_cli("--base-url", aluma_with_50_tasks.base_url, "list", ALUMA_ASYNC_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 0


# -- what goes wrong, one clear message and its exit code


def test_wrong_credentials(run_cli, aluma_with_50_tasks):
    done = run_cli("--once", "-o", "out", "--base-url", aluma_with_50_tasks.base_url, secret=CANARY)
    expect_error(done, 77, "refused", "ALUMA_CLIENT_SECRET")


def test_no_credentials(run_cli, aluma_with_50_tasks):
    done = run_cli("--once", "-o", "out", "--base-url", aluma_with_50_tasks.base_url, secret="")
    expect_error(done, 78, "client secret", "client_secret_file", "systemd")


def test_nobody_listens(run_cli):
    expect_error(run_cli("--once", "-o", "out", "--base-url", "http://127.0.0.1:9"), 69, "no connection", "base_url")


def test_a_file_is_in_the_way_of_the_folder(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "out").touch()
    expect_error(run_cli("--once", "-o", "out", "--base-url", aluma_with_50_tasks.base_url), 69, "out", "writable")


def test_no_destination(run_cli, aluma_with_50_tasks):
    expect_error(run_cli("--once", "--base-url", aluma_with_50_tasks.base_url), 78, "no destination", "-o DIR")


def test_a_typo_in_the_config(run_cli, tmp_path):
    (tmp_path / "c.toml").write_text("[exporter]\nworkrs = 3")
    expect_error(run_cli("-c", "c.toml", "--once"), 78, "c.toml", "'workrs'", "'workers'")


def test_a_config_that_is_missing(run_cli):
    expect_error(run_cli("--once", ALUMA_ASYNC_CONFIG="missing.toml"), 78, "missing.toml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-w", "0"], "--workers"),
        (["chek"], "check"),
        (["--nonsense"], "--nonsense"),
        (["-w", "3", "demo"], "after its name"),
        (["simulate", "--fault", "drop-aftr=0.1"], "drop-after"),
        (["simulate", "--fault", "drop-after"], "drop-after=0.01"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_right(run_cli, arguments, says):
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_port_that_is_taken(run_cli, aluma_with_50_tasks):
    done = run_cli("simulate", "--port", aluma_with_50_tasks.base_url.rpartition(":")[2])
    assert done.returncode == 2
    assert "--port" in done.stderr


# -- signals


@contextmanager
def running(tmp_path, *arguments):
    """Start a run that logs JSON; yield it and a function that reads on to an event."""
    env = environment(tmp_path, SimulatedAluma.client_secret, {})
    with start_program(*arguments, "-o", "out", "-v", "--log-format", "json", cwd=tmp_path, env=env) as process:
        yield process, lambda kind: next(line for line in process.stderr if json.loads(line)["event"] == kind)


@signals
def test_ctrl_c_in_the_middle_finishes_what_is_in_hand(tmp_path):
    with (
        simulator("--tasks", "500", "--profile", "small", "--latency", "0.05") as aluma,
        running(tmp_path, "-w", "4", "--base-url", aluma.base_url) as (run, read_to),
    ):
        read_to("TaskCompleted")
        run.send_signal(signal.SIGINT)
        assert "again to stop now" in read_to("Draining")
        assert run.wait(timeout=30) == 0
        tasks = aluma.state()["tasks"]
        assert CLAIMED not in tasks
        assert 0 < tasks["completed"] < 500
        completed = expected_hashes(tasks["completed"], profile="small")  # oldest first
        assert hash_files(tmp_path / "out").total() == completed.total()


@signals
def test_what_does_not_end_within_the_drain_timeout_is_given_back(tmp_path):
    endless = ["--max-bytes-per-second", "1000", "--drain-timeout", "0.1"]
    with (
        simulator("--tasks", "1", "--profile", "bulk") as aluma,
        running(tmp_path, *endless, "--base-url", aluma.base_url) as (run, read_to),
    ):
        read_to("TaskStarted")
        run.send_signal(signal.SIGTERM)
        read_to("Draining")
        assert run.wait(timeout=30) == 0
        assert aluma.state()["tasks"] == {PENDING: 1}


@signals
def test_a_second_signal_ends_the_run_at_once(tmp_path):
    endless = ["--max-bytes-per-second", "1000"]
    with (
        simulator("--tasks", "1", "--profile", "bulk") as aluma,
        running(tmp_path, *endless, "--base-url", aluma.base_url) as (run, read_to),
    ):
        read_to("TaskStarted")
        run.send_signal(signal.SIGINT)
        read_to("Draining")
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=30) == 130


@signals
def test_simulate_tells_its_ledger_when_it_is_ended():
    with start_program("simulate", "--port", "0", "--tasks", "3") as process:
        Simulator(process)
        process.send_signal(signal.SIGTERM)
        assert "Tasks: 3 pending:start_client_action" in process.stdout.read()
        assert process.wait(timeout=30) == 0


# -- looking


def test_list_shows_what_waits_and_counts_it_on_stderr(run_cli, aluma_with_50_tasks):
    done = run_cli("list", "--base-url", aluma_with_50_tasks.base_url)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 50
    assert "50 tasks pending" in done.stderr
    assert "ACME Medical Records" in done.stdout


def test_list_json_is_one_array(run_cli, aluma_with_50_tasks):
    rows = json.loads(run_cli("--base-url", aluma_with_50_tasks.base_url, "list", "--json").stdout)
    assert len(rows) == 50
    assert set(rows[0]) == {"id", "project_id", "project_name", "name", "created_at", "age_seconds"}
    nobody = run_cli("list", "--json", "--base-url", aluma_with_50_tasks.base_url, "--project", "Nobody")
    assert json.loads(nobody.stdout) == []


def test_list_is_sorted_and_filtered_where_that_is_asked_for(run_cli, aluma_with_50_tasks):
    rows = json.loads(run_cli("list", "--json", "--sort", "project", "--base-url", aluma_with_50_tasks.base_url).stdout)
    keys = [(row["project_name"].casefold(), row["name"].casefold()) for row in rows]
    assert (len(keys), keys) == (50, sorted(keys))
    names = [
        row.split()[1]
        for row in run_cli("list", "--sort", "name", "--base-url", aluma_with_50_tasks.base_url).stdout.splitlines()
    ]
    assert len(names) == 50
    ages = [
        row["age_seconds"]
        for row in json.loads(run_cli("list", "--json", "--base-url", aluma_with_50_tasks.base_url).stdout)
    ]
    middle = sorted(ages)[25]
    older = json.loads(
        run_cli("list", "--json", "--older-than", f"{middle}s", "--base-url", aluma_with_50_tasks.base_url).stdout
    )
    assert 0 < len(older) < 50
    assert all(row["age_seconds"] >= middle for row in older)
    assert run_cli("list", "--older-than", "soon").returncode == 2


def test_a_reader_who_has_seen_enough_of_a_listing_is_no_error(tmp_path):
    with simulator("--tasks", "20000") as aluma:
        env = environment(tmp_path, SimulatedAluma.client_secret, {})
        with start_program("list", "--base-url", aluma.base_url, env=env) as process:
            assert process.stdout.readline()
            process.stdout.close()
            assert process.wait(timeout=30) == 0
            assert process.stderr.read() == ""


def test_check_tries_everything_and_claims_nothing(run_cli, tmp_path, aluma_with_50_tasks):
    done = run_cli("check", "-o", "out", "--base-url", aluma_with_50_tasks.base_url)
    assert done.returncode == 0, done.stdout
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "ok    config",
        *["ok    wiring"] * 3,
        *["ok    environment"] * 4,
    ]
    assert (tmp_path / "out").is_dir()


def test_check_of_the_config_only_touches_nothing(run_cli, tmp_path):
    done = run_cli("check", "--config-only", "-o", "out", "--base-url", "http://127.0.0.1:9", secret="")
    assert done.returncode == 0, done.stdout
    assert not list(tmp_path.iterdir())
    done = run_cli("check", "--config-only")
    assert (done.returncode, "FAIL  wiring: routes: no destination" in done.stdout) == (78, True)


def test_check_tells_all_that_is_wrong_and_ends_with_the_first(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "out").touch()
    done = run_cli("-o", "out", "check", "--base-url", aluma_with_50_tasks.base_url, secret=CANARY)
    assert done.returncode == 77
    assert [line[:4] for line in done.stdout.splitlines() if not line.startswith(" ")] == ["ok  "] * 6 + ["FAIL"] * 2
    (tmp_path / "config.toml").write_text("[exporter]\nworkrs = 3")
    done = run_cli("check")
    assert (done.returncode, "'workers'" in done.stdout) == (78, True)


ROUTES = """
[[routes]]
project = "ACME Medical Records"
to = ["archive", "ledger"]
[destinations.archive]
type = "folder"
path = "archive"
[destinations.ledger]
type = "folder"
path = "ledger"
"""


def test_check_shows_the_plan_and_tries_every_destination(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "config.toml").write_text(ROUTES)
    done = run_cli("check", "--base-url", aluma_with_50_tasks.base_url)
    assert done.returncode == 0, done.stdout
    assert "project 'ACME Medical Records' -> archive, ledger" in done.stdout
    assert "all others -> nowhere" in done.stdout
    assert (tmp_path / "archive").is_dir()
    assert (tmp_path / "ledger").is_dir()


def test_list_tells_where_the_files_of_a_task_may_go(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "config.toml").write_text(ROUTES)
    rows = json.loads(run_cli("list", "--destinations", "--json", "--base-url", aluma_with_50_tasks.base_url).stdout)
    where = {row["project_name"]: row["destinations"] for row in rows}
    assert where.pop("ACME Medical Records") == ["archive", "ledger"]
    assert not any(where.values())
    assert " -> archive, ledger" in run_cli("list", "--destinations", "--base-url", aluma_with_50_tasks.base_url).stdout


def test_help_and_version(run_cli):
    done = run_cli("--help")
    assert done.returncode == 0
    for part in ("--workers", "simulate", "ALUMA_CLIENT_SECRET", "completion bash"):
        assert part in done.stdout
    assert run_cli("-h").stdout == done.stdout
    assert run_cli("--version").stdout.startswith("aluma-async ")


def test_help_does_not_wait_for_what_it_does_not_need():
    code = "import sys, aluma_async.cli.main; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "rich"} & set(modules)
    assert "aluma_async.testing" not in modules


def test_simulate_offers_just_what_the_simulation_has(aluma_with_50_tasks):
    assert get_args(Profile) == PROFILES
    assert "length" in FRAMINGS
    assert SimulatedAluma.client_secret in aluma_with_50_tasks.output
    assert f"--base-url {aluma_with_50_tasks.base_url}" in aluma_with_50_tasks.output
