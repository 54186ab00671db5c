"""Errors and warnings at the start and the end of a run."""

import json
import os
import subprocess

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support.processes import MAX_SECONDS, PROGRAM, environment, simulator

BROKEN = "[service]\nlog_format = 'json'\n[exporter]\nworkers = 0"


@pytest.mark.parametrize(
    ("arguments", "environ", "code"),
    [
        (["--log-format", "json"], {}, 78),
        (["--log-format=json", "--workers", "x"], {}, 2),
        (["--workers", "x"], {"ALUMA_ASYNC_LOG_FORMAT": "json"}, 2),
        (["-c", "c.toml", "-o", "out"], {}, 78),
        (["--log-format", "json", "-o", "out", "--base-url", "http://127.0.0.1:9"], {}, 69),
        (["--log-format", "json", "-o", "out", "--base-url", "{aluma}"], {"secret": "wrong"}, 77),
    ],
)
def test_start_error_is_json_with_a_hint_when_the_logs_are_json(run_cli, tmp_path, arguments, environ, code):
    """The format may come from an option, the environment or the file, also if that has a mistake."""
    (tmp_path / "c.toml").write_text(BROKEN)
    with simulator("--tasks", "1") as aluma:
        done = run_cli(*(argument.replace("{aluma}", aluma.base_url) for argument in arguments), **environ)
    assert done.returncode == code
    *_, line = done.stderr.splitlines()
    fields = json.loads(line)
    assert (fields["level"], fields["event"]) == ("error", "StartFailed")
    assert fields["hint"]
    assert fields["hint"] not in fields["message"]
    assert fields["error_type"]


def test_start_error_of_a_command_that_does_not_log_is_text(run_cli, tmp_path):
    (tmp_path / "c.toml").write_text(BROKEN)
    done = run_cli("-c", "c.toml", "list")
    assert (done.returncode, done.stderr.startswith("aluma-async: ")) == (78, True)


def test_quiet_run_prints_the_summary_only_when_tasks_are_not_exported(run_cli, tmp_path):
    (tmp_path / "c.toml").write_text('[destinations.x]\ntype = "folder"\npath = "out"\non_conflict = "fail"')
    outputs = []
    for seed in ("1", "2"):  # different tasks, files with the same names
        with simulator("--tasks", "3", "--profile", "small", "--seed", seed) as aluma:
            outputs.append(run_cli("-c", "c.toml", "-q", "--once", "--base-url", aluma.base_url))
    assert [done.returncode for done in outputs] == [0, 1]
    assert outputs[0].stderr == ""
    assert "Not exported" in outputs[1].stderr


@pytest.mark.parametrize("command", [["--once"], ["check"]])
def test_output_option_warns_about_the_destinations_that_it_replaces(run_cli, tmp_path, command):
    (tmp_path / "c.toml").write_text('[destinations.ledger]\ntype = "folder"\npath = "x"\n[[routes]]\nto = ["ledger"]')
    with simulator("--tasks", "1", "--profile", "small") as aluma:
        options = ["--base-url", aluma.base_url, "-o", "out"]
        done = run_cli("-c", "c.toml", *options, *(one for one in command))
        assert "c.toml: ledger and its 1 route" in done.stderr + done.stdout
        (tmp_path / "c.toml").write_text("[exporter]\nworkers = 2")
        done = run_cli("-c", "c.toml", *options, *command)
        assert "replaces" not in done.stderr + done.stdout


def test_check_config_only_checks_the_secret_file(run_cli, tmp_path):
    """Unless the environment has the secret, so that the file is not read."""
    (tmp_path / "c.toml").write_text('[aluma]\nclient_secret_file = "secret"')
    check = ["check", "--config-only", "-c", "c.toml", "-o", "out"]
    done = run_cli(*check, secret="")
    assert (done.returncode, "secret cannot be read" in done.stdout) == (78, True)
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o644)
    assert run_cli(*check, secret="").returncode == 78
    (tmp_path / "secret").chmod(0o600)
    assert run_cli(*check, secret="").returncode == 0
    (tmp_path / "secret").unlink()
    assert run_cli(*check).returncode == 0


@pytest.mark.parametrize("folder", ["state", "state/quarantine"])
@pytest.mark.parametrize("command", [["--once"], ["check"], ["redeliver", "--all"]], ids=["run", "check", "redeliver"])
def test_folder_that_all_users_may_write_to_ends_the_start(run_cli, tmp_path, command, folder):
    """Before anything is claimed: another user could replace the journal, or a copy that is delivered."""
    (tmp_path / "state" / "quarantine").mkdir(parents=True)
    planted = tmp_path / folder
    planted.chmod(0o777)
    if os.geteuid() == 0:
        os.chown(planted, 1234, 1234)
    with simulator("--tasks", "3") as aluma:
        base_url = [] if "redeliver" in command else ["--base-url", aluma.base_url]
        done = run_cli(*command, "--state", "state", "-o", "out", *base_url)
        assert done.returncode == 78
        assert "is not safe: every user may write to it" in done.stdout + done.stderr
        assert "start" not in aluma.state()["requests"]


MISTAKES = """
[exporter]
workers = 0
[destinations.a]
type = "folder"
path = "out"
[destinations.b]
type = "folder"
path = "out/b"
[destinations.c]
type = "folder"
pth = "c"
[[routes]]
to = ["c", "bb"]
"""


@pytest.mark.parametrize("command", [["--once"], ["redeliver", "--all"], ["check"]])
def test_mistakes_of_several_sections_are_reported_together(run_cli, tmp_path, command):
    """A destination that cannot be read is not unknown."""
    (tmp_path / "c.toml").write_text(MISTAKES)
    done = run_cli("-c", "c.toml", *command)
    assert done.returncode == 78
    output = done.stdout + done.stderr
    for text in (
        "c.toml:3: [exporter] workers = 0",
        "c.toml:7: [destinations.b]: its place is inside that of [destinations.a]",
        "c.toml:12: [destinations.c] unknown key 'pth'",
        "c.toml:10: [destinations.c]: the key 'path' is missing",
        "c.toml:14: [[routes]] 1: to = 'bb': unknown destination",
    ):
        assert text in output, output
    assert "'c': unknown" not in output


def test_mistakes_are_a_list_in_json_logs(run_cli, tmp_path):
    (tmp_path / "c.toml").write_text(MISTAKES)
    fields = json.loads(run_cli("-c", "c.toml", "--log-format", "json").stderr)
    assert len(fields["mistakes"]) == 5
    (tmp_path / "c.toml").write_text(MISTAKES.replace("workers = 0", "").replace("pth", "path").replace('"bb"', '"a"'))
    fields = json.loads(run_cli("-c", "c.toml", "--log-format", "json").stderr)
    assert fields["message"].startswith("c.toml:7: [destinations.b]: its place")


@pytest.mark.parametrize(("limit", "is_warned"), [("-Sn", False), ("-n", True)])
def test_limit_of_open_files_suffices_for_the_workers(tmp_path, limit, is_warned):
    """A soft limit is raised; a hard one is named, with what the workers need."""
    with simulator("--tasks", "20", "--profile", "small") as aluma:
        run = " ".join([*PROGRAM, "--once", "-o", "out", "-w", "100", "--base-url", aluma.base_url])
        command = ["/bin/sh", "-c", f"ulimit {limit} 200; exec {run}"]
        env = environment(tmp_path, SimulatedAluma.client_secret, {})
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=MAX_SECONDS)
        assert done.returncode == 0, done.stderr
        assert ("need up to 700 open files, and the system allows 200" in done.stderr) == is_warned
