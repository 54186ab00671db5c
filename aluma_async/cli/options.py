"""Command-line options, and how they become a ``Config``: option > environment > config file > default."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from aluma_async.config import Config
from aluma_async.config.config import Reading, read_config_file, read_toml
from aluma_async.config.paths import find_config_file
from aluma_async.config.sections import MAX_PROCESSES, MAX_WORKERS
from aluma_async.service.color import Color
from aluma_async.service.formatting import pluralize

Command = TypeVar("Command", bound=Callable[..., Any])


class CommaSeparated(click.types.StringParamType):
    """A text. In an environment variable several are separated by commas, because names may contain spaces."""

    envvar_list_splitter = ","


def _set_verbose(context: click.Context, _: click.Parameter, verbose: bool) -> bool:
    """Resolve ``--verbose``, and pass it to ``main``, which prints the traceback of an unexpected error."""
    verbose = verbose and not _quiet_overrides_verbose(context)
    if verbose and context.obj is not None:  # it is None while a shell completes a word
        context.obj["verbose"] = True
    return verbose


def _quiet_overrides_verbose(context: click.Context) -> bool:
    """Return whether ``-q`` and ``ALUMA_ASYNC_VERBOSE`` are given; click has read options before variables."""
    return bool(
        context.params.get("quiet")
        and context.get_parameter_source("quiet") is ParameterSource.COMMANDLINE
        and context.get_parameter_source("verbose") is ParameterSource.ENVIRONMENT
    )


_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "config": click.option(
        "-c",
        "--config",
        type=click.Path(),
        metavar="FILE",
        help="Configuration file (TOML).  [default: ./config.toml, else a standard location]",
    ),
    "output": click.option(
        "-o",
        "--output",
        type=click.Path(),
        metavar="DIR",
        help="Folder for the files, instead of the configured destinations and routes.",
    ),
    "base_url": click.option(
        "--base-url", metavar="URL", help="Address of the Aluma API.  [default: https://api.aluma.io]"
    ),
    "allow_insecure": click.option("--allow-insecure", is_flag=True, help="Unencrypted http to other hosts, too."),
    "project": click.option(
        "--project",
        type=CommaSeparated(),
        multiple=True,
        metavar="ID_OR_NAME",
        help="Project to export; repeatable.  [default: all]",
    ),
    "workers": click.option(
        "-w",
        "--workers",
        type=click.IntRange(1, MAX_WORKERS),
        metavar="N",
        help="Number of tasks exported at once, at most 1,000.  [default: 16]",
    ),
    "processes": click.option(
        "--processes",
        type=click.IntRange(1, MAX_PROCESSES),
        metavar="N",
        help="Number of processes that share the tasks, at most 64; each has all workers.  [default: 1]",
    ),
    "once": click.option("--once", is_flag=True, help="One run over all pending tasks, then exit."),
    "dry_run": click.option("--dry-run", is_flag=True, help="Print which task would go where; claim nothing."),
    "limit": click.option(
        "--limit", type=click.IntRange(1), metavar="N", help="Export at most N tasks, then exit.  [default: no limit]"
    ),
    "task": click.option(
        "--task",
        type=CommaSeparated(),
        multiple=True,
        metavar="ID",
        help="Export only this pending task, then exit; repeatable.",
    ),
    "max_at_once": click.option(
        "--max-at-once",
        type=click.IntRange(0),
        metavar="N",
        help="Maximum number of requests in flight.  [default: twice the workers]",
    ),
    "max_per_second": click.option(
        "--max-per-second",
        type=click.FloatRange(0),
        metavar="X",
        help="Maximum number of requests started per second.  [default: no limit]",
    ),
    "max_bytes_per_second": click.option(
        "--max-bytes-per-second",
        type=click.FloatRange(0),
        metavar="X",
        help="Maximum number of bytes downloaded per second.  [default: no limit]",
    ),
    "claim_timeout": click.option(
        "--claim-timeout",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Lease of a claim: how long Aluma waits for Complete.  [default: 1800]",
    ),
    "drain_timeout": click.option(
        "--drain-timeout",
        type=click.FloatRange(0),
        metavar="SECONDS",
        help="Time to finish claimed tasks after the first stop signal.  [default: 60]",
    ),
    "state": click.option(
        "--state",
        type=click.Path(),
        metavar="DIR",
        help="Folder of the journal and the quarantine.  [default: $STATE_DIRECTORY, else the user's state folder]",
    ),
    "listen": click.option(
        "--listen",
        metavar="HOST:PORT",
        help="Address of /metrics, /healthz and /readyz; a port alone: on loopback.  [default: off]",
    ),
    "progress": click.option(
        "--progress/--no-progress",
        default=None,
        help="Progress on stderr: live on a terminal, otherwise a line at intervals.  [default: on]",
    ),
    "color": click.option(
        "--color",
        type=click.Choice(get_args(Color)),
        help="Colours of the live view and of help pages.  [default: auto]",
    ),
    "log_format": click.option(
        "--log-format", type=click.Choice(["text", "json"]), help="Format of logs on stderr.  [default: text]"
    ),
    "verbose": click.option(
        "-v",
        "--verbose",
        is_flag=True,
        callback=_set_verbose,
        help="All log messages, with task and file names.",
    ),
    "traceback": click.option(
        "-v", "--verbose", is_flag=True, callback=_set_verbose, help="Traceback of an unexpected error."
    ),
    "quiet": click.option("-q", "--quiet", is_flag=True, help="Only warnings and errors."),
}

RUN = tuple(name for name in _OPTIONS if name != "traceback")
"""Options of a run."""
SELECTION = ("dry_run", "limit", "task")
"""Those options of a run that restrict what it exports."""
SETTINGS = tuple(name for name in RUN if name not in ("once", "progress", "color", *SELECTION))
"""Those options of a run that stand for keys of the config file."""
API = ("config", "base_url", "allow_insecure")
"""Options of a command that sends requests to Aluma."""

_KEYS: Mapping[str, tuple[str, str]] = {
    "base_url": ("aluma", "base_url"),
    "allow_insecure": ("aluma", "allow_insecure"),
    "project": ("aluma", "projects"),
    "claim_timeout": ("aluma", "claim_timeout_seconds"),
    "workers": ("exporter", "workers"),
    "processes": ("exporter", "processes"),
    "drain_timeout": ("exporter", "drain_timeout_seconds"),
    "state": ("exporter", "state"),
    "max_at_once": ("limits", "max_at_once"),
    "max_per_second": ("limits", "max_per_second"),
    "max_bytes_per_second": ("limits", "max_bytes_per_second"),
    "log_format": ("service", "log_format"),
    "listen": ("service", "listen"),
}
"""Option -> section and key that it overrides."""


def add_options(*names: str) -> Callable[[Command], Command]:
    """Add options to a command, in this order."""

    def decorate(command: Command) -> Command:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return decorate


def merge_options(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options given before a sub-command's name, overridden by those given after it."""
    return {**outer, **{name: value for name, value in inner.items() if _is_set(value)}}


def load_config(options: Mapping[str, Any]) -> Config:
    """Read the configuration and apply the options. Raises ``ConfigError``."""
    return Config.load(options.get("config"), overrides_of(options))


def read_configuration(options: Mapping[str, Any]) -> Reading:
    """Read the configuration and apply the options, as far as possible. Raises ``ConfigError`` if there is no file."""
    text, file = read_config_file(options.get("config"))
    return read_toml(text, file, overrides_of(options), Path(file).parent)


def config_file(options: Mapping[str, Any]) -> Path | None:
    """Return the file that ``load_config`` reads; None if there is none."""
    named = options.get("config")
    return Path(named) if named else find_config_file(os.environ)


def overrides_of(options: Mapping[str, Any]) -> Mapping[str, Mapping[str, object]]:
    """Return the options as sections of the config file."""
    overrides: defaultdict[str, dict[str, object]] = defaultdict(dict)
    for name, (section, key) in _KEYS.items():
        if _is_set(options.get(name)):
            overrides[section][key] = options[name]
    if options.get("output"):
        overrides["destinations"]["default"] = {"type": "folder", "path": options["output"]}
    if options.get("verbose") or options.get("quiet"):
        overrides["service"]["log_level"] = "debug" if options["verbose"] else "warning"
    return overrides


def replaced_destinations(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning if ``--output`` replaces destinations of the configuration file."""
    if not options.get("output"):
        return
    reading = read_configuration({"config": options.get("config")})
    config = reading.config
    if config.destinations or reading.unreadable:
        names = ", ".join([*config.destinations, *reading.unreadable])
        routes = f" and its {pluralize(len(config.routes), 'route')}" if config.routes else ""
        yield f"--output replaces the destinations of {config_file(options)}: {names}{routes}"


def option_origins(context: click.Context) -> Mapping[tuple[str, str], str]:
    """Return, for each section and key that an option or its environment variable sets, the name of that source."""
    keys = {**_KEYS, "verbose": ("service", "log_level"), "quiet": ("service", "log_level")}
    keys["output"] = ("destinations", "")
    origins: dict[tuple[str, str], str] = {}
    level: click.Context | None = context
    while level:
        for option in level.command.params:
            name = option.name or ""
            if name in keys and keys[name] not in origins and _is_set(level.params.get(name)):
                from_environment = level.get_parameter_source(name) is ParameterSource.ENVIRONMENT
                variable = f"environment {level.auto_envvar_prefix}_{name.upper()}"
                origins[keys[name]] = variable if from_environment else f"option {option.opts[-1]}"
        level = level.parent
    return origins


def _is_set(value: object) -> bool:
    return value is not None and value is not False and value != ()
