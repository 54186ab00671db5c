"""The command line as users see it: help, errors and exit codes, ``list`` and ``check``."""

import fcntl
import json
import os
import platform
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import get_args

import click
import pytest

import aluma_async
from aluma_async.cli.main import cli as program
from aluma_async.cli.simulate import FAULTS, FRAMINGS, PROFILES
from aluma_async.testing import SimulatedAluma
from aluma_async.testing.faults import Fault, WrongReply
from aluma_async.testing.sample_data import Profile
from tests.support.processes import MAX_SECONDS, PROGRAM, environment, expect_error, simulator, start_program

CANARY = "canary-7d41"


# -- help


def test_help_names_options_commands_and_credentials(run_cli):
    done = run_cli("--help")
    assert done.returncode == 0
    for part in ("--workers", "simulate", "ALUMA_CLIENT_SECRET", "completion bash"):
        assert part in done.stdout
    assert run_cli("-h").stdout == done.stdout


def test_version_names_build_python_and_extras(run_cli):
    """In lines that fit into a report; the first one begins as that of every program."""
    name, python, extras = run_cli("--version").stdout.splitlines()
    assert re.fullmatch(rf"aluma-async {re.escape(aluma_async.__version__)} \([\w .-]+\)", name)
    assert python.startswith(f"Python {platform.python_version()}, {platform.system()}")
    assert re.fullmatch(r"Extras: (fleet, )?object-store, sql", extras)


def test_version_names_libraries_that_an_extra_lacks(tmp_path):
    """The package is found first in a folder whose metadata requires a library that does not exist."""
    package = tmp_path / "aluma_async-0.1.0.dist-info"
    package.mkdir()
    metadata = "Metadata-Version: 2.1\nName: aluma-async\nVersion: 0.1.0\n"
    package.joinpath("METADATA").write_text(f"{metadata}Requires-Dist: no-such-library>=1; extra == 'sql'\n")
    origin = {"url": "https://example.com/a.git", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}}
    package.joinpath("direct_url.json").write_text(json.dumps(origin))
    env = environment(tmp_path, "", {"PYTHONPATH": str(tmp_path)})
    done = subprocess.run([*PROGRAM, "--version"], env=env, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert "(commit 0123456789ab)" in done.stdout
    assert "Extras: sql (missing: no-such-library)" in done.stdout


def test_help_groups_commands_and_shows_their_whole_summaries(run_cli):
    """Every command has a group, and no summary is cut at 80 columns."""
    text = run_cli("--help", COLUMNS="80").stdout
    assert re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE) == ["Options", "Run", "Look", "Repair", "Set up"]
    for name, command in program.commands.items():
        summary = command.help.splitlines()[0]
        assert re.search(rf"^  {name} +{re.escape(summary)}$", text, re.MULTILINE), name


def test_help_does_not_import_slow_modules():
    code = "import sys, aluma_async.cli.main; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "rich"} & set(modules)
    assert "aluma_async.testing" not in modules


def commands(group):
    for command in group.commands.values():
        yield command
        yield from commands(command) if isinstance(command, click.Group) else ()


def test_every_command_and_option_has_a_help_text():
    """In the list of commands, click cuts a summary off after 45 characters."""
    for command in (program, *commands(program)):
        assert command.help
        assert len(command.help.splitlines()[0]) <= 45
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, f"{command.name} {option.opts}"


@pytest.mark.parametrize("arguments", [[], ["simulate"], ["completion"], ["config", "show"]])
def test_help_fits_into_80_columns(run_cli, arguments):
    lines = run_cli(*arguments, "--help", COLUMNS="80").stdout.splitlines()
    assert max(map(len, lines)) <= 80


def test_completion_help_has_one_example_per_line(run_cli):
    lines = [line.strip() for line in run_cli("completion", "--help", COLUMNS="80").stdout.splitlines()]
    assert "aluma-async completion powershell >> $PROFILE" in lines
    assert "aluma-async completion fish > ~/.config/fish/completions/aluma-async.fish" in lines


def test_group_without_a_command_shows_its_help(run_cli):
    done = run_cli("config")
    assert "show" in done.stdout + done.stderr


def test_simulate_offers_the_profiles_of_the_simulator(aluma_with_50_tasks):
    assert get_args(Profile) == PROFILES
    assert list(FAULTS) == [*Fault, *WrongReply]
    assert "length" in FRAMINGS


def test_simulate_prints_all_settings_that_a_command_needs(run_cli, aluma_with_50_tasks):
    """After its lines have been pasted into a shell, each command works without further options."""
    settings = dict(re.findall(r"^  export (\w+)=(\S+)$", aluma_with_50_tasks.output, re.MULTILINE))
    assert settings["ALUMA_CLIENT_SECRET"] == SimulatedAluma.client_secret
    done = run_cli("list", **settings)
    assert (done.returncode, done.stderr) == (0, "50 tasks pending\n")


# -- errors: one or two lines and an exit code


def test_refused_credentials_exit_with_77(run_cli, aluma_with_50_tasks):
    done = run_cli("--once", "-o", "out", "--base-url", aluma_with_50_tasks.base_url, secret=CANARY)
    expect_error(done, 77, "refused", "ALUMA_CLIENT_SECRET")


def test_missing_credentials_exit_with_78(run_cli, aluma_with_50_tasks):
    done = run_cli("--once", "-o", "out", "--base-url", aluma_with_50_tasks.base_url, secret="")
    expect_error(done, 78, "client secret", "client_secret_file", "systemd")


def test_unreachable_api_exits_with_69(run_cli):
    expect_error(run_cli("--once", "-o", "out", "--base-url", "http://127.0.0.1:9"), 69, "no connection", "base_url")


def test_unusable_output_folder_exits_with_69(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "out").touch()
    expect_error(run_cli("--once", "-o", "out", "--base-url", aluma_with_50_tasks.base_url), 69, "out", "writable")


def test_missing_destination_exits_with_78(run_cli, aluma_with_50_tasks):
    expect_error(run_cli("--once", "--base-url", aluma_with_50_tasks.base_url), 78, "no destination", "-o DIR")


def test_unknown_config_key_exits_with_78_and_the_nearest_key(run_cli, tmp_path):
    (tmp_path / "c.toml").write_text("[exporter]\nworkrs = 3")
    expect_error(run_cli("-c", "c.toml", "--once"), 78, "c.toml", "'workrs'", "'workers'")


def test_missing_config_file_exits_with_78(run_cli):
    expect_error(run_cli("--once", ALUMA_ASYNC_CONFIG="missing.toml"), 78, "missing.toml")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-w", "0"], "--workers"),
        (["chek"], "check"),
        (["--nonsense"], "--nonsense"),
        (["-w", "3", "demo"], "after its name"),
        (["--task", "t", "list"], "--task has no effect on list"),
        (["--dry-run", "retry", "t"], "--dry-run has no effect on retry"),
        (["--processes", "2", "status"], "--processes has no effect on status"),
        (["simulate", "--fault", "drop-aftr=0.1"], "drop-after"),
        (["simulate", "--fault", "drop-after"], "drop-after=0.01"),
        (["list", "--older-than", "soon"], "30min"),
        (["history", "--since", "tomorrow"], "30min"),
    ],
)
def test_usage_error_exits_with_2_and_names_the_remedy(run_cli, arguments, part):
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert part in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["-w", "0"],
        ["--log-format", "xml"],
        ["chek"],
        ["retry"],
        ["cancel"],
        ["completion"],
        ["completion", "tcsh"],
        ["--nonsense"],
    ],
)
def test_usage_error_has_two_lines_like_every_error(run_cli, arguments):
    expect_error(run_cli(*arguments), 2, "aluma-async: ", "--help'.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "--base-url", "x"],
        ["retry", "--project", "x"],
        ["history", "--output", "x"],
        ["cancel", "-o", "x"],
    ],
)
def test_command_refuses_options_without_effect(run_cli, arguments):
    expect_error(run_cli(*arguments), 2, f"No such option '{arguments[1]}'")


def test_error_without_a_hint_gets_a_general_one(run_cli):
    with simulator("--tasks", "1", "--fault", "error-before=1") as aluma:
        expect_error(run_cli("list", "--base-url", aluma.base_url), 69, "answered 503", "aluma-async check")


def test_simulate_reports_a_port_in_use(run_cli, aluma_with_50_tasks):
    done = run_cli("simulate", "--port", aluma_with_50_tasks.base_url.rpartition(":")[2])
    assert done.returncode == 2
    assert "--port" in done.stderr


# -- list


def test_list_prints_tasks_to_stdout_and_their_number_to_stderr(run_cli, aluma_with_50_tasks):
    done = run_cli("list", "--base-url", aluma_with_50_tasks.base_url)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 50
    assert "50 tasks pending" in done.stderr
    assert "ACME Medical Records" in done.stdout


def test_list_json_is_one_array(run_cli, aluma_with_50_tasks):
    rows = json.loads(run_cli("--base-url", aluma_with_50_tasks.base_url, "list", "--json").stdout)
    assert len(rows) == 50
    assert set(rows[0]) == {"id", "project_id", "project_name", "name", "created_at", "age_seconds"}
    empty = run_cli("list", "--json", "--base-url", aluma_with_50_tasks.base_url, "--project", "Nobody")
    assert json.loads(empty.stdout) == []


def test_list_sorts_and_filters(run_cli, aluma_with_50_tasks):
    def rows(*options):
        return json.loads(run_cli("list", "--json", *options, "--base-url", aluma_with_50_tasks.base_url).stdout)

    by_project = [(row["project_name"].casefold(), row["name"].casefold()) for row in rows("--sort", "project")]
    assert (len(by_project), by_project) == (50, sorted(by_project))
    by_name = [row["name"].casefold() for row in rows("--sort", "name")]
    assert (len(by_name), by_name) == (50, sorted(by_name))
    median = sorted(row["age_seconds"] for row in rows())[25]
    older = rows("--older-than", f"{median}s")
    assert 0 < len(older) < 50
    assert all(row["age_seconds"] >= median for row in older)


def test_list_ends_quietly_when_its_reader_is_gone(tmp_path):
    with simulator("--tasks", "20000") as aluma:
        env = environment(tmp_path, SimulatedAluma.client_secret, {})
        with start_program("list", "--base-url", aluma.base_url, env=env) as process:
            assert process.stdout.readline()
            process.stdout.close()
            assert process.wait(MAX_SECONDS) == 0
            assert process.stderr.read() == ""


def test_list_fits_into_the_terminal(tmp_path, aluma_with_50_tasks):
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 72, 0, 0))
    variables = {"ALUMA_ASYNC_BASE_URL": aluma_with_50_tasks.base_url}
    env = environment(tmp_path, SimulatedAluma.client_secret, variables)
    output = b""
    with subprocess.Popen([*PROGRAM, "list"], stdout=terminal, stderr=subprocess.PIPE, env=env) as process:
        os.close(terminal)
        with suppress(OSError):  # raised at the end of the terminal's output
            while piece := os.read(reader, 65536):
                output += piece
        assert process.wait(MAX_SECONDS) == 0
    os.close(reader)
    lines = output.decode().splitlines()
    assert len(lines) == 50
    assert max(map(len, lines)) <= 72


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


def test_list_destinations_names_those_that_may_receive_files(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "config.toml").write_text(ROUTES)
    options = ["--destinations", "--base-url", aluma_with_50_tasks.base_url]
    rows = json.loads(run_cli("list", "--json", *options).stdout)
    destinations = {row["project_name"]: row["destinations"] for row in rows}
    assert destinations.pop("ACME Medical Records") == ["archive", "ledger"]
    assert not any(destinations.values())
    assert " -> archive, ledger" in run_cli("list", *options).stdout


# -- check


def test_check_tests_three_layers_and_claims_nothing(run_cli, tmp_path, aluma_with_50_tasks):
    done = run_cli("check", "-o", "out", "--base-url", aluma_with_50_tasks.base_url)
    assert done.returncode == 0, done.stdout
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "ok    config",
        *["ok    wiring"] * 4,
        *["ok    environment"] * 4,
    ]
    assert (tmp_path / "out").is_dir()


def test_check_accepts_and_checks_the_options_of_a_run(run_cli):
    """A command line is checked by putting ``check`` in front of its options."""
    options = ("-o", "out", "--workers", "4", "--once", "--limit", "3", "--listen", "9464", "--no-progress", "-q")
    assert run_cli("check", "--config-only", *options).returncode == 0
    expect_error(run_cli("check", "--config-only", "-o", "out", "--workers", "0"), 2, "--workers")
    done = run_cli("check", "--config-only", "-o", "out", "--listen", "nowhere:x")
    assert (done.returncode, "listen" in done.stdout) == (78, True)


def test_check_config_only_neither_connects_nor_writes(run_cli, tmp_path):
    done = run_cli("check", "--config-only", "-o", "out", "--base-url", "http://127.0.0.1:9", secret="")
    assert done.returncode == 0, done.stdout
    assert not list(tmp_path.iterdir())
    done = run_cli("check", "--config-only")
    assert (done.returncode, "FAIL  wiring: routes: no destination" in done.stdout) == (78, True)


def test_check_reports_all_failures_and_exits_with_the_first(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "out").touch()
    done = run_cli("-o", "out", "check", "--base-url", aluma_with_50_tasks.base_url, secret=CANARY)
    assert done.returncode == 77
    assert [line[:4] for line in done.stdout.splitlines() if not line.startswith(" ")] == ["ok  "] * 7 + ["FAIL"] * 2
    (tmp_path / "config.toml").write_text("[exporter]\nworkrs = 3")
    done = run_cli("check")
    assert (done.returncode, "'workers'" in done.stdout) == (78, True)


def test_check_prints_routes_and_probes_every_destination(run_cli, tmp_path, aluma_with_50_tasks):
    (tmp_path / "config.toml").write_text(ROUTES)
    done = run_cli("check", "--base-url", aluma_with_50_tasks.base_url)
    assert done.returncode == 0, done.stdout
    assert "project 'ACME Medical Records' -> archive, ledger" in done.stdout
    assert "all others -> nowhere" in done.stdout
    assert (tmp_path / "archive").is_dir()
    assert (tmp_path / "ledger").is_dir()


def test_unknown_variable_of_the_program_is_a_warning(run_cli):
    """A misspelt variable would otherwise be ignored without a word; those of a sub-command are known."""
    variables = {"ALUMA_ASYNC_WORKER": "4", "ALUMA_ASYNC_LIST_SORT": "age", "ALUMA_ASYNC_EVENT": "x"}
    done = run_cli("check", "--config-only", "-o", "out", **variables)
    (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warn") and "ALUMA_ASYNC" in line]
    assert "ALUMA_ASYNC_WORKER has no effect; the nearest is ALUMA_ASYNC_WORKERS" in warning
