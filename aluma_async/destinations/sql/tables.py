"""The tables of the destination: their names, and the layout of those that it creates."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import sqlalchemy as sa
from msgspec import Struct

from aluma_async.destinations.sql.layout import Kind
from aluma_async.exceptions import ConfigError, SchemaMismatch
from aluma_async.models import ExportFile

TableId: TypeAlias = tuple[str | None, str]
"""Schema and name of a table."""

ROW_KEY = ("aluma_task", "aluma_document", "aluma_file", "aluma_row")
"""Columns that identify a row if the user configured no key."""

MANIFEST, MANIFEST_KEY, MANIFEST_COLUMN = "aluma_manifest", ("task", "target"), "manifest"

ROW_KEY_KINDS: Mapping[str, Kind] = dict(zip(ROW_KEY, ("text", "integer", "integer", "integer"), strict=True))
FILE_KEY = ("task", "file")
FILE_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("task", "project", "folder", "filename", "sha256"), "text"),
    **dict.fromkeys(("file", "document", "size"), "integer"),
    "data": "other",
}
"""Columns of a table of whole files."""

COLUMN_TYPES: Mapping[str, type[sa.types.TypeEngine[Any]]] = {
    "text": sa.Text,
    "integer": sa.BigInteger,
    "number": sa.Numeric,
    "float": sa.Double,
    "boolean": sa.Boolean,
    "date": sa.Date,
    "timestamp": sa.DateTime,
    "time": sa.Time,
    "json": sa.JSON,
}
"""Column types of created tables, by the name in the configuration."""

_QUOTED_PART = r'"((?:[^"]|"")+)"|([^".]+)'
_QUOTED = re.compile(rf"(?:(?:{_QUOTED_PART})\.)?(?:{_QUOTED_PART})")
_PLACEHOLDER = re.compile(r"\{(folder|stem)\}")
_INSERTED = re.compile(r"[A-Za-z0-9_]+")
_MAX_INSERTED_BYTES = 63
_RESERVED = re.compile(rf"{MANIFEST}|sqlite_.*", re.IGNORECASE)


class TableTemplate(Struct, frozen=True):
    """The configured name of the table, quoted as it is; ``{folder}`` and ``{stem}`` stand for parts of a file's path.

    Upper and lower case, spaces and other letters than ASCII are part of the name. A dot separates schema and name,
    except within double quotes.
    """

    text: str
    schema: str | None
    name: str

    @classmethod
    def parse(cls, text: str, max_name_bytes: int) -> "TableTemplate":
        """Return the template. Raises ``ConfigError``."""
        schema, name = _split(text)
        for part in (schema, name):
            if part is None:
                continue
            if not part.strip() or not part.isprintable():
                raise ConfigError("table: is not a name", hint='Use "table" or "schema.table".')
            size = len(_PLACEHOLDER.sub("", part).encode(errors="replace"))
            if max_name_bytes and size > max_name_bytes:
                raise ConfigError(f"table: is longer than {max_name_bytes} bytes", hint="Use a shorter name.")
        return cls(text, schema, name)

    @property
    def is_fixed(self) -> bool:
        """Whether all files go into the same table."""
        return not _PLACEHOLDER.search(f"{self.schema}.{self.name}")

    @property
    def fixed_schema(self) -> str | None:
        """The schema of the table of manifests."""
        return None if self.schema and _PLACEHOLDER.search(self.schema) else self.schema

    def table_for(self, file: ExportFile) -> TableId:
        """Return schema and name of a file's table.

        Raises ``SchemaMismatch`` unless folder and filename are plain names, because they come from untrusted
        documents.
        """
        schema = None if self.schema is None else self._expand(self.schema, file)
        return schema, self._expand(self.name, file)

    def _expand(self, part: str, file: ExportFile) -> str:
        values = {"folder": file.folder, "stem": PurePosixPath(file.filename).stem}
        names = _PLACEHOLDER.findall(part)
        expanded = _PLACEHOLDER.sub(lambda match: values[match[1]], part)
        if names and not (
            all(_INSERTED.fullmatch(values[name]) for name in names)
            and not (expanded[0].isdigit() and part[0] == "{")
            and not _RESERVED.fullmatch(expanded)
            and len(expanded.encode(errors="replace")) <= _MAX_INSERTED_BYTES
        ):
            raise SchemaMismatch(
                f"file {file.number}: its folder and name do not form a valid table name",
                hint="Use letters, digits and underscores, or configure a fixed table.",
            )
        return expanded


def _split(text: str) -> TableId:
    if '"' not in text:
        schema, _, name = text.rpartition(".")
        return schema or None, name
    match = _QUOTED.fullmatch(text)
    if not match:
        raise ConfigError("table: its quotes are not balanced", hint='Use "table", "schema.table" or \'"a.b"."c"\'.')
    quoted_schema, plain_schema, quoted_name, plain_name = match.groups()
    schema = quoted_schema.replace('""', '"') if quoted_schema else plain_schema
    return schema, quoted_name.replace('""', '"') if quoted_name else plain_name


def label(table_id: TableId) -> str:
    """Return a table's name for messages and manifests."""
    return ".".join(filter(None, table_id))


def files_table(schema: str | None, name: str) -> sa.Table:
    """Return the layout of a table of whole files."""
    return sa.Table(
        name,
        sa.MetaData(),
        sa.Column("task", sa.Text, primary_key=True),
        sa.Column("file", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("document", sa.BigInteger, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        schema=schema,
    )


def manifest_table(schema: str | None) -> sa.Table:
    """Return the layout of the table of manifests; ``target`` is the configured table of the files."""
    return sa.Table(
        MANIFEST,
        sa.MetaData(),
        *(sa.Column(name, sa.Text, primary_key=True) for name in MANIFEST_KEY),
        sa.Column(MANIFEST_COLUMN, sa.JSON, nullable=False),
        schema=schema,
    )


def rows_table(
    schema: str | None, name: str, columns: Sequence[str], key: Sequence[str], column_types: Mapping[str, str]
) -> sa.Table:
    """Return the layout of a table that is created for rows with these columns."""
    row_key: list[sa.Column[Any]] = [
        sa.Column(ROW_KEY[0], sa.Text, primary_key=True),
        *(sa.Column(column, sa.BigInteger, primary_key=True, autoincrement=False) for column in ROW_KEY[1:]),
    ]
    data = [
        sa.Column(
            column, COLUMN_TYPES[column_types.get(column, "text")], primary_key=column in key, autoincrement=False
        )
        for column in columns
    ]
    table_columns: list[sa.Column[Any]] = [*([] if key else row_key), *data]
    return sa.Table(name, sa.MetaData(), *table_columns, schema=schema)
