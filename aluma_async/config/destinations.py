"""The sections ``[destinations.NAME]``: one class for each ``type``."""

import re
from base64 import b64encode
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, field

from aluma_async.config.credentials import read_secret
from aluma_async.config.date_format import date_format_problem
from aluma_async.config.redaction import redact_url
from aluma_async.config.schema import InvalidValue, Section
from aluma_async.config.sections import is_unencrypted, url_problem
from aluma_async.exceptions import ConfigError
from aluma_async.policy.naming import OnConflict

ColumnType: TypeAlias = Literal["text", "integer", "number", "float", "boolean", "date", "timestamp", "time", "json"]


class FolderConfig(Section, frozen=True, kw_only=True, tag_field="type", tag="folder"):
    """``type = "folder"``."""

    path: Path
    newline: Literal["keep", "crlf"] = "keep"
    on_conflict: OnConflict = "keep-both"
    durability: Literal["full", "rename"] = "full"
    file_mode: str = ""
    """Mode of new files, in octal digits; empty: the umask decides."""
    folder_mode: str = ""
    """Mode of new folders, in octal digits; empty: the umask decides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, mode, pattern, example in (
            ("file_mode", self.file_mode, "0?[67][0-7][0-7]", "0640"),
            ("folder_mode", self.folder_mode, "[02]?7[0-7][0-7]", "0750"),
        ):
            if mode and not re.fullmatch(pattern, mode):
                reason = "is not a mode in octal digits that lets the exporter write"
                raise InvalidValue(key, mode, reason, hint=f'Use for example "{example}".')

    manifest: bool = False

    @property
    def description(self) -> str:
        """Description for messages, without secrets."""
        return str(self.path.absolute())


class SqlConfig(Section, frozen=True, kw_only=True, tag_field="type", tag="sql"):
    """``type = "sql"``; the URL, which may contain a password, is a value, in a file, or in the environment."""

    SECRET = ("url",)

    table: str
    """Name of the table; may contain ``{folder}`` and ``{stem}`` of the file."""
    url: str = ""
    url_file: Path | None = None
    url_env: str = ""
    mode: Literal["rows", "files"] = "rows"
    key: tuple[str, ...] = ()
    create: bool = False
    column_types: dict[str, ColumnType] = field(default_factory=dict)
    """Types of the columns of created tables; text if a column is missing."""
    column_names: dict[str, str] = field(default_factory=dict)
    """Name in the file -> name in the table; empty: the column is omitted. The name of a nameless column is empty."""
    header_names: tuple[str, ...] = ()
    """Names of the columns, for files without a header line; empty: the column is omitted."""
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8-sig"
    """Encoding of downloaded CSV files without a byte order mark."""
    decimal: Literal[".", ","] = "."
    date_format: str = ""
    """Format of dates as for ``strptime``; empty: ISO 8601."""
    trigger_columns: tuple[str, ...] = ()
    """Columns that a trigger of the table may change; they are not compared after they were written."""
    manifest: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):
            raise InvalidValue(
                "encoding", self.encoding, "unknown encoding", hint="Use for example utf-8 or cp1252."
            ) from None
        if self.delimiter in '"\r\n\0':
            raise InvalidValue("delimiter", self.delimiter, "not a separator of cells", hint='Use for example ";".')
        if self.date_format and (problem := date_format_problem(self.date_format)):
            raise InvalidValue(
                "date_format",
                self.date_format,
                problem,
                hint='Use for example "%d.%m.%Y", "%d.%m.%Y %H:%M" or "%d.%m.%Y %I:%M %p".',
            )
        for key, names in (("key", self.key), ("header_names", tuple(filter(None, self.header_names)))):
            if len(set(names)) < len(names):
                raise InvalidValue(key, list(names), "contains a name twice", hint="Name each column once.")
        if self.key and self.mode == "files":
            raise InvalidValue(
                "key", list(self.key), 'not used with mode = "files"', hint="Remove key: files are identified by task."
            )

    @property
    def description(self) -> str:
        """Description for messages, without secrets."""
        where = self.url and redact_url(self.url)
        return f"table {self.table} of {where or self.url_file or '$' + self.url_env}"

    def sqlite_file(self, environ: Mapping[str, str]) -> Path | None:
        """Return the file of a SQLite database; None for another database, and if its URL cannot be read."""
        try:
            url = self.database_url(environ)
        except ConfigError:
            return None
        backend, _, path = url.partition("?")[0].partition(":///")
        return Path(path) if backend.partition("+")[0] == "sqlite" and path not in ("", ":memory:") else None

    def database_url(self, environ: Mapping[str, str]) -> str:
        """Return the URL of the database. Raises ``ConfigError``."""
        if sum(map(bool, (self.url, self.url_file, self.url_env))) != 1:
            raise ConfigError(
                "url, url_file, url_env: exactly one is required", hint='Set for example url = "sqlite:///data.db".'
            )
        if self.url_file:
            return read_secret(self.url_file)
        if self.url_env and not environ.get(self.url_env):
            raise ConfigError(
                f"url_env: {self.url_env} is not set in the environment", hint="Set the variable to the URL."
            )
        return self.url or environ[self.url_env]


class ObjectStoreConfig(Section, frozen=True, kw_only=True, tag_field="type", tag="object-store"):
    """``type = "object-store"``; an option is a value, ``{ env = "NAME" }`` or ``{ file = "PATH" }`` of a secret."""

    SECRET = ("options",)

    url: str
    options: dict[str, str | bool | int | dict[str, str]] = field(default_factory=dict)
    on_conflict: OnConflict = "keep-both"
    manifest: bool = False

    def __repr__(self) -> str:
        """Leave out the options, because some are secret."""
        return f"ObjectStoreConfig({self.description!r})"

    @property
    def description(self) -> str:
        """Description for messages, without secrets."""
        return redact_url(self.url)

    def read_options(self, environ: Mapping[str, str]) -> dict[str, str | bool | int]:
        """Return the options with the values of variables and files. Raises ``ConfigError``."""
        return {key: self._read(key, value, environ) for key, value in self.options.items()}

    def _read(self, key: str, value: str | bool | int | dict[str, str], environ: Mapping[str, str]) -> str | bool | int:
        if not isinstance(value, dict):
            return str(value) if type(value) is int else value
        match list(value.items()):
            case [("file", path)] if path:
                return read_secret(Path(path).expanduser(), private="certificate" not in key)
            case [("env", name)] if environ.get(name):
                return environ[name]
            case [("env", name)]:
                raise ConfigError(f"options.{key}: {name} is not set in the environment", hint="Set the variable.")
        raise ConfigError(
            f"options.{key}: neither a value nor its source", hint='Use { env = "NAME" } or { file = "PATH" }.'
        )


class WebDavConfig(Section, frozen=True, kw_only=True, tag_field="type", tag="webdav"):
    """``type = "webdav"``."""

    SECRET = ("url",)

    url: str
    username: str = ""
    password_file: Path | None = None
    token_file: Path | None = None
    """File of a bearer token, instead of user and password."""
    on_conflict: OnConflict = "keep-both"
    manifest: bool = False
    allow_insecure: bool = False
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if reason := url_problem(self.url):  # not repeated, because it may contain a password
            raise InvalidValue(
                "url", "…", reason, hint="Use for example https://cloud.example/remote.php/dav/files/me/export."
            )
        if is_unencrypted(self.url) and not self.allow_insecure:
            reason = "http sends the password and the documents unencrypted"
            raise InvalidValue(
                "url", self.url, reason, hint="Use https, or allow_insecure = true on a network you trust."
            )
        if bool(self.username) != bool(self.password_file):
            raise InvalidValue(
                "username", self.username, "username and password_file require each other", hint="Set both."
            )

    @property
    def description(self) -> str:
        """Description for messages, without secrets."""
        return self.url

    def authorization(self) -> dict[str, str]:
        """Return the headers that authenticate a request. Raises ``ConfigError``."""
        if self.token_file and self.username:
            raise ConfigError("token_file and username exclude each other", hint="Remove one of them.")
        if self.token_file:
            return {"Authorization": f"Bearer {read_secret(self.token_file)}"}
        if self.password_file:
            user = f"{self.username}:{read_secret(self.password_file)}"
            return {"Authorization": f"Basic {b64encode(user.encode()).decode()}"}
        return {}


class PluginConfig(Struct, frozen=True):
    """A ``type`` of an installed plug-in; its keys are checked when the destination is opened."""

    kind: str
    keys: dict[str, Any]

    def __repr__(self) -> str:
        """Leave out the values, because some may be secret."""
        return f"PluginConfig({self.kind!r})"

    @property
    def description(self) -> str:
        """Description for messages, without secrets."""
        return f"plug-in {self.kind}"


def installed_types() -> dict[str, EntryPoint]:
    """Return the destination types of other packages, by name."""
    return {point.name: point for point in entry_points(group="aluma_async.destinations")}


DestinationConfig: TypeAlias = FolderConfig | SqlConfig | ObjectStoreConfig | WebDavConfig | PluginConfig

DESTINATION_TYPES: dict[str, type[FolderConfig | SqlConfig | ObjectStoreConfig | WebDavConfig]] = {
    "folder": FolderConfig,
    "sql": SqlConfig,
    "object-store": ObjectStoreConfig,
    "webdav": WebDavConfig,
}
"""The class of each ``type``."""
