"""``Config``: all sections as one frozen value, read from TOML, with the rules that concern several of them.

It opens no connection and writes no file: whether Aluma is reachable and a folder writable is checked elsewhere.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import Struct, structs

from aluma_async.config.credentials import Credentials, collect_credentials
from aluma_async.config.destinations import DESTINATION_TYPES, DestinationConfig, PluginConfig, installed_types
from aluma_async.config.fleet import FleetConfig, sqlite_folder
from aluma_async.config.mistakes import Mistakes, toml_error
from aluma_async.config.paths import default_state_folder, find_config_file, resolve
from aluma_async.config.schema import read_section, suggest
from aluma_async.config.sections import (
    AlumaConfig,
    ExporterConfig,
    LimitsConfig,
    RetryConfig,
    RouteConfig,
    ServiceConfig,
)
from aluma_async.exceptions import ConfigError
from aluma_async.policy.routing import Route, Routing
from aluma_async.policy.sizing import QUEUED_TASKS_PER_WORKER, REQUESTS_PER_WORKER

Overrides: TypeAlias = Mapping[str, Mapping[str, object]]
"""Section -> key -> value, as in the file; they take precedence over the file."""

REQUEST_TIMEOUT_SECONDS = 60
"""Time limit of one request. Shorter cool-downs and leases are accepted, with a warning, but are not safe."""


_SQLITE_URL = re.compile(r"(sqlite(?:\+\w+)?:///)((?!:memory:|file:)[^/?~][^?]*)(.*)", re.DOTALL)
"""Start, relative path and rest of the URL of a SQLite database."""


class Config(Struct, frozen=True, kw_only=True):
    """The complete configuration; ``Config()`` has the default values and no destination."""

    aluma: AlumaConfig = AlumaConfig()
    exporter: ExporterConfig = ExporterConfig()
    limits: LimitsConfig = LimitsConfig()
    retry: RetryConfig = RetryConfig()
    destinations: dict[str, DestinationConfig] = {}
    routes: tuple[RouteConfig, ...] = ()
    service: ServiceConfig = ServiceConfig()
    fleet: FleetConfig = FleetConfig()

    @staticmethod
    def load(path: str | Path | None = None, overrides: Overrides | None = None) -> "Config":
        """Read a file; without ``path``, the first file of the search path, if any. Raises ``ConfigError``."""
        text, file = read_config_file(path)
        return Config.from_toml(text, file, overrides, Path(file).parent)

    @staticmethod
    def from_toml(text: str, file: str, overrides: Overrides | None = None, folder: Path | None = None) -> "Config":
        """Read TOML; ``file`` is its name in error messages. Raises ``ConfigError``.

        Relative paths in the text are relative to ``folder``, by default the working folder.
        """
        reading = read_toml(text, file, overrides, folder)
        reading.mistakes.raise_all()
        return reading.config

    @property
    def queue_size(self) -> int:
        """Maximum number of unclaimed tasks in the queue."""
        return self.exporter.queue_size or QUEUED_TASKS_PER_WORKER * self.exporter.workers

    @property
    def max_at_once(self) -> int:
        """Maximum number of requests in flight."""
        return self.limits.max_at_once or REQUESTS_PER_WORKER * self.exporter.workers

    def routing(self, extra: Iterable[str] = ()) -> Routing:
        """Return the routing: by route, otherwise to ``default``, otherwise to the only destination.

        Raises ``ConfigError``. ``extra`` names destinations that are not in the config.
        """
        known = [*self.destinations, *(name for name in extra if name not in self.destinations)]
        if not known:
            raise ConfigError("no destination", hint="Use -o DIR, or add [destinations.NAME] to the config file.")
        mistakes = Mistakes()
        for number, route in enumerate(self.routes, 1):
            for name in route.to:
                if name not in known:
                    text = f"[[routes]] {number}: to = {name!r}: unknown destination"
                    path = ("routes", number - 1, "to")
                    mistakes.append(ConfigError(text, hint=suggest(name, known), path=path))
        mistakes.raise_all()
        default = "default" if "default" in known else ""
        if len(known) == 1:
            default = known[0]
        if not default and not self.routes:
            names = ", ".join(known)
            hint = 'Name one of them "default", or add [[routes]].'
            raise ConfigError(f"[destinations]: no default destination among {names}", hint=hint)
        return Routing(
            tuple(Route(route.to, route.project, route.folder, route.filename, route.source) for route in self.routes),
            default,
        )

    def credentials(self, environ: Mapping[str, str] = os.environ) -> Credentials:
        """Return the client id and secret (see ``collect_credentials``). Raises ``ConfigError``."""
        return collect_credentials(self.aluma, environ)

    def state_folder(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Return the folder of the journal; it may not exist yet."""
        return self.exporter.state or default_state_folder(environ)

    def quarantine_folder(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Return the folder that keeps a copy of each failed task."""
        return self.state_folder(environ) / "quarantine"

    def warnings(self) -> list[str]:
        """Return warnings about values that are accepted but not safe."""
        rules = (
            (
                self.aluma.unencrypted,
                f"[aluma] base_url = {self.aluma.base_url!r}: the secret and the documents are sent unencrypted",
            ),
            (
                self.retry.cooldown_initial_seconds < REQUEST_TIMEOUT_SECONDS,
                f"[retry] cooldown_initial_seconds = {self.retry.cooldown_initial_seconds:g}: below "
                f"{REQUEST_TIMEOUT_SECONDS} s a delayed request of one attempt can affect the next attempt at the task",
            ),
            (
                self.aluma.claim_timeout_seconds < REQUEST_TIMEOUT_SECONDS,
                f"[aluma] claim_timeout_seconds = {self.aluma.claim_timeout_seconds:g}: below "
                f"{REQUEST_TIMEOUT_SECONDS} s a single slow request can lose the claim of a task",
            ),
        )
        return [text for applies, text in rules if applies]


def read_config_file(path: str | Path | None = None) -> tuple[str, str]:
    """Return the text of a file, or of the first file of the search path, and its name. Raises ``ConfigError``."""
    path = Path(path) if path else find_config_file(os.environ)
    if path is None:
        return "", "defaults"
    try:
        return path.read_text("utf-8-sig"), str(path)
    except OSError as error:
        hint = "Check the file, or select another one with --config."
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint=hint) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text", hint="Save it as UTF-8.") from None


class Reading(Struct, frozen=True):
    """What could be read from a configuration file, with default values in place of unusable ones."""

    config: Config
    mistakes: Mistakes
    raw: Mapping[str, Any]
    """The tables of the file; if it is not TOML, those above the mistake."""
    is_toml: bool = True
    unreadable: tuple[str, ...] = ()
    """Names of the destinations that could not be read."""


def read_toml(text: str, file: str, overrides: Overrides | None = None, folder: Path | None = None) -> Reading:
    """Read TOML as far as possible, and collect all mistakes. Arguments as for ``Config.from_toml``."""
    mistakes = all_mistakes = Mistakes(file, text)
    overrides = overrides or {}
    raw: dict[str, Any] = {}
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number with thousands of digits
        all_mistakes.append(toml_error(file, error))
        raw, mistakes = _read_above(text, error), Mistakes()  # a key that seems to be missing may be below
    kinds = {field.name: field.type for field in structs.fields(Config)}
    for table in (table for table in raw if table not in kinds):
        mistakes.add((table,), f"unknown table [{table}]", suggest(table, kinds))
    sections = {
        name: section
        for name, kind in kinds.items()
        if name not in ("destinations", "routes")
        and (
            section := read_section(
                kind,
                _resolve_fleet(raw.get(name, {}), folder) if name == "fleet" else raw.get(name, {}),
                mistakes,
                name=f"[{name}]",
                path=(name,),
                overrides=overrides.get(name),
                folder=folder,
            )
        )
    }
    replacement = overrides.get("destinations")  # all files go there
    given = replacement or raw.get("destinations", {})
    destinations = _read_destinations(given, mistakes, None if replacement else folder)
    routes = () if replacement else _read_routes(raw.get("routes", []), mistakes)
    unreadable = [name for name in given if name not in destinations] if isinstance(given, Mapping) else ()
    config = Config(destinations=destinations, routes=routes, **sections)
    _check_processes(config, mistakes)
    return Reading(config, all_mistakes, raw, mistakes is all_mistakes, tuple(unreadable))


def _check_processes(config: Config, mistakes: Mistakes) -> None:
    requests, processes = config.limits.max_at_once, config.exporter.processes
    if 0 < requests < processes:
        text = f"[limits] max_at_once = {requests}: fewer requests than [exporter] processes = {processes}"
        hint = "Each process needs at least one: use fewer processes, or a higher limit."
        mistakes.add(("limits", "max_at_once"), text, hint)


def _read_above(text: str, error: Exception) -> dict[str, Any]:
    """Return the content of the lines above a mistake of ``tomllib``; empty if it is not known."""
    line = re.search(r"at line (\d+)", str(error))
    with suppress(ValueError, RecursionError):
        return tomllib.loads("\n".join(text.split("\n")[: int(line[1]) - 1] if line else []))
    return {}


def _read_destinations(raw: object, mistakes: Mistakes, folder: Path | None) -> dict[str, DestinationConfig]:
    if not isinstance(raw, Mapping):
        mistakes.add(("destinations",), "destinations must be a table", "Write [destinations.NAME].")
        return {}
    destinations: dict[str, DestinationConfig] = {}
    for name, table in raw.items():
        where, path = f"[destinations.{name}]", ("destinations", name)
        kind = str(table.get("type", "")) if isinstance(table, Mapping) else ""
        keys = {key: value for key, value in table.items() if key != "type"} if isinstance(table, Mapping) else {}
        if kind in DESTINATION_TYPES:
            resolved = {key: _resolve_value(key, value, folder) for key, value in keys.items()}
            section = read_section(DESTINATION_TYPES[kind], resolved, mistakes, name=where, path=path, folder=folder)
            if section is not None:
                destinations[name] = section
        elif kind in (installed := installed_types()):
            destinations[name] = PluginConfig(kind, keys)
        else:
            known = [*DESTINATION_TYPES, *installed]
            mistakes.add((*path, "type"), f"{where} type = {kind!r}: unknown type", suggest(kind, known))
    return destinations


def _resolve_value(key: str, value: object, folder: Path | None) -> object:
    """Return a value in which the path of a SQLite database and the files of options are relative to ``folder``."""
    if key == "url" and isinstance(value, str) and (match := _SQLITE_URL.match(value)):
        return match[1] + resolve(folder, match[2]) + match[3]
    if key == "options" and isinstance(value, dict):
        return {name: _resolve_value("option", inner, folder) for name, inner in value.items()}
    if key == "option" and isinstance(value, dict) and isinstance(value.get("file"), str) and value["file"]:
        return {**value, "file": resolve(folder, value["file"])}
    return value


def _resolve_fleet(table: object, folder: Path | None) -> object:
    """Return ``[fleet]``, in which the folder of a SQLite store is relative to ``folder``."""
    if not isinstance(table, dict) or not isinstance(table.get("url"), str) or not sqlite_folder(table["url"]):
        return table
    return {**table, "url": f"sqlite:{resolve(folder, str(sqlite_folder(table['url'])))}"}


def _read_routes(raw: object, mistakes: Mistakes) -> tuple[RouteConfig, ...]:
    if not isinstance(raw, list):
        mistakes.add(("routes",), "routes must be a list of tables", "Write [[routes]].")
        return ()
    routes = (
        read_section(RouteConfig, table, mistakes, name=f"[[routes]] {number}", path=("routes", number - 1))
        for number, table in enumerate(raw, 1)
    )
    return tuple(route for route in routes if route is not None)
