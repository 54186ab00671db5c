"""``config show``: the configuration as it is in effect, where each value came from, and no secret."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct, structs

from aluma_async.cli.exit_codes import OK
from aluma_async.cli.options import merge_options, option_origins, overrides_of, run_options, shared_options
from aluma_async.config import Config
from aluma_async.config.config import read_config_file
from aluma_async.config.destinations import PluginConfig
from aluma_async.config.paths import systemd_folder
from aluma_async.config.redaction import REDACTED, redact

_DEFAULT = "default"


class ConfigValue(Struct, frozen=True):
    """One value: the table it is in, and where it came from."""

    table: str
    key: str
    value: object
    origin: str


@click.group("config")
def config_group() -> None:
    """Look at the configuration."""


@config_group.command("show")
@click.option("--json", "as_json", is_flag=True, help="A JSON object.")
@run_options
@shared_options
@click.pass_context
def show(context: click.Context, /, *, as_json: bool, **inner: Any) -> int:
    """Show each value that is in effect, and where it came from; secrets are hidden.

    What is printed is a config file.
    """
    options = merge_options(context.obj, inner)
    text, file = read_config_file(options.get("config"))
    config = Config.from_toml(text, file, overrides_of(options))
    entries = list(_entries(config, tomllib.loads(text), file, option_origins(context)))
    if as_json:
        found = [{**structs.asdict(entry), "value": _plain(entry.value)} for entry in entries]
        click.echo(msgspec.json.format(msgspec.json.encode({"file": file, "values": found})).decode())
        return OK
    for table, group in groupby(entries, lambda entry: entry.table):
        click.echo("[[routes]]" if table.startswith("routes ") else f"[{table}]")
        for _, key, value, origin in map(structs.astuple, group):
            unset = value is None or value == REDACTED
            line = f"{'# ' if unset else ''}{key} = {'' if value is None else _toml(value)}"
            click.echo(f"{line:<50} # {origin}")
        click.echo()
    return OK


def _entries(
    config: Config, raw: Mapping[str, Any], file: str, said: Mapping[tuple[str, str], str]
) -> Iterator[ConfigValue]:
    for name, table in ((field.name, getattr(config, field.name)) for field in structs.fields(config)):
        if name == "destinations":
            for to, destination in table.items():
                yield from _destination(to, destination, raw, file, said.get((name, "")))
        elif name == "routes":
            for number, route in enumerate(table):
                yield from _table(f"routes {number + 1}", route, raw["routes"][number], file, {})
        else:
            given = {key: origin for (where, key), origin in said.items() if where == name}
            yield from _table(name, table, raw.get(name, {}), file, given, _computed_defaults(config))
            if name == "aluma":
                yield ConfigValue("aluma", "client_secret", REDACTED, _secret_origin(config, os.environ))


def _destination(
    name: str, destination: Struct, raw: Mapping[str, Any], file: str, said: str | None
) -> Iterator[ConfigValue]:
    """Tell of one destination; ``said``: what named a folder on the command line or in the environment."""
    where = f"destinations.{name}"
    table = {"type": "folder"} if said else raw["destinations"][name]
    yield ConfigValue(where, "type", table["type"], said or file)
    if isinstance(destination, PluginConfig):  # what else it takes, and with what defaults, only it knows
        yield from (ConfigValue(where, key, redact(key, value), file) for key, value in destination.keys.items())
    else:
        yield from _table(where, destination, table, file, {"path": said} if said else {})


def _table(
    where: str,
    table: Struct,
    raw: Mapping[str, Any],
    file: str,
    given: Mapping[str, str],
    computed_defaults: Mapping[tuple[str, str], tuple[object, str]] = {},
) -> Iterator[ConfigValue]:
    for field in structs.fields(table):
        key, value = field.name, getattr(table, field.name)
        origin = given.get(key) or (file if key in raw else _DEFAULT)
        if not value and (where, key) in computed_defaults:
            value, origin = computed_defaults[where, key]
        yield ConfigValue(where, key, redact(key, value), origin)


def _computed_defaults(config: Config) -> Mapping[tuple[str, str], tuple[object, str]]:
    """What stands for a value that was left open, and why."""
    systemd = systemd_folder(os.environ, "STATE_DIRECTORY")
    environ_id = os.environ.get("ALUMA_CLIENT_ID", "").strip()
    return {
        ("aluma", "client_id"): (environ_id, "environment ALUMA_CLIENT_ID" if environ_id else _DEFAULT),
        ("exporter", "queue_size"): (config.queue_size, f"{_DEFAULT}: twice the workers"),
        ("exporter", "state"): (
            config.state_folder(),
            "environment STATE_DIRECTORY" if systemd else f"{_DEFAULT}: the user's state folder",
        ),
        ("limits", "max_at_once"): (config.max_at_once, f"{_DEFAULT}: twice the workers"),
    }


def _secret_origin(config: Config, environ: Mapping[str, str]) -> str:
    """Tell where the client secret would come from, without reading it."""
    if environ.get("ALUMA_CLIENT_SECRET", "").strip():
        return "environment ALUMA_CLIENT_SECRET"
    if config.aluma.client_secret_file:
        return "the file client_secret_file"
    folder = systemd_folder(environ, "CREDENTIALS_DIRECTORY")
    if folder and (folder / "aluma-client-secret").is_file():
        return "systemd's credential aluma-client-secret"
    return "nowhere"


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_toml(str(key))} = {_toml(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return msgspec.json.encode(_plain(value)).decode()
