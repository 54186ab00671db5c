"""The settings of a run: option > environment variable > config file > default."""

import json
import subprocess
import sys

import pytest

from tests.support.processes import MAX_SECONDS, environment, expect_error

OPTIONS = {
    # option: (section, key, in the file, in the environment, on the command line, value in effect)
    "workers": ("exporter", "workers", "3", "4", "5", 5),
    "processes": ("exporter", "processes", "2", "3", "1", 1),
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
BROKEN_COMMAND = """
import click
from aluma_async.cli.main import cli, main
from aluma_async.cli.options import add_options

@cli.command()
@add_options("traceback")
def broken(verbose):
    raise ZeroDivisionError

main()
"""


@pytest.fixture
def effective(run_cli):
    """Return value and origin of each setting, by section and key."""

    def run(*arguments, **environ):
        done = run_cli(*arguments, "config", "show", "--json", **environ)
        assert done.returncode == 0, done.stderr
        values = json.loads(done.stdout)["values"]
        return {(value["table"], value["key"]): (value["value"], value["origin"]) for value in values}

    return run


def test_option_overrides_variable_overrides_file_overrides_default(effective, tmp_path):
    """All options at once, one source after the other."""
    assert all(origin != "config.toml" for _, origin in effective().values())
    sections = {}
    for section, key, in_file, *_ in OPTIONS.values():
        sections.setdefault(section, []).append(f"{key} = {in_file}")
    text = "\n".join(line for section, lines in sections.items() for line in (f"[{section}]", *lines))
    (tmp_path / "config.toml").write_text(text)
    values = effective()
    assert {values[section, key][1] for section, key, *_ in OPTIONS.values()} == {"config.toml"}
    environ = {f"ALUMA_ASYNC_{name.upper().replace('-', '_')}": row[3] for name, row in OPTIONS.items()}
    values = effective(**environ)
    for variable, (section, key, *_) in zip(environ, OPTIONS.values(), strict=True):
        assert values[section, key][1] == f"environment {variable}"
    assert values["aluma", "projects"][0] == ["B", "B b"]
    arguments = [word for name, row in OPTIONS.items() for word in (f"--{name}", row[4])]
    values = effective(*arguments, **environ)
    for name, (section, key, *_, given, value) in OPTIONS.items():
        assert values[section, key] == (given if value is ... else value, f"option --{name}")


def test_commands_use_option_then_variable_then_file(run_cli, tmp_path, aluma_with_50_tasks):
    url = aluma_with_50_tasks.base_url
    (tmp_path / "config.toml").write_text('[aluma]\nbase_url = "http://127.0.0.1:9"\nprojects = ["Nobody"]')
    done = run_cli("list", ALUMA_ASYNC_BASE_URL=url)
    assert (done.returncode, done.stdout) == (0, "")
    done = run_cli("list", "--project", "ACME Medical Records", ALUMA_ASYNC_BASE_URL=url)
    assert len(done.stdout.splitlines()) == 13
    done = run_cli("list", ALUMA_ASYNC_BASE_URL=url, ALUMA_ASYNC_PROJECT="HR Onboarding,ACME Medical Records")
    assert len(done.stdout.splitlines()) == 25
    done = run_cli("--base-url", url, "list", ALUMA_ASYNC_BASE_URL="http://127.0.0.1:9")
    assert done.returncode == 0


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
def test_verbose_and_quiet_set_the_log_level(effective, arguments, environ, level):
    assert effective(*arguments, **environ)["service", "log_level"][0] == level


@pytest.mark.parametrize("arguments", [["broken"], ["broken", "-v"], ["-v", "broken"]])
def test_verbose_prints_the_traceback_of_an_unexpected_error(arguments, tmp_path):
    """Before a command's name and after it. Otherwise the error has one line."""
    command = [sys.executable, "-c", BROKEN_COMMAND, *arguments]
    env = environment(tmp_path, "", {})
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert done.returncode == 1
    assert "aluma-async: unexpected ZeroDivisionError; use -v" in done.stderr
    assert ("Traceback" in done.stderr) == ("-v" in arguments)


def test_output_and_allow_insecure_have_variables(effective):
    values = effective(
        ALUMA_ASYNC_OUTPUT="there", ALUMA_ASYNC_ALLOW_INSECURE="1", ALUMA_ASYNC_BASE_URL="http://a.example"
    )
    assert values["destinations.default", "path"] == ("there", "environment ALUMA_ASYNC_OUTPUT")
    assert values["aluma", "allow_insecure"] == (True, "environment ALUMA_ASYNC_ALLOW_INSECURE")


def test_config_file_is_searched_in_the_documented_order(effective, tmp_path):
    files = ["named.toml", "variable.toml", "config.toml", "systemd/config.toml", ".config/aluma-async/config.toml"]
    for workers, name in enumerate(files, 1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"[exporter]\nworkers = {workers}")
    environ = {"ALUMA_ASYNC_CONFIG": "variable.toml", "CONFIGURATION_DIRECTORY": str(tmp_path / "systemd")}

    def workers_in_effect(*arguments):
        return effective(*arguments, **environ)["exporter", "workers"][0]

    assert workers_in_effect("-c", "named.toml") == 1
    assert workers_in_effect() == 2
    del environ["ALUMA_ASYNC_CONFIG"]
    assert workers_in_effect() == 3
    (tmp_path / "config.toml").unlink()
    assert workers_in_effect() == 4
    del environ["CONFIGURATION_DIRECTORY"]
    assert workers_in_effect() == 5


def test_state_folder_is_that_of_systemd_or_the_user(effective, tmp_path):
    assert effective(STATE_DIRECTORY="/var/lib/x")["exporter", "state"] == (
        "/var/lib/x",
        "environment STATE_DIRECTORY",
    )
    value, origin = effective()["exporter", "state"]
    assert value.startswith(str(tmp_path))
    assert origin.startswith("default")


def test_plain_http_needs_loopback_or_allow_insecure(run_cli):
    done = run_cli("--once", "-o", "out", "--base-url", "http://aluma.example")
    expect_error(done, 78, "base_url", "unencrypted", "--allow-insecure")
    done = run_cli("check", "--config-only", "-o", "out", "--base-url", "http://aluma.example", "--allow-insecure")
    assert (done.returncode, "warn  config: [aluma] base_url" in done.stdout) == (0, True)
