"""The tables of the destination: their names, layout, reflection and creation."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.exceptions import DestinationError, SchemaMismatch
from aluma_async.models import ExportFile

ROW_KEY = ("aluma_task", "aluma_document", "aluma_file", "aluma_row")
"""Columns that identify a row if the user configured no key."""

MANIFEST, MANIFEST_KEY = "aluma_manifest", ("task", "target")

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

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


def table_name(template: str, file: ExportFile) -> tuple[str | None, str]:
    """Return schema and name of a file's table.

    Raises ``SchemaMismatch`` unless the name is plain, because folder and filename come from untrusted documents.
    """
    schema, _, name = template.rpartition(".")
    name = name.replace("{folder}", file.folder).replace("{stem}", PurePosixPath(file.filename).stem)
    if not _NAME.match(name):
        raise SchemaMismatch(
            f"file {file.number}: its folder and name do not form a valid table name",
            hint="Use at most 63 letters, digits and underscores, or configure a fixed table.",
        )
    return schema or None, name


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
        sa.Column("manifest", sa.JSON, nullable=False),
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


async def reflect(connection: AsyncConnection, schema: str | None, name: str, key: Sequence[str]) -> sa.Table:
    """Read a table's layout from the database.

    Raises ``NoSuchTableError``, and ``DestinationError`` if no constraint or index keeps the key unique.
    """
    table: sa.Table = await connection.run_sync(
        lambda sync: sa.Table(name, sa.MetaData(), schema=schema, autoload_with=sync)
    )
    unique = [set(table.primary_key.columns.keys())]
    unique += [{c.name for c in index.columns} for index in table.indexes if index.unique]
    unique += [
        {c.name for c in constraint.columns}
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    ]
    if set(key) not in unique:
        names = ", ".join(key)
        raise DestinationError(
            f"table {table.fullname}: no constraint or index keeps ({names}) unique",
            hint=f"Create a unique index on ({names}), or let the exporter create the table: create = true.",
        )
    return table


async def create(connection: AsyncConnection, table: sa.Table) -> None:
    """Create a table unless it exists."""
    await connection.run_sync(lambda sync: table.create(sync, checkfirst=True))
