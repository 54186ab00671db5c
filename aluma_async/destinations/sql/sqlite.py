"""``Sqlite``: the database file, and whole files, whose content is written chunk by chunk."""

import hashlib
import re
import sqlite3
import stat
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.concurrency.threads import run_in_thread
from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.sql.backend import TableRows, file_columns, quote, quote_names
from aluma_async.destinations.sql.layout import Column, Layout, Purpose, UniqueIndex
from aluma_async.destinations.sql.sqlite_rows import INSERT, SqliteRows
from aluma_async.destinations.sql.sqlite_types import column_type
from aluma_async.destinations.sql.tables import label
from aluma_async.exceptions import ConfigError
from aluma_async.models import Claim, ExportFile

_COMPUTED = (2, 3)
"""Values of ``hidden`` in ``table_xinfo`` for generated columns."""
_SLASHES_HINT = (
    "Use three slashes for a relative path (sqlite:///a.db), four for an absolute one (sqlite:////srv/a.db)."
)
_BINARY = "BINARY"
"""The collation that distinguishes all texts."""
_FILE = "file"
"""Key of path and identity of the opened file in the information of a connection."""
_IN_MEMORY_HINT = 'Use a file: "sqlite:////absolute/path.db".'


class Sqlite:
    """A database file on this machine, with one transaction at a time."""

    max_transactions = 1
    max_name_bytes = 0
    max_file_bytes = 1_000_000_000
    fold_case = True
    has_strict_types = False

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return (sqlite3.Error,)

    def read_url(self, url: str) -> tuple[sa.URL, Mapping[str, Any]]:
        try:
            address = sa.make_url(url).set(drivername="sqlite+aiosqlite")
            if address.host or address.username:
                raise ConfigError("url: contains a host, but SQLite has none", hint=_SLASHES_HINT)
            SQLiteDialect_aiosqlite().create_connect_args(address)
        except (sa.exc.ArgumentError, ValueError, TypeError):
            raise ConfigError("url: is not a database URL", hint=_IN_MEMORY_HINT) from None
        database = address.database or ""
        if database in ("", ":memory:", "file::memory:") or address.query.get("mode") == "memory":
            raise ConfigError("url: the database would exist in memory only", hint=_IN_MEMORY_HINT)
        return address, {} if "timeout" in address.query else {"timeout": 30}

    def engine_url(self, address: sa.URL) -> str | sa.URL:
        return address

    def set_up(self, connection: Any, record: Any) -> None:
        """Use a write-ahead log, and sync at each commit, because Aluma deletes its copy afterwards."""
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()
        cursor = connection.execute("PRAGMA database_list")
        path = next(path for _, name, path in cursor.fetchall() if name == "main")
        cursor.close()
        record.info[_FILE] = path, _identity(path)

    async def storage_problem(self, info: Mapping[Any, Any]) -> str:
        """Return why a commit is not in the file that the path names now."""
        path, identity = info[_FILE]
        if identity is None:  # no file was opened
            return "the database exists in memory only"
        return "" if await run_in_thread(_identity, path) == identity else f"{path} was removed or replaced meanwhile"

    async def begin(self, connection: AsyncConnection) -> bool:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")  # created tables are part of the transaction, too
        return True

    async def describe(self, connection: AsyncConnection, schema: str | None, name: str) -> Layout | None:
        pragma = f"PRAGMA {quote(schema)}." if schema else "PRAGMA "
        columns = await _rows(connection, f"{pragma}table_xinfo({quote(name)})")
        if not columns:
            return None
        table = Layout(schema=schema, name=name, label=label((schema, name)), columns={})
        kind, sql = (await _rows(connection, *_definition(table)))[0]
        is_strict = bool(re.search(r"\)[^)]*\bSTRICT\b[^)]*\Z", sql, re.IGNORECASE))
        indexes = [
            UniqueIndex("the primary key", frozenset(column[1] for column in columns if column[5])),
            *[
                await self._index(connection, pragma, index, is_partial=is_partial)
                for _, index, is_unique, _, is_partial in await _rows(connection, f"{pragma}index_list({quote(name)})")
                if is_unique
            ],
        ]
        return Layout(
            schema=schema,
            name=name,
            label=table.label,
            columns={column[1]: _column(column, is_strict=is_strict) for column in columns},
            indexes=indexes,
            problem="is a view, which has no unique index" if kind == "view" else "",
            fingerprint=sql,
        )

    async def _index(self, connection: AsyncConnection, pragma: str, index: str, *, is_partial: bool) -> UniqueIndex:
        info = await _rows(connection, f"{pragma}index_xinfo({quote(index)})")
        parts = [(name, collation) for _, _, name, _, collation, is_key in info if is_key]
        columns = frozenset(name for name, _ in parts if name is not None)
        problem = (
            "has a condition (WHERE)" if is_partial else "contains an expression" if (len(columns) < len(parts)) else ""
        )
        merges_texts = any(collation.upper() != _BINARY for _, collation in parts)
        return UniqueIndex(index, columns, problem, merges_texts=merges_texts)

    async def find_similar(self, connection: AsyncConnection, schema: str | None, name: str) -> str:  # noqa: ARG002
        return ""

    async def creation_problem(self, connection: AsyncConnection, schema: str | None) -> str:  # noqa: ARG002
        return ""

    async def fingerprint(self, connection: AsyncConnection, layout: Layout) -> str:
        rows = await _rows(connection, *_definition(layout))
        return rows[0][1] if rows else ""

    async def open_rows(
        self,
        connection: AsyncConnection,
        layout: Layout,
        key: Sequence[str],
        purpose: Purpose,
        number: int,
        *,
        is_only: bool,  # noqa: ARG002 - rows are compared if any table has a trigger
    ) -> TableRows:
        return SqliteRows(connection, layout, key, purpose, number, _plain)

    async def put_file(
        self, connection: AsyncConnection, layout: Layout, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        values = file_columns(claim, file, data)
        target, columns = quote_names(layout, [*values, "data"])
        placeholders = ", ".join("?" * len(values))
        insert = f"{INSERT} {target} ({columns}) VALUES ({placeholders}, zeroblob(?))"
        result = await connection.exec_driver_sql(insert, (*values.values(), data.size))
        if not result.rowcount:  # a trigger has dropped the row, and `lastrowid` is that of another one
            return
        row_id = result.lastrowid
        raw: Any = (await connection.get_raw_connection()).driver_connection

        def write_blob() -> None:
            data.data.seek(0)
            blob = raw._conn.blobopen(layout.name, "data", row_id, name=layout.schema or "main")  # noqa: SLF001
            with blob:
                while chunk := data.data.read(BLOCK):
                    blob.write(chunk)

        await raw._execute(write_blob)  # noqa: SLF001 - aiosqlite has no public way to run blob calls in its thread

    def may_change_files(self, layout: Layout) -> bool:  # noqa: ARG002 - a trigger of any table may change it
        return True

    async def read_files(
        self, connection: AsyncConnection, layout: Layout, task: str, names: Sequence[str]
    ) -> Sequence[tuple[Mapping[str, Any], str]]:
        target, columns = quote_names(layout, names)
        query = f"SELECT _rowid_, typeof(data), {columns} FROM {target} WHERE task COLLATE BINARY = ?"
        rows = await _rows(connection, query, (task,))
        raw: Any = (await connection.get_raw_connection()).driver_connection

        def read_hash(row_id: int) -> str:
            schema, digest = layout.schema or "main", hashlib.sha256()
            with raw._conn.blobopen(layout.name, "data", row_id, readonly=True, name=schema) as blob:  # noqa: SLF001
                while chunk := blob.read(BLOCK):
                    digest.update(chunk)
            return digest.hexdigest()

        return [
            (
                dict(zip(names, values, strict=True)),
                await raw._execute(read_hash, row_id) if kind == "blob" else "",  # noqa: SLF001
            )
            for row_id, kind, *values in rows
        ]

    def equals(self, column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
        return column.collate(_BINARY) == text

    def driver_value(self, value: Any) -> Any:
        return _plain(value)

    async def run_deferred(self, connection: AsyncConnection) -> None:
        """Do nothing: SQLite defers foreign keys only, and their errors abort the commit."""


def _identity(path: str) -> tuple[int, int] | None:
    """Return device and inode of a file; None if there is none. The path of a database in memory is empty."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


async def _rows(connection: AsyncConnection, statement: str, parameters: tuple[Any, ...] = ()) -> Sequence[Any]:
    return (await connection.exec_driver_sql(statement, parameters)).fetchall()


def _definition(layout: Layout) -> tuple[str, tuple[str, ...]]:
    """Return the query of a table's kind and definition."""
    schema = f"{quote(layout.schema)}." if layout.schema else ""
    statement = (
        f"SELECT type, sql FROM {schema}sqlite_master WHERE lower(name) = lower(?) AND type IN ('table', 'view')"
    )
    return statement, (layout.name,)


def _column(row: Sequence[Any], *, is_strict: bool) -> Column:
    _, name, declared, not_null, _, _, hidden = row
    return Column(
        name=name,
        declared=declared or "any type",
        type=column_type(declared, is_strict=is_strict),
        nullable=not not_null,
        written_by="is computed by the database (GENERATED)" if hidden in _COMPUTED else "",
    )


def _plain(value: Any) -> Any:
    """Return a value as SQLite stores it, which has no types for dates, times and decimals."""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
