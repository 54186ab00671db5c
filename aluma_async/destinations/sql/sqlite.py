"""``Sqlite``: rows are inserted in batches, and the content of a file chunk by chunk."""

from collections.abc import AsyncIterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.sql.backend import file_columns, on_conflict_clause, quote_names
from aluma_async.models import Claim, ExportFile


class Sqlite:
    """A database file on this machine, with one transaction at a time."""

    driver = "sqlite+aiosqlite"
    max_transactions = 1
    connect_args: Mapping[str, Any] = {"timeout": 30}

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return ()

    def set_up(self, connection: Any, record: object) -> None:  # noqa: ARG002 - SQLAlchemy passes it
        """Use a write-ahead log, and sync at each commit, because Aluma deletes its copy afterwards."""
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    async def probe(self, connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")

    async def put_rows(
        self,
        connection: AsyncConnection,
        table: sa.Table,
        names: Sequence[str],
        key: Sequence[str],
        batches: AsyncIterable[Sequence[Sequence[Any]]],
    ) -> None:
        target, columns = quote_names(table, names)
        placeholders = ", ".join("?" * len(names))
        insert = f"INSERT INTO {target} ({columns}) VALUES ({placeholders})"
        if key:
            insert += " " + on_conflict_clause(names, key)
        async for batch in batches:
            await connection.exec_driver_sql(insert, [tuple(map(_plain, row)) for row in batch])

    async def put_file(
        self, connection: AsyncConnection, table: sa.Table, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        values = file_columns(claim, file, data)
        target, columns = quote_names(table, [*values, "data"])
        placeholders = ", ".join("?" * len(values))
        insert = f"INSERT INTO {target} ({columns}) VALUES ({placeholders}, zeroblob(?))"
        result = await connection.exec_driver_sql(insert, (*values.values(), data.size))
        row_id = result.lastrowid
        raw: Any = (await connection.get_raw_connection()).driver_connection

        def write_blob() -> None:
            data.data.seek(0)
            with raw._conn.blobopen(table.name, "data", row_id) as blob:  # noqa: SLF001
                while chunk := data.data.read(BLOCK):
                    blob.write(chunk)

        await raw._execute(write_blob)  # noqa: SLF001 - aiosqlite has no public way to run blob calls in its thread


def _plain(value: Any) -> Any:
    """Return a value as SQLite stores it, which has no types for dates, times and decimals."""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
