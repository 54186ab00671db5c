"""Which table a file goes to, what it looks like, and how one that is missing is made."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.exceptions import DestinationError, SchemaMismatch
from aluma_async.models import ExportFile

ROW_KEY = ("aluma_task", "aluma_document", "aluma_file", "aluma_row")
"""Columns that identify a row where the user names no key."""

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
"""What a column of a table that we make can be."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


def table_name(template: str, file: ExportFile) -> tuple[str | None, str]:
    """Schema and name of a file's table. What a file is called is hostile, so only plain names pass.

    Raises ``SchemaMismatch``.
    """
    schema, _, name = template.rpartition(".")
    name = name.replace("{folder}", file.folder).replace("{stem}", PurePosixPath(file.filename).stem)
    if not _NAME.match(name):
        raise SchemaMismatch(
            f"file {file.number}: its folder or name makes no name for a table",
            hint="Letters, digits and underscores do, at most 63. A fixed table takes any file.",
        )
    return schema or None, name


def files_table(schema: str | None, name: str) -> sa.Table:
    """How a table of whole files looks."""
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
    """How the table of manifests looks; ``target`` is where its files went, as the config has it."""
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
    """How a table of rows looks that is made for a file with these columns."""
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
    columns_made: list[sa.Column[Any]] = [*([] if key else row_key), *data]
    return sa.Table(name, sa.MetaData(), *columns_made, schema=schema)


async def reflect(connection: AsyncConnection, schema: str | None, name: str, key: Sequence[str]) -> sa.Table:
    """Look at a table. Raises ``NoSuchTableError``, and ``DestinationError`` if nothing in it keeps the key unique."""
    table: sa.Table = await connection.run_sync(
        lambda sync: sa.Table(name, sa.MetaData(), schema=schema, autoload_with=sync)
    )
    unique = [set(table.primary_key.columns.keys())]
    unique += [{c.name for c in index.columns} for index in table.indexes if index.unique]
    unique += [{c.name for c in one.columns} for one in table.constraints if isinstance(one, sa.UniqueConstraint)]
    if set(key) not in unique:
        names = ", ".join(key)
        raise DestinationError(
            f"table {table.fullname}: nothing keeps ({names}) unique",
            hint=f"Make a unique index on ({names}), or let the table be made: create = true.",
        )
    return table


async def create(connection: AsyncConnection, table: sa.Table) -> None:
    """Make a table, if nobody has by now."""
    await connection.run_sync(lambda sync: table.create(sync, checkfirst=True))
