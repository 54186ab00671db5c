"""``Postgres``: rows and files are sent with COPY."""

import struct
from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any

import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.sql.backend import file_columns, on_conflict_clause, quote_names
from aluma_async.models import Claim, ExportFile


class Postgres:
    """With a key, rows are copied into a temporary table first. A file is sent in the binary format of COPY."""

    driver = "postgresql+psycopg"
    max_transactions = 0
    connect_args: Mapping[str, Any] = {
        "connect_timeout": 10,
        "tcp_user_timeout": 30_000,  # milliseconds after which a server that does not respond counts as unreachable
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
        """Do nothing: ``connect_args`` contains all settings."""

    async def probe(self, connection: AsyncConnection) -> None:
        await connection.exec_driver_sql("SET TRANSACTION READ WRITE")  # a read-only server refuses it

    async def put_rows(
        self,
        connection: AsyncConnection,
        table: sa.Table,
        names: Sequence[str],
        key: Sequence[str],
        batches: AsyncIterable[Sequence[Sequence[Any]]],
    ) -> None:
        cursor = await _cursor(connection)
        target, columns = quote_names(table, names)
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
            keys = quote_names(table, key)[1]
            await cursor.execute(
                f"INSERT INTO {target} ({columns}) SELECT DISTINCT ON ({keys}) {columns} FROM {stage} "
                f"ORDER BY {keys}, aluma_number DESC {on_conflict_clause(names, key)}"
            )
            await cursor.execute(f"DROP TABLE {stage}")

    async def put_file(
        self, connection: AsyncConnection, table: sa.Table, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        cursor = await _cursor(connection)
        values = file_columns(claim, file, data)
        target, columns = quote_names(table, [*values, "data"])
        fields = [
            struct.pack(">iq", 8, value) if isinstance(value, int) else _field(value.encode())
            for value in values.values()
        ]
        async with cursor.copy(f"COPY {target} ({columns}) FROM STDIN (FORMAT binary)") as copy:
            # Signature, flags, length of the extension; then the number of fields, and each field as length and bytes.
            await copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + struct.pack(">h", len(fields) + 1) + b"".join(fields))
            await copy.write(struct.pack(">i", data.size))
            data.data.seek(0)
            while chunk := await anyio.to_thread.run_sync(data.data.read, BLOCK):
                await copy.write(chunk)
            await copy.write(struct.pack(">h", -1))


async def _cursor(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection.cursor()  # type: ignore[union-attr]


def _field(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data
