"""``config show``: prints each value in effect and its origin, without secrets."""

import os
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct, structs

from aluma_async.cli.exit_codes import MISCONFIGURED, OK
from aluma_async.cli.options import SETTINGS, add_options, merge_options, option_origins, read_configuration
from aluma_async.cli.output import print_json
from aluma_async.config import Config
from aluma_async.config.config import Reading
from aluma_async.config.credentials import systemd_secret
from aluma_async.config.destinations import PluginConfig
from aluma_async.config.lines import KeyPath
from aluma_async.config.paths import systemd_folder
from aluma_async.config.redaction import REDACTED, redact
from aluma_async.exceptions import ConfigError
from aluma_async.service.formatting import sanitize

_DEFAULT = "default"


class ConfigValue(Struct, frozen=True):
    """A value in effect."""

    table: str
    """The section; in JSON output this key is called ``table``."""
    key: str
    value: object
    origin: str
    """The option, environment variable or file that set it, or "default"."""


@click.group("config")
def config_group() -> None:
    """Show the configuration."""


@config_group.command("show")
@click.option("--json", "as_json", is_flag=True, help="JSON output: an object.")
@add_options(*SETTINGS)
@click.pass_context
def show(context: click.Context, /, *, as_json: bool, **inner: Any) -> int:
    """Show each value in effect and its origin.

    The output is a valid configuration file. Secrets are hidden. If the file has mistakes, prints them and what could
    be read; the exit code is 78.
    """
    options = merge_options(context.obj, inner)
    reading = read_configuration(options)
    file, mistakes = reading.mistakes.file, [error.text for error in reading.mistakes.found]
    values = list(_config_values(reading, option_origins(context)))
    for mistake in mistakes:
        click.echo(sanitize(mistake), err=True)
    if as_json:
        shown = [{**structs.asdict(one), "value": _plain(one.value)} for one in values]
        print_json({"file": file, "mistakes": mistakes, "values": shown})
        return MISCONFIGURED if mistakes else OK
    for table, group in groupby(values, lambda value: value.table):
        click.echo("[[routes]]" if table.startswith("routes ") else f"[{table}]")
        for _, key, value, origin in map(structs.astuple, group):
            unset = value is None or value == REDACTED
            line = f"{'# ' if unset else ''}{key} = {'' if value is None else toml_value(value)}"
            click.echo(f"{line:<50} # {origin}")
        click.echo()
    return MISCONFIGURED if mistakes else OK


def _config_values(reading: Reading, origins: Mapping[tuple[str, str], str]) -> Iterator[ConfigValue]:
    config, file = reading.config, reading.mistakes.file
    raw = {name: _without_mistakes((name,), value, reading.mistakes.paths) for name, value in reading.raw.items()}
    for name, section in ((field.name, getattr(config, field.name)) for field in structs.fields(config)):
        if name == "destinations":
            for destination_name, destination in section.items():
                yield from _destination(destination_name, destination, raw, file, origins.get((name, "")))
        elif name == "routes":
            for number, route in enumerate(section):
                given_keys = raw["routes"][number] if len(section) == len(raw["routes"]) else structs.asdict(route)
                yield from _section(f"routes {number + 1}", route, given_keys, file, {})
        else:
            given = {key: origin for (table, key), origin in origins.items() if table == name}
            yield from _section(name, section, raw.get(name, {}), file, given, _computed_defaults(config))
            if name == "aluma":
                yield ConfigValue("aluma", "client_secret", REDACTED, secret_origin(config, os.environ))


def _without_mistakes(path: KeyPath, value: Any, mistakes: Collection[KeyPath]) -> Any:
    """Return a section of a file without the keys that could not be used."""
    if len(path) == 1 and path != ("destinations",) and not isinstance(value, dict | list):
        return {}
    if not isinstance(value, dict):
        return value
    return {
        key: _without_mistakes((*path, key), inner, mistakes)
        for key, inner in value.items()
        if (*path, key) not in mistakes
    }


def _destination(
    name: str, destination: Struct, raw: Mapping[str, Any], file: str, output_origin: str | None
) -> Iterator[ConfigValue]:
    """Yield the values of a destination; ``output_origin`` names the source of ``--output``, if that is set."""
    table = f"destinations.{name}"
    keys = {"type": "folder"} if output_origin else raw["destinations"][name]
    yield ConfigValue(table, "type", keys["type"], output_origin or file)
    if isinstance(destination, PluginConfig):  # its other keys and defaults are known only to the plug-in
        yield from (ConfigValue(table, key, redact(key, value), file) for key, value in destination.keys.items())
    else:
        yield from _section(table, destination, keys, file, {"path": output_origin} if output_origin else {})


def _section(
    table: str,
    section: Struct,
    raw: Mapping[str, Any],
    file: str,
    given: Mapping[str, str],
    computed_defaults: Mapping[tuple[str, str], tuple[object, str]] = {},
) -> Iterator[ConfigValue]:
    for field in structs.fields(section):
        key, value = field.name, getattr(section, field.name)
        origin = given.get(key) or (file if key in raw else _DEFAULT)
        if not value and (table, key) in computed_defaults:
            value, origin = computed_defaults[table, key]
        yield ConfigValue(table, key, redact(key, value), origin)


def _computed_defaults(config: Config) -> Mapping[tuple[str, str], tuple[object, str]]:
    """Return value and origin of each key whose default depends on other keys or on the environment."""
    systemd = systemd_folder(os.environ, "STATE_DIRECTORY")
    environ_id = os.environ.get("ALUMA_CLIENT_ID", "").strip()
    return {
        ("aluma", "client_id"): (environ_id, "environment ALUMA_CLIENT_ID" if environ_id else _DEFAULT),
        ("exporter", "queue_size"): (config.queue_size, f"{_DEFAULT}: twice the workers"),
        ("exporter", "state"): (
            _state_folder(config),
            "environment STATE_DIRECTORY" if systemd else f"{_DEFAULT}: the user's state folder",
        ),
        ("limits", "max_at_once"): (config.max_at_once, f"{_DEFAULT}: twice the workers"),
    }


def _state_folder(config: Config) -> Path | None:
    try:
        return config.state_folder()
    except ConfigError:  # the home folder is not known
        return None


def secret_origin(config: Config, environ: Mapping[str, str]) -> str:
    """Return where the client secret would be read from, without reading it."""
    if environ.get("ALUMA_CLIENT_SECRET", "").strip():
        return "environment ALUMA_CLIENT_SECRET"
    if systemd_secret(environ):
        return "systemd credential aluma-client-secret"
    if config.aluma.client_secret_file:
        return "the file client_secret_file"
    return "not set"


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def toml_value(value: object) -> str:
    """Return a value as it is written in a TOML file, on one line."""
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{toml_value(str(key))} = {toml_value(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return msgspec.json.encode(_plain(value)).decode()
