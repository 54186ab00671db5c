"""The command line as it is promised: each option by option, variable and file, in that order; errors in two lines."""

import json

import click
import pytest

from aluma_async.cli.main import cli as program
from tests.support.processes import expect_error, simulator

OPTIONS = {
    # option: (table, key, in the file, in the environment, on the command line, as it is then)
    "workers": ("exporter", "workers", "3", "4", "5", 5),
    "base-url": ("aluma", "base_url", "'https://a.example'", "https://b.example", "https://c.example", ...),
    "project": ("aluma", "projects", "['A']", "B,B b", "C", ["C"]),
    "max-at-once": ("limits", "max_at_once", "3", "4", "5", 5),
    "max-per-second": ("limits", "max_per_second", "3.5", "4.5", "5.5", 5.5),
    "max-bytes-per-second": ("limits", "max_bytes_per_second", "3", "4", "5", 5),
    "claim-timeout": ("aluma", "claim_timeout_seconds", "300", "400", "500", 500),
    "drain-timeout": ("exporter", "drain_timeout_seconds", "3", "4", "5", 5),
    "state": ("exporter", "state", "'a'", "b", "c", ...),
    "listen": ("service", "listen", "'127.0.0.1:1'", "127.0.0.1:2", "127.0.0.1:3", ...),
    "log-format": ("service", "log_format", "'text'", "json", "text", ...),
}


@pytest.fixture
def effective(run_cli):
    def run(*arguments, **environ):
        done = run_cli(*arguments, "config", "show", "--json", **environ)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["values"]
        return {(one["table"], one["key"]): (one["value"], one["origin"]) for one in found}

    return run


def test_option_goes_before_variable_before_file_before_default(effective, tmp_path):
    """All options at once, one level after the other."""
    assert all(origin != "config.toml" for _, origin in effective().values())
    tables = {}
    for table, key, in_file, *_ in OPTIONS.values():
        tables.setdefault(table, []).append(f"{key} = {in_file}")
    text = "\n".join(line for table, lines in tables.items() for line in (f"[{table}]", *lines))
    (tmp_path / "config.toml").write_text(text)
    found = effective()
    assert {found[table, key][1] for table, key, *_ in OPTIONS.values()} == {"config.toml"}
    environ = {f"ALUMA_ASYNC_{name.upper().replace('-', '_')}": row[3] for name, row in OPTIONS.items()}
    found = effective(**environ)
    for variable, (table, key, *_) in zip(environ, OPTIONS.values(), strict=True):
        assert found[table, key][1] == f"environment {variable}"
    assert found["aluma", "projects"][0] == ["B", "B b"]
    arguments = [word for name, row in OPTIONS.items() for word in (f"--{name}", row[4])]
    found = effective(*arguments, **environ)
    for name, (table, key, *_, given, value) in OPTIONS.items():
        assert found[table, key] == (given if value is ... else value, f"option --{name}")


@pytest.mark.parametrize(
    ("arguments", "environ", "level"),
    [
        ([], {}, "info"),
        (["-v"], {}, "debug"),
        (["-q"], {}, "warning"),
        ([], {"ALUMA_ASYNC_VERBOSE": "1"}, "debug"),
        (["-q"], {"ALUMA_ASYNC_VERBOSE": "1"}, "warning"),
        (["-v"], {"ALUMA_ASYNC_QUIET": "1"}, "debug"),
    ],
)
def test_how_much_is_said(effective, arguments, environ, level):
    assert effective(*arguments, **environ)["service", "log_level"][0] == level


def test_output_and_allow_insecure_have_their_variables(effective):
    found = effective(
        ALUMA_ASYNC_OUTPUT="there", ALUMA_ASYNC_ALLOW_INSECURE="1", ALUMA_ASYNC_BASE_URL="http://a.example"
    )
    assert found["destinations.default", "path"] == ("there", "environment ALUMA_ASYNC_OUTPUT")
    assert found["aluma", "allow_insecure"] == (True, "environment ALUMA_ASYNC_ALLOW_INSECURE")


def test_where_the_config_file_is_looked_for(effective, tmp_path):
    """The one that is named, else the nearest."""
    places = {"named.toml": 1, "variable.toml": 2, "config.toml": 3, "systemd/config.toml": 4}
    places[".config/aluma-async/config.toml"] = 5
    for name, workers in places.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"[exporter]\nworkers = {workers}")
    environ = {"ALUMA_ASYNC_CONFIG": "variable.toml", "CONFIGURATION_DIRECTORY": str(tmp_path / "systemd")}

    def workers(*arguments):
        return effective(*arguments, **environ)["exporter", "workers"][0]

    assert workers("-c", "named.toml") == 1
    assert workers() == 2
    del environ["ALUMA_ASYNC_CONFIG"]
    assert workers() == 3
    (tmp_path / "config.toml").unlink()
    assert workers() == 4
    del environ["CONFIGURATION_DIRECTORY"]
    assert workers() == 5


def test_where_the_state_is_kept(effective, tmp_path):
    assert effective(STATE_DIRECTORY="/var/lib/x")["exporter", "state"] == (
        "/var/lib/x",
        "environment STATE_DIRECTORY",
    )
    value, origin = effective()["exporter", "state"]
    assert value.startswith(str(tmp_path))
    assert origin.startswith("default")


def test_plain_http_is_refused_but_on_this_machine_or_when_it_is_said(run_cli):
    done = run_cli("--once", "-o", "out", "--base-url", "http://aluma.example")
    expect_error(done, 78, "base_url", "unencrypted", "--allow-insecure")
    done = run_cli("check", "--config-only", "-o", "out", "--base-url", "http://aluma.example", "--allow-insecure")
    assert (done.returncode, "warn  config: [aluma] base_url" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [["-w", "0"], ["--log-format", "xml"], ["chek"], ["retry"], ["cancel"], ["completion", "tcsh"], ["--nonsense"]],
)
def test_wrong_usage_is_told_in_two_lines_as_every_error(run_cli, arguments):
    expect_error(run_cli(*arguments), 2, "aluma-async: ", "--help'.")


def test_an_error_that_brings_no_hint_gets_one(run_cli):
    with simulator("--tasks", "1", "--fault", "error-before=1") as aluma:
        expect_error(run_cli("list", "--base-url", aluma.base_url), 69, "Aluma answered 5", "aluma-async check")


def test_a_group_without_its_command_shows_its_help(run_cli):
    assert "show" in "".join(vars(run_cli("config"))[stream] for stream in ("stdout", "stderr"))


def commands(group):
    for command in group.commands.values():
        yield command
        yield from commands(command) if isinstance(command, click.Group) else ()


def test_every_command_and_every_option_says_what_it_does():
    everything = [program, *commands(program)]
    promised = {"demo", "check", "list", "status", "retry", "simulate", "systemd"}
    assert promised <= {command.name for command in everything}
    for command in everything:
        assert command.help
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, f"{command.name} {option.opts}"
