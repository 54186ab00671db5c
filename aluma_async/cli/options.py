"""The command line's options, and how they become a ``Config``: option > environment > config file > default."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from aluma_async.config import Config

Command = TypeVar("Command", bound=Callable[..., Any])


class CommaSeparated(click.types.StringParamType):
    """A text; in an environment variable several are set apart by commas, as names have spaces."""

    envvar_list_splitter = ","


def _quiet_overrides_verbose(context: click.Context, _: click.Parameter, verbose: bool) -> bool:
    """Let --quiet go before a variable that says the opposite; options have been read before variables."""
    return verbose and not (
        context.params.get("quiet")
        and context.get_parameter_source("quiet") is ParameterSource.COMMANDLINE
        and context.get_parameter_source("verbose") is ParameterSource.ENVIRONMENT
    )


_SHARED = (
    click.option("-c", "--config", type=click.Path(), metavar="FILE", help="Config file (TOML)."),
    click.option("-o", "--output", type=click.Path(), metavar="DIR", help="Export into this folder."),
    click.option("--base-url", metavar="URL", help="The API.  [default: https://api.aluma.io]"),
    click.option("--allow-insecure", is_flag=True, help="Allow http to a host that is not this one."),
    click.option(
        "--project", type=CommaSeparated(), multiple=True, metavar="ID_OR_NAME", help="Only this one; repeatable."
    ),
    click.option("--log-format", type=click.Choice(["text", "json"]), help="Of what goes to stderr.  [default: text]"),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        callback=_quiet_overrides_verbose,
        help="Log everything, names of tasks and files included.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors only."),
)
_STATE = click.option("--state", type=click.Path(), metavar="DIR", help="The folder of journal and quarantine.")
_RUN = (
    click.option("-w", "--workers", type=click.IntRange(1), metavar="N", help="Tasks at once.  [default: 16]"),
    click.option("--once", is_flag=True, help="Export what is waiting, then exit."),
    click.option("--max-at-once", type=click.IntRange(0), metavar="N", help="Requests at once, of all workers."),
    click.option("--max-per-second", type=click.FloatRange(0), metavar="X", help="Requests a second, of all workers."),
    click.option("--max-bytes-per-second", type=click.FloatRange(0), metavar="X", help="Bytes downloaded a second."),
    click.option(
        "--claim-timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="How long Aluma waits for Complete.  [default: 1800]",
    ),
    click.option(
        "--drain-timeout",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="How long claimed tasks may go on after the first signal.  [default: 60]",
    ),
    _STATE,
    click.option("--listen", metavar="HOST:PORT", help="Serve /metrics, /healthz and /readyz."),
    click.option("--progress/--no-progress", default=None, help="Live on a terminal, a line now and then elsewhere."),
)

_KEYS: Mapping[str, tuple[str, str]] = {
    "base_url": ("aluma", "base_url"),
    "allow_insecure": ("aluma", "allow_insecure"),
    "project": ("aluma", "projects"),
    "claim_timeout": ("aluma", "claim_timeout_seconds"),
    "workers": ("exporter", "workers"),
    "drain_timeout": ("exporter", "drain_timeout_seconds"),
    "state": ("exporter", "state"),
    "max_at_once": ("limits", "max_at_once"),
    "max_per_second": ("limits", "max_per_second"),
    "max_bytes_per_second": ("limits", "max_bytes_per_second"),
    "log_format": ("service", "log_format"),
    "listen": ("service", "listen"),
}
"""Option -> table and key that it stands for."""


def shared_options(command: Command) -> Command:
    """Add what both the run and its sub-commands understand."""
    return _add(_SHARED, command)


def run_options(command: Command) -> Command:
    """Add what only the run understands."""
    return _add(_RUN, command)


def state_option(command: Command) -> Command:
    """Add what those understand that look into the state folder."""
    return _STATE(command)


def merge_options(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Put the options behind a sub-command's name over those before it."""
    return {**outer, **{name: value for name, value in inner.items() if _is_set(value)}}


def load_config(options: Mapping[str, Any]) -> Config:
    """Make the configuration. Raises ``ConfigError``."""
    return Config.load(options.get("config"), overrides_of(options))


def overrides_of(options: Mapping[str, Any]) -> Mapping[str, Mapping[str, object]]:
    """Put options into the tables of the config file that they stand for."""
    overrides: defaultdict[str, dict[str, object]] = defaultdict(dict)
    for name, (table, key) in _KEYS.items():
        if _is_set(options.get(name)):
            overrides[table][key] = options[name]
    if options.get("output"):
        overrides["destinations"]["default"] = {"type": "folder", "path": options["output"]}
    if options.get("verbose") or options.get("quiet"):
        overrides["service"]["log_level"] = "debug" if options["verbose"] else "warning"
    return overrides


def option_origins(context: click.Context) -> Mapping[tuple[str, str], str]:
    """Tell for each table and key whether an option or a variable of the environment gave it, and which."""
    keys = {**_KEYS, "verbose": ("service", "log_level"), "quiet": ("service", "log_level")}
    keys["output"] = ("destinations", "")
    found: dict[tuple[str, str], str] = {}
    level: click.Context | None = context
    while level:
        for option in level.command.params:
            name = option.name or ""
            if name in keys and keys[name] not in found and _is_set(level.params.get(name)):
                by_variable = level.get_parameter_source(name) is ParameterSource.ENVIRONMENT
                variable = f"environment {level.auto_envvar_prefix}_{name.upper()}"
                found[keys[name]] = variable if by_variable else f"option {option.opts[-1]}"
        level = level.parent
    return found


def _is_set(value: object) -> bool:
    return value is not None and value is not False and value != ()


def _add(options: tuple[Callable[[Command], Command], ...], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
