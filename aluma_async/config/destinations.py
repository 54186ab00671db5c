"""The tables ``[destinations.NAME]``: one kind for each ``type``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, field

from aluma_async.config.credentials import read_secret
from aluma_async.config.shown import without_password
from aluma_async.config.table import BadValue, Table
from aluma_async.exceptions import ConfigError

ColumnType: TypeAlias = Literal["text", "integer", "number", "float", "boolean", "date", "timestamp", "time", "json"]


class FolderConfig(Table, frozen=True, kw_only=True, tag_field="type", tag="folder"):
    """``type = "folder"``."""

    path: Path
    newline: Literal["keep", "crlf"] = "keep"
    on_conflict: Literal["keep-both", "overwrite", "fail"] = "keep-both"
    durability: Literal["full", "rename"] = "full"

    @property
    def place(self) -> str:
        """What people are told."""
        return str(self.path.absolute())


class SqlConfig(Table, frozen=True, kw_only=True, tag_field="type", tag="sql"):
    """``type = "sql"``; the URL, which may hold a password, stands here, in a file, or in the environment."""

    SECRET = ("url",)

    table: str
    """May hold ``{folder}`` and ``{stem}``."""
    url: str = ""
    url_file: Path | None = None
    url_env: str = ""
    mode: Literal["rows", "files"] = "rows"
    key: tuple[str, ...] = ()
    create: bool = False
    types: dict[str, ColumnType] = field(default_factory=dict)
    """Of columns of tables that are made; else text."""
    columns: dict[str, str] = field(default_factory=dict)
    """What a column of the file is called in the table; empty: left out."""
    header: tuple[str, ...] = ()
    """Names of the columns, for files that do not begin with them."""
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    encoding: str = "utf-8-sig"
    decimal: Literal[".", ","] = "."
    date_format: str = ""
    """As ``strptime`` has it; empty: ISO 8601."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            "".encode(self.encoding)
        except LookupError:
            raise BadValue("encoding", self.encoding, "is not known", hint="Like utf-8 or cp1252.") from None

    @property
    def place(self) -> str:
        """What people are told."""
        where = self.url and without_password(self.url)
        return f"table {self.table} of {where or self.url_file or '$' + self.url_env}"

    def address(self, environ: Mapping[str, str]) -> str:
        """Return the URL. Raises ``ConfigError``."""
        if sum(map(bool, (self.url, self.url_file, self.url_env))) != 1:
            raise ConfigError("url, url_file, url_env: not exactly one of them", hint='Like url = "sqlite:///data.db".')
        if self.url_file:
            return read_secret(self.url_file)
        if self.url_env and not environ.get(self.url_env):
            raise ConfigError(f"url_env: {self.url_env} is not set in the environment", hint="Set it to the URL.")
        return self.url or environ[self.url_env]


class ObjectStoreConfig(Table, frozen=True, kw_only=True, tag_field="type", tag="object-store"):
    """``type = "object-store"``; an option is a value, ``{ env = "NAME" }`` or ``{ file = "a secret's file" }``."""

    SECRET = ("options",)

    url: str
    options: dict[str, str | bool | int | dict[str, str]] = field(default_factory=dict)
    on_conflict: Literal["keep-both", "overwrite", "fail"] = "keep-both"

    def __repr__(self) -> str:
        """Leave the keys out."""
        return f"ObjectStoreConfig({self.place!r})"

    @property
    def place(self) -> str:
        """What people are told."""
        return without_password(self.url)

    def read_options(self, environ: Mapping[str, str]) -> dict[str, str | bool | int]:
        """Return the options, each as a value. Raises ``ConfigError``."""
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
                raise ConfigError(f"options.{key}: {name} is not set in the environment", hint="Set it.")
        raise ConfigError(
            f"options.{key}: neither a value nor where to find it", hint='Like { env = "NAME" } or { file = "path" }.'
        )


DestinationConfig: TypeAlias = FolderConfig | SqlConfig | ObjectStoreConfig

DESTINATION_TYPES: dict[str, type[DestinationConfig]] = {
    "folder": FolderConfig,
    "sql": SqlConfig,
    "object-store": ObjectStoreConfig,
}
"""By what ``type`` says."""
