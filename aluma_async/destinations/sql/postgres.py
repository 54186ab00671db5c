"""``Postgres``: the connection, and whole files, which are sent with COPY."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.sql import postgres_catalog
from aluma_async.destinations.sql.backend import TableRows, file_columns, quote, quote_names
from aluma_async.destinations.sql.layout import Layout, Purpose
from aluma_async.destinations.sql.postgres_rows import PostgresRows
from aluma_async.destinations.sql.tables import label
from aluma_async.exceptions import ConfigError
from aluma_async.models import Claim, ExportFile

_DEFAULTS: Mapping[str, Any] = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,  # milliseconds after which a server that does not respond counts as unreachable
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
}
"""Parameters that the URL may override. PgBouncer knows none of the server's, so there are none here."""
_PORT = "5432"
_STAGE = "aluma_stage"
"""Temporary table of a file, where COPY is refused."""
# The settings of the user, of the database and of the URL stay, except that a commit must be durable, and NULL in an
# array is not a text. The server ends the transaction of an exporter that is suspended, because it would block others.
_BEGIN = """
SELECT CASE current_setting('idle_in_transaction_session_timeout')
    WHEN '0' THEN set_config('idle_in_transaction_session_timeout', '300s', true) END,
  CASE current_setting('lock_timeout') WHEN '0' THEN set_config('lock_timeout', '60s', true) END,
  CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END,
  current_setting('transaction_read_only'),
  set_config('array_nulls', 'on', true)
"""
_INTEGERS = {16: ">ih", 32: ">ii", 64: ">iq"}
"""Binary form of an integer with its length, by its number of bits."""


class Postgres:
    """A server. A file is sent in the binary format of COPY."""

    max_transactions = 0
    max_name_bytes = 63
    max_file_bytes = 1_000_000_000
    fold_case = False
    has_strict_types = True

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        import psycopg

        return (psycopg.Error,)

    def read_url(self, url: str) -> tuple[sa.URL, Mapping[str, Any]]:
        from psycopg import ProgrammingError
        from psycopg.conninfo import make_conninfo
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

        url = "postgresql://" + url.partition("://")[2]
        try:
            address = _read_hosts(url) or sa.make_url(url)
            given: dict[str, Any] = PGDialect_psycopg().create_connect_args(address)[1]  # type: ignore[no-untyped-call]
            if any(isinstance(value, tuple) for value in given.values()):
                raise ValueError("a parameter is repeated")
            make_conninfo(**given)
        except (ProgrammingError, sa.exc.ArgumentError, ValueError, TypeError):
            raise ConfigError(
                "url: is not a database URL, or has an unknown parameter",
                hint='Use "postgresql://user@host/database"; write special characters of the password as %XX.',
            ) from None
        if "," in str(given.get("host", "")):
            given = {"target_session_attrs": "read-write", **given}  # skips standby servers
        # Without named prepared statements, so that PgBouncer can move transactions between connections. All texts
        # are sent as UTF-8, independently of the environment.
        forced = {"client_encoding": "UTF8", "prepare_threshold": None}
        return address, {**_DEFAULTS, **given, **forced}

    def engine_url(self, address: sa.URL) -> str | sa.URL:  # noqa: ARG002 - the arguments contain all of it
        return "postgresql+psycopg://"

    def set_up(self, connection: Any, record: Any) -> None:
        """Do nothing: the connection arguments contain all settings."""

    async def storage_problem(self, info: Mapping[Any, Any]) -> str:  # noqa: ARG002
        return ""

    async def begin(self, connection: AsyncConnection) -> bool:
        ((*_, read_only, _),) = await _fetch(connection, _BEGIN)
        return bool(read_only == "off")

    async def describe(self, connection: AsyncConnection, schema: str | None, name: str) -> Layout | None:
        rows = await _fetch(connection, postgres_catalog.DESCRIBE, {"schema": schema, "name": name})
        return postgres_catalog.read_layout(rows[0], name, label((schema, name))) if rows else None

    async def find_similar(self, connection: AsyncConnection, schema: str | None, name: str) -> str:
        rows = await _fetch(connection, postgres_catalog.SIMILAR, {"schema": schema, "name": name})
        return rows[0][0] if rows else ""

    async def creation_problem(self, connection: AsyncConnection, schema: str | None) -> str:
        ((problem,),) = await _fetch(connection, postgres_catalog.CREATION_PROBLEM, {"schema": schema})
        return str(problem)

    async def fingerprint(self, connection: AsyncConnection, layout: Layout) -> str:
        table = quote_names(layout, ())[0]
        rows = await _fetch(connection, postgres_catalog.FINGERPRINT, {"table": table})
        return rows[0][0] if rows else ""

    async def open_rows(
        self,
        connection: AsyncConnection,
        layout: Layout,
        key: Sequence[str],
        purpose: Purpose,
        number: int,
        *,
        is_only: bool,
    ) -> TableRows:
        return PostgresRows(await _cursor(connection), layout, key, purpose, number, is_only=is_only)

    async def put_file(
        self, connection: AsyncConnection, layout: Layout, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        values = file_columns(claim, file, data)
        names = [*values, "data"]
        fields = [
            struct.pack(_INTEGERS[layout.columns[name].type.bits], layout.columns[name].type.bits // 8, value)
            if isinstance(value, int)
            else _field(value.encode())
            for name, value in values.items()
        ]
        # Signature, flags, length of the extension; then the number of fields, and each field as length and bytes.
        header = b"PGCOPY\n\xff\r\n\0" + bytes(8) + struct.pack(">h", len(fields) + 1)
        cursor = await _cursor(connection)
        table, columns = quote_names(layout, names)
        target = f"pg_temp.{_STAGE}" if layout.must_stage else table
        if layout.must_stage:
            await cursor.execute(f"CREATE TEMP TABLE {_STAGE} AS SELECT {columns} FROM {table} LIMIT 0")
        async with cursor.copy(f"COPY {target} ({columns}) FROM STDIN (FORMAT binary)") as copy:
            await copy.write(header + b"".join(fields) + struct.pack(">i", data.size))
            data.data.seek(0)
            while chunk := await anyio.to_thread.run_sync(data.data.read, BLOCK):
                await copy.write(chunk)
            await copy.write(struct.pack(">h", -1))
        if layout.must_stage:
            await cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {target}")
            await cursor.execute(f"DROP TABLE {target}")

    def may_change_files(self, layout: Layout) -> bool:
        return layout.has_triggers or layout.must_stage  # COPY invokes no rules, but INSERT does

    async def read_files(
        self, connection: AsyncConnection, layout: Layout, task: str, names: Sequence[str]
    ) -> Sequence[tuple[Mapping[str, Any], str]]:
        table, columns = quote_names(layout, names)
        query = f"SELECT encode(sha256({quote('data')}::bytea), 'hex'), {columns} FROM {table} WHERE {quote('task')} ="
        rows = await _fetch(connection, query.replace("%", "%%") + " %(task)s", {"task": task})
        return [(dict(zip(names, row[1:], strict=True)), row[0] or "") for row in rows]

    def equals(self, column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
        return column == text  # columns that merge texts are refused

    def driver_value(self, value: Any) -> Any:
        return value

    async def run_deferred(self, connection: AsyncConnection) -> None:
        await (await _cursor(connection)).execute("SET CONSTRAINTS ALL IMMEDIATE")


async def _cursor(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection.cursor()  # type: ignore[union-attr]


def _read_hosts(url: str) -> sa.URL | None:
    """Return a URL with several hosts, which only libpq reads; None if it has one."""
    from psycopg.conninfo import conninfo_to_dict

    if "," not in url.partition("?")[0].rpartition("@")[2].partition("/")[0]:
        return None
    given = {name: str(value) for name, value in conninfo_to_dict(url).items() if value}
    user, password, database = (given.pop(name, None) for name in ("user", "password", "dbname"))
    if "port" in given:
        given["port"] = ",".join(port or _PORT for port in given["port"].split(","))
    return sa.URL.create("postgresql", user, password, database=database, query=given)


async def _fetch(connection: AsyncConnection, statement: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
    cursor = await _cursor(connection)
    await cursor.execute(statement, parameters)
    return await cursor.fetchall()  # type: ignore[no-any-return]


def _field(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data
