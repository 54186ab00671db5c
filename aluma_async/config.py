"""Typed configuration: text and environment in, structs out. It opens no connection and makes no folder.

Every error is a ``ConfigError`` that names the file, the key and what to do.
"""

import difflib
import ipaddress
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
import platformdirs
from msgspec import Meta, Struct

from aluma_async.exceptions import ConfigError

APP = "aluma-async"
CREDENTIAL = "aluma-client-secret"
"""Name of the systemd credential that holds the client secret."""
SAFE_COOLDOWN_SECONDS = 60.0
"""The longest life of a request: a shorter cool-down lets a Cancel that is still under way hit the next claim."""

Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0)]
Rate = Annotated[float, Meta(ge=0)]


class Credentials:
    """An API client's id and secret; the secret shows in no ``repr``."""

    __slots__ = ("client_id", "client_secret")

    def __init__(self, client_id: str, client_secret: str) -> None:
        self.client_id = client_id
        self.client_secret = client_secret

    def __repr__(self) -> str:
        return f"Credentials(client_id={self.client_id!r}, client_secret=<hidden>)"


class AlumaConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[aluma]``."""

    base_url: str = "https://api.aluma.io"
    client_id: str = ""
    client_secret_file: str = ""
    claim_timeout_seconds: Annotated[float, Meta(ge=1)] = 1800.0
    projects: list[str] = []
    allow_insecure: bool = False
    ca_file: str = ""
    proxy: str = ""


class ExporterConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[exporter]``; ``queue_size`` 0 means twice the workers."""

    workers: Annotated[int, Meta(ge=1, le=4096)] = 16
    queue_size: Annotated[int, Meta(ge=0)] = 0
    drain_timeout_seconds: Annotated[float, Meta(ge=0)] = 60.0
    poll_wait_initial_seconds: Seconds = 2.0
    poll_wait_max_seconds: Seconds = 60.0
    state: str = ""


class LimitsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[limits]``; ``max_at_once`` 0 means twice the workers, a rate of 0 means none."""

    max_at_once: Annotated[int, Meta(ge=0)] = 0
    max_per_second: Rate = 0.0
    max_bytes_per_second: Rate = 0.0


class RetryConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[retry]``: attempts and waits of one request, cool-downs of one task."""

    attempts: Count = 5
    wait_initial_seconds: Seconds = 0.5
    wait_max_seconds: Seconds = 30.0
    cooldown_initial_seconds: Seconds = 60.0
    cooldown_max_seconds: Seconds = 3600.0
    park_seconds: Seconds = 21600.0


class FolderConfig(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="folder"):
    """A table ``[destinations.NAME]`` of type ``folder``."""

    path: str
    newline: Literal["keep", "crlf"] = "keep"
    on_conflict: Literal["keep-both", "overwrite", "fail"] = "keep-both"
    durability: Literal["full", "rename"] = "full"


class ServiceConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[service]``."""

    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be configured; ``Config()`` holds the defaults."""

    aluma: AlumaConfig = AlumaConfig()
    exporter: ExporterConfig = ExporterConfig()
    limits: LimitsConfig = LimitsConfig()
    retry: RetryConfig = RetryConfig()
    destinations: dict[str, FolderConfig] = {}
    service: ServiceConfig = ServiceConfig()

    @classmethod
    def load(cls, path: str | Path) -> "Config":
        """Read a TOML file. Raises ``ConfigError``."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: cannot be read ({error})", hint="Is it a UTF-8 text file you may read?"
            ) from None
        return cls.from_toml(text, str(path))

    @classmethod
    def from_toml(cls, text: str, name: str = "config") -> "Config":
        """Read TOML text; ``name`` is used in messages. Raises ``ConfigError``."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{name}: not valid TOML: {error}") from None
        return cls.from_table(table, name)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], name: str = "config") -> "Config":
        """Turn nested tables into a ``Config``. Raises ``ConfigError``."""
        _refuse_unknown(table, cls, name, "")
        try:
            config = msgspec.convert(table, cls)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at ")
            raise ConfigError(f"{name}: {where.strip('`').removeprefix('$.') or 'config'}: {what}") from None
        config.check(name)
        return config

    def check(self, name: str = "config") -> None:
        """Check what the types cannot say. Raises ``ConfigError``."""
        _check_base_url(self.aluma.base_url, name, allow_insecure=self.aluma.allow_insecure)
        for low, high in (
            ("exporter.poll_wait_initial_seconds", "exporter.poll_wait_max_seconds"),
            ("retry.wait_initial_seconds", "retry.wait_max_seconds"),
            ("retry.cooldown_initial_seconds", "retry.cooldown_max_seconds"),
        ):
            if self._at(low) > self._at(high):
                raise ConfigError(f"{name}: {low} = {self._at(low):g} is over {high} = {self._at(high):g}")

    def warnings(self) -> list[str]:
        """What is allowed but not safe, each in a sentence that says why."""
        found = []
        if self.retry.cooldown_initial_seconds < SAFE_COOLDOWN_SECONDS:
            found.append(
                f"retry.cooldown_initial_seconds = {self.retry.cooldown_initial_seconds:g} is shorter than a request "
                f"may take ({SAFE_COOLDOWN_SECONDS:g} s): a late Cancel could end the next claim of the same task."
            )
        if urlsplit(self.aluma.base_url).scheme == "http" and not _is_loopback(self.aluma.base_url):
            found.append(f"aluma.base_url = {self.aluma.base_url} sends the token and all documents unencrypted.")
        return found

    @property
    def max_at_once(self) -> int:
        """The limit on requests in flight: what is configured, or twice the workers."""
        return self.limits.max_at_once or 2 * self.exporter.workers

    def destination(self) -> FolderConfig:
        """The destination to use: the one named "default", else the only one. Raises ``ConfigError``."""
        if "default" in self.destinations:
            return self.destinations["default"]
        if len(self.destinations) == 1:
            return next(iter(self.destinations.values()))
        if self.destinations:
            names = ", ".join(self.destinations)
            raise ConfigError(f"several destinations ({names}) and none is named default", hint="Name one default.")
        raise ConfigError(
            "no destination", hint="Give -o FOLDER, or a table [destinations.default] in the config file."
        )

    def credentials(self, environ: Mapping[str, str] = os.environ) -> Credentials:
        """Find the credentials: environment, then ``client_secret_file``, then systemd's. Raises ``ConfigError``."""
        client_id = environ.get("ALUMA_CLIENT_ID") or self.aluma.client_id
        secret = environ.get("ALUMA_CLIENT_SECRET", "")
        folder = environ.get("CREDENTIALS_DIRECTORY")
        if not secret and self.aluma.client_secret_file:
            secret = _secret(Path(self.aluma.client_secret_file), private=True)
        elif not secret and folder and (Path(folder) / CREDENTIAL).exists():
            secret = _secret(Path(folder) / CREDENTIAL, private=False)
        for what, value in (("client id", client_id), ("client secret", secret)):
            if not value:
                raise ConfigError(
                    f"no {what}",
                    hint="Set ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET; or client_id and client_secret_file in [aluma]; "
                    f"or client_id and the systemd credential {CREDENTIAL}.",
                )
        return Credentials(client_id, secret)

    def state_folder(self, environ: Mapping[str, str] = os.environ) -> Path:
        """The folder for what must outlive the process: ``exporter.state``, ``$STATE_DIRECTORY``, or the user's."""
        return Path(
            self.exporter.state
            or environ.get("STATE_DIRECTORY", "").partition(":")[0]
            or platformdirs.user_state_path(APP)
        )

    def _at(self, key: str) -> float:
        table, _, name = key.partition(".")
        value: float = getattr(getattr(self, table), name)
        return value


def find_config(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The config file to use if none is named: the first that exists, or None.

    ``./config.toml``, ``$CONFIGURATION_DIRECTORY/config.toml``, the user's and the site's config folder.
    """
    folders = [
        Path(),
        *(Path(folder) for folder in environ.get("CONFIGURATION_DIRECTORY", "").split(":") if folder),
        platformdirs.user_config_path(APP),
        platformdirs.site_config_path(APP),
    ]
    return next((path for folder in folders if (path := folder / "config.toml").is_file()), None)


def _refuse_unknown(table: Mapping[str, Any], struct: type[Struct], name: str, prefix: str) -> None:
    """Refuse a key that does not exist, and name the nearest that does; ``type`` is a tag and checked later."""
    hints = get_type_hints(struct)
    known = [*struct.__struct_fields__, *(["type"] if struct.__struct_config__.tag_field else [])]
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean {prefix}{near[0]}?" if near else f"Known are: {', '.join(known)}."
            raise ConfigError(f"{name}: unknown key {prefix}{key}", hint=hint)
        if not isinstance(value, Mapping):
            continue
        if (inner := hints.get(key)) is not None and _is_struct(inner):
            _refuse_unknown(value, inner, name, f"{prefix}{key}.")
        elif inner is not None and (args := get_args(inner)) and _is_struct(args[-1]):
            for entry, inside in value.items():
                if isinstance(inside, Mapping):
                    _refuse_unknown(inside, args[-1], name, f"{prefix}{key}.{entry}.")


def _is_struct(hint: type | UnionType) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct)


def _check_base_url(url: str, name: str, *, allow_insecure: bool) -> None:
    where = f"{name}: aluma.base_url = {url!r}"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"{where}: not a URL ({error})") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{where}: not a URL", hint="Something like https://api.aluma.io.")
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"{where}: may have a path, but no user, query or fragment")
    if parts.scheme == "http" and not allow_insecure and not _is_loopback(url):
        raise ConfigError(
            f"{where}: plain http would send the token and all documents unencrypted",
            hint="Use https, or --allow-insecure (allow_insecure = true) if you know the network.",
        )


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(path: Path, *, private: bool) -> str:
    try:
        mode = path.stat().st_mode
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the client secret cannot be read ({type(error).__name__})") from None
    if private and os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path}: others may read the client secret", hint=f"chmod 600 {path}")
    return secret
