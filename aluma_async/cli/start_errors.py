"""Prints an error that ends a command, as text or, where the logs are JSON, as one JSON object."""

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from aluma_async.config.config import read_config_file
from aluma_async.exceptions import ConfigError
from aluma_async.service import journald
from aluma_async.service.logs import Log

_LOGGING = (None, "redeliver", "fail")
"""Commands that log; None is the run itself."""


def print_error(kind: str, message: str, hint: str, options: Mapping[str, Any], mistakes: Sequence[str] = ()) -> None:
    """Print an error to stderr.

    Args:
        kind: The name of its class.
        message: What is wrong.
        hint: What the operator can do; may be empty.
        options: Options of the command line, as far as they were read.
        mistakes: The mistakes of the configuration, if there are several.
    """
    if not _is_json(options):
        text = "\n".join(filter(None, (f"aluma-async: {message}", hint)))
        click.echo(journald.with_priority(text, "error"), err=True)
        return
    log = Log(sys.stderr.write, format="json", journald=journald.is_journal(2))
    fields: dict[str, object] = {"error": message, "error_type": kind}
    if mistakes:
        fields |= {"mistakes": mistakes, "hint": "Correct all of them."}
    elif hint:
        fields["hint"] = hint
    log.write("error", "StartFailed", message, **fields)


def _is_json(options: Mapping[str, Any]) -> bool:
    given = options.get("log_format") or _argument(sys.argv[1:]) or os.environ.get("ALUMA_ASYNC_LOG_FORMAT")
    if given:
        return given == "json"
    if options.get("command") not in _LOGGING:
        return False
    with suppress(ConfigError, tomllib.TOMLDecodeError, RecursionError):
        service = tomllib.loads(read_config_file(options.get("config"))[0]).get("service")
        return isinstance(service, dict) and service.get("log_format") == "json"
    return False


def _argument(arguments: Sequence[str]) -> str:
    """Return the value of ``--log-format``, also of a command line that could not be read."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, value = argument.partition("=")
        if name == "--log-format":
            return value or following
    return ""
