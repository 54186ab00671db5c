"""``Config``: all sections as one frozen value, read from TOML, with the rules that concern several of them.

It opens no connection and writes no file: whether Aluma is reachable and a folder writable is checked elsewhere.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeAlias

from msgspec import Struct, structs

from aluma_async.config.credentials import Credentials, collect_credentials
from aluma_async.config.destinations import DESTINATION_TYPES, DestinationConfig, PluginConfig, installed_types
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

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Overrides | None = None) -> Self:
        """Read a file; without ``path``, the first file of the search path, if any. Raises ``ConfigError``."""
        text, file = read_config_file(path)
        return cls.from_toml(text, file, overrides, Path(file).parent)

    @classmethod
    def from_toml(cls, text: str, file: str, overrides: Overrides | None = None, folder: Path | None = None) -> Self:
        """Read TOML; ``file`` is its name in error messages. Raises ``ConfigError``.

        Relative paths in the text are relative to ``folder``, by default the working folder.
        """
        try:
            raw: dict[str, Any] = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ConfigError(f"{file}: invalid TOML: {error}", hint="Correct that line.") from None
        sections = {field.name: field.type for field in structs.fields(cls)}
        for table in raw:
            if table not in sections:
                raise ConfigError(f"{file}: unknown table [{table}]", hint=suggest(table, sections))
        overrides = overrides or {}
        replacement = overrides.get("destinations")  # all files go there
        return cls(
            destinations=_read_destinations(
                replacement or raw.get("destinations", {}), file, None if replacement else folder
            ),
            routes=() if replacement else _read_routes(raw.get("routes", []), file),
            **{
                name: read_section(
                    kind, raw.get(name, {}), name=f"[{name}]", file=file, overrides=overrides.get(name), folder=folder
                )
                for name, kind in sections.items()
                if name not in ("destinations", "routes")
            },
        )

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
        for number, route in enumerate(self.routes, 1):
            for name in route.to:
                if name not in known:
                    raise ConfigError(
                        f"[[routes]] {number}: to = {name!r}: unknown destination",
                        hint=suggest(name, known),
                    )
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


def _read_destinations(raw: object, file: str, folder: Path | None) -> dict[str, DestinationConfig]:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{file}: destinations must be a table", hint="Write [destinations.NAME].")
    destinations: dict[str, DestinationConfig] = {}
    for name, table in raw.items():
        where = f"[destinations.{name}]"
        kind = str(table.get("type", "")) if isinstance(table, Mapping) else ""
        keys = {key: value for key, value in table.items() if key != "type"} if isinstance(table, Mapping) else {}
        if kind in DESTINATION_TYPES:
            resolved = {key: _resolve_value(key, value, folder) for key, value in keys.items()}
            destinations[name] = read_section(DESTINATION_TYPES[kind], resolved, name=where, file=file, folder=folder)
        elif kind in (installed := installed_types()):
            destinations[name] = PluginConfig(kind, keys)
        else:
            known = [*DESTINATION_TYPES, *installed]
            raise ConfigError(f"{file}: {where} type = {kind!r}: unknown type", hint=suggest(kind, known))
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


def _read_routes(raw: object, file: str) -> tuple[RouteConfig, ...]:
    if not isinstance(raw, list):
        raise ConfigError(f"{file}: routes must be a list of tables", hint="Write [[routes]].")
    return tuple(
        read_section(RouteConfig, table, name=f"[[routes]] {number}", file=file) for number, table in enumerate(raw, 1)
    )
