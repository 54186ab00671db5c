"""``[fleet]``: the store through which several exporters of one account share their work."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta

from aluma_async.config.credentials import read_secret
from aluma_async.config.schema import InvalidValue, Section
from aluma_async.config.sections import CountOrZero, is_loopback
from aluma_async.exceptions import ConfigError

_SCHEMES = ("redis", "rediss", "unix", "sqlite")
_HINT = 'Use for example "redis://store.example:6379/0" or "sqlite:/var/lib/aluma-fleet".'
_KEYS = ("url", "url_file", "url_env")


class FleetConfig(Section, frozen=True, kw_only=True):
    """``[fleet]``; the URL, which may contain a password, is a value, in a file, or in the environment."""

    SECRET = ("url",)

    url: str = ""
    """Address of the store; without one, and without ``url_file`` and ``url_env``, there is no fleet."""
    url_file: Path | None = None
    url_env: str = ""
    name: str = "default"
    """Exporters with the same name, API and client belong to one fleet."""
    silent_seconds: Annotated[float, Meta(ge=60, le=86_400)] = 120
    """Seconds without a report after which an exporter is considered dead, although its connection is not closed."""
    nodes: CountOrZero = 0
    """Expected number of exporters; divides the limits until the store is reached first. 0: not known."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.url and (problem := _problem(self.url)):
            raise InvalidValue("url", "…", problem, hint=_HINT)
        given = [key for key in _KEYS if getattr(self, key)]
        if len(given) > 1:
            shown = "…" if given[0] == "url" else getattr(self, given[0])
            raise InvalidValue(given[0], shown, f"set together with {given[1]}", hint="Set only one.", other=given[1])

    @property
    def is_enabled(self) -> bool:
        """Whether this exporter belongs to a fleet."""
        return bool(self.url or self.url_file or self.url_env)

    def store_url(self, environ: Mapping[str, str]) -> str:
        """Return the address of the store. Raises ``ConfigError``."""
        if self.url:
            return self.url
        if self.url_file:
            url, key = read_secret(self.url_file), "url_file"
        else:
            url, key = environ.get(self.url_env, ""), "url_env"
            if not url:
                hint = "Set the variable to the URL."
                raise ConfigError(f"[fleet] url_env: {self.url_env} is not set in the environment", hint=hint)
        if problem := _problem(url):
            raise ConfigError(f"[fleet] {key}: {problem}", hint=_HINT)
        return url


def is_unencrypted_store(url: str) -> bool:
    """Return whether task ids and names are sent unencrypted to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "redis" and not is_loopback(parts.hostname or "")


def sqlite_folder(url: str) -> Path | None:
    """Return the folder of a SQLite store; None for another store. A relative one is relative to the working folder."""
    match = re.fullmatch(r"sqlite:(?://(?=/))?(.+)", url, re.DOTALL)
    return Path(match[1]).expanduser() if match else None


def _problem(url: str) -> str:
    """Return the problem of a store's address, without the address, which may contain a password."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme not in _SCHEMES:
        return f"not a URL that begins with {', '.join(f'{scheme}:' for scheme in _SCHEMES)}"
    if parts.scheme == "sqlite":
        return "" if sqlite_folder(url) else "no folder after sqlite:"
    if parts.scheme == "unix":
        return "" if parts.path.strip("/") else "no path of a socket"
    return "" if host else "no host"
