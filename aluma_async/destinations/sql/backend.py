"""How each kind of database takes many rows, and files that are bigger than what fits into memory."""

import struct
from collections.abc import AsyncIterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Protocol

import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.models import Claim, ExportFile


class Backend(Protocol):
    """One kind of database. Every verb runs inside a transaction and raises what its driver raises."""

    driver: str
    """SQLAlchemy's dialect and driver."""
    max_transactions: int
    """Most transactions at a time; 0: as many as we like."""
    connect_args: Mapping[str, Any]

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the driver raises where SQLAlchemy does not see it."""
        ...

    def set_up(self, connection: Any, record: object) -> None:
        """Prepare a new connection (of the driver's, blocking)."""
        ...

    async def probe(self, connection: AsyncConnection) -> None:
        """Raise unless a transaction may write."""
        ...

    async def put_rows(
        self,
        connection: AsyncConnection,
        table: sa.Table,
        names: Sequence[str],
        key: Sequence[str],
        batches: AsyncIterable[Sequence[Sequence[Any]]],
    ) -> None:
        """Insert rows; with a ``key`` one replaces what has the same key, the last of a file wins."""
        ...

    async def put_file(
        self, connection: AsyncConnection, table: sa.Table, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        """Insert a whole file."""
        ...


class Postgres:
    """COPY, with a key into a temporary table first. The parts of a file go over in COPY's binary format."""

    driver = "postgresql+psycopg"
    max_transactions = 0
    connect_args: Mapping[str, Any] = {
        "connect_timeout": 10,
        "tcp_user_timeout": 30_000,  # ms until a server that does not answer counts as away
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "options": "-c lock_timeout=60s",
    }

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        import psycopg

        return (psycopg.Error,)

    def set_up(self, connection: Any, record: object) -> None:
        """Nothing to do."""

    async def probe(self, connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("SET TRANSACTION READ WRITE")  # refused where all is read-only

    async def put_rows(
        self,
        connection: AsyncConnection,
        table: sa.Table,
        names: Sequence[str],
        key: Sequence[str],
        batches: AsyncIterable[Sequence[Sequence[Any]]],
    ) -> None:
        cursor = await _cursor(connection)
        target, columns = _quote_names(table, names)
        stage = target
        if key:
            stage = "pg_temp.aluma_stage"
            await cursor.execute(
                f"CREATE TEMP TABLE aluma_stage ON COMMIT DROP AS SELECT {columns} FROM {target} LIMIT 0"
            )
            await cursor.execute("ALTER TABLE aluma_stage ADD aluma_number bigserial")
        async with cursor.copy(f"COPY {stage} ({columns}) FROM STDIN") as copy:
            async for batch in batches:
                for row in batch:
                    await copy.write_row(row)
        if key:
            keys = _quote_names(table, key)[1]
            await cursor.execute(
                f"INSERT INTO {target} ({columns}) SELECT DISTINCT ON ({keys}) {columns} FROM {stage} "
                f"ORDER BY {keys}, aluma_number DESC {_on_conflict(names, key)}"
            )
            await cursor.execute(f"DROP TABLE {stage}")

    async def put_file(
        self, connection: AsyncConnection, table: sa.Table, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        cursor = await _cursor(connection)
        values = _file_columns(claim, file, data)
        target, columns = _quote_names(table, [*values, "data"])
        fields = [
            struct.pack(">iq", 8, value) if isinstance(value, int) else _field(value.encode())
            for value in values.values()
        ]
        async with cursor.copy(f"COPY {target} ({columns}) FROM STDIN (FORMAT binary)") as copy:
            # Signature, flags, no extension; then the number of fields, and each as its length and bytes.
            await copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + struct.pack(">h", len(fields) + 1) + b"".join(fields))
            await copy.write(struct.pack(">i", data.size))
            data.data.seek(0)
            while chunk := await anyio.to_thread.run_sync(data.data.read, BLOCK):
                await copy.write(chunk)
            await copy.write(struct.pack(">h", -1))


class Sqlite:
    """Batches of upserts; a file goes in piece by piece."""

    driver = "sqlite+aiosqlite"
    max_transactions = 1
    connect_args: Mapping[str, Any] = {"timeout": 30}

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        return ()

    def set_up(self, connection: Any, record: object) -> None:  # noqa: ARG002 - SQLAlchemy calls it so
        """Write ahead, and sync at each commit: Aluma deletes its copy after it."""
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
        target, columns = _quote_names(table, names)
        placeholders = ", ".join("?" * len(names))
        insert = f"INSERT INTO {target} ({columns}) VALUES ({placeholders})"
        if key:
            insert += " " + _on_conflict(names, key)
        async for batch in batches:
            await connection.exec_driver_sql(insert, [tuple(map(_plain, row)) for row in batch])

    async def put_file(
        self, connection: AsyncConnection, table: sa.Table, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        values = _file_columns(claim, file, data)
        target, columns = _quote_names(table, [*values, "data"])
        placeholders = ", ".join("?" * len(values))
        sql = f"INSERT INTO {target} ({columns}) VALUES ({placeholders}, zeroblob(?))"
        done = await connection.exec_driver_sql(sql, (*values.values(), data.size))
        row = done.lastrowid
        raw: Any = (await connection.get_raw_connection()).driver_connection

        def fill() -> None:
            data.data.seek(0)
            with raw._conn.blobopen(table.name, "data", row) as blob:  # noqa: SLF001
                while chunk := data.data.read(BLOCK):
                    blob.write(chunk)

        await raw._execute(fill)  # noqa: SLF001 - the connection's own thread; aiosqlite has no name for blobs


BACKENDS: Mapping[str, Backend] = {"postgresql": Postgres(), "sqlite": Sqlite()}
"""By SQLAlchemy's name of the backend."""


async def _cursor(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection.cursor()  # type: ignore[union-attr]


def _quote_names(table: sa.Table, names: Sequence[str]) -> tuple[str, str]:
    """Quote the names of a table and of columns; SQLAlchemy would double each percent sign for its own parameters."""
    return ".".join(_quoted(part) for part in (table.schema, table.name) if part), ", ".join(map(_quoted, names))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _on_conflict(names: Sequence[str], key: Sequence[str]) -> str:
    others = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in names if name not in key)
    keys = ", ".join(map(_quoted, key))
    return f"ON CONFLICT ({keys}) DO " + (f"UPDATE SET {others}" if others else "NOTHING")


def _file_columns(claim: Claim, file: ExportFile, data: SpooledFile) -> dict[str, str | int]:
    """What a row says of a file, by column. PostgreSQL's text holds no zero, and UTF-8 no lone surrogate."""
    texts = {"task": claim.task.id, "project": claim.task.project_id, "folder": file.folder, "filename": file.filename}
    clean = {name: text.replace("\0", "_").encode(errors="replace").decode() for name, text in texts.items()}
    return {**clean, "file": file.number, "document": file.document, "size": data.size, "sha256": data.sha256}


def _field(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def _plain(value: Any) -> Any:
    """SQLite has no type for these."""
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, Decimal) else value
