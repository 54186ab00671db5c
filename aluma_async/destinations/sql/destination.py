"""``SqlDestination``: the rows of CSV and JSON files, or whole files, in tables; one transaction a task."""

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from aluma_async.destinations.common.manifest import StoredFile, render_manifest
from aluma_async.destinations.common.spool import Spool
from aluma_async.destinations.sql import tables
from aluma_async.destinations.sql.backend import BACKENDS, Backend
from aluma_async.destinations.sql.errors import is_transient, map_error
from aluma_async.destinations.sql.rows import FileFormat, Rows, read_rows
from aluma_async.exceptions import ConfigError, DestinationError, SchemaMismatch
from aluma_async.models import Claim, ExportFile

_CONCURRENCY = 8
"""Transactions at a time, and connections; SQLite has one writer."""
_ATTEMPTS = 6
_BATCH = 1000
"""Rows that are read and converted in one step off the loop."""


class SqlDestination:
    """Tables of PostgreSQL (``postgresql://``) or SQLite (``sqlite:///path``).

    ``table`` may hold ``{folder}`` and ``{stem}``. In ``mode="rows"`` a row replaces the one with the same ``key``
    columns; without a key the rows of a task replace all that it delivered to that table before. In
    ``mode="files"`` whole files are kept with what is known of them. ``create`` makes tables that are missing, with
    ``types`` (see ``tables.COLUMN_TYPES``; text where none is given). Big files are staged in ``spool``.
    ``manifest`` adds a row to the table ``aluma_manifest`` beside it.
    """

    def __init__(
        self,
        url: str,
        table: str,
        *,
        key: Sequence[str] = (),
        create: bool = False,
        mode: Literal["rows", "files"] = "rows",
        column_types: Mapping[str, str] | None = None,
        file_format: FileFormat | None = None,
        manifest: bool = False,
        spool: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        try:
            database_url = sa.make_url(url)
        except sa.exc.ArgumentError:
            raise ConfigError("url: is no URL of a database", hint='Like "postgresql://me@host/database".') from None
        backend = database_url.get_backend_name()
        if backend not in BACKENDS:
            raise ConfigError(f"url: {backend} is not supported", hint=f"Known: {', '.join(BACKENDS)}.")
        self._backend: Backend = BACKENDS[backend]
        self._engine = create_async_engine(
            database_url.set(drivername=self._backend.driver),
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=_CONCURRENCY,
            connect_args=dict(self._backend.connect_args),
        )
        if backend == "sqlite":
            sa.event.listen(self._engine.sync_engine, "connect", self._backend.set_up)
        self._errors: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, OSError, *self._backend.errors)
        self._slots = anyio.Semaphore(self._backend.max_transactions or _CONCURRENCY)
        self._description = database_url.render_as_string(hide_password=True)
        self._template, self._key, self._create, self._mode = table, tuple(key), create, mode
        self._column_types, self._file_format, self._spool = column_types or {}, file_format or FileFormat(), spool
        self._manifest, self._now = manifest, now
        self._tables: dict[tuple[str | None, str], sa.Table] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def probe(self) -> None:
        """Connect, and see whether a transaction may write and the table is there, if it is a fixed one."""
        async with self._transaction("connecting") as connection:
            await self._backend.probe(connection)
            if "{" not in self._template and not self._create:
                schema, _, name = self._template.rpartition(".")
                await self._get_table(connection, (schema or None, name))
            if self._manifest and not self._create:
                await self._manifest_table(connection)

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Spool]:
        """Begin to deliver: files are staged, and go into their tables together at the end."""
        with Spool(self._spool) as spool:
            yield spool
            await self._publish(claim, spool)

    async def _publish(self, claim: Claim, spool: Spool) -> None:
        files_by_table: dict[tuple[str | None, str], list[ExportFile]] = {}
        for file in claim.spec.files:
            files_by_table.setdefault(tables.table_name(self._template, file), []).append(file)
        for attempt in range(1, _ATTEMPTS + 1):
            tables_cached = bool(self._tables)
            try:
                async with self._transaction(f"task {claim.task.id}") as connection:
                    for where in sorted(files_by_table, key=str):  # one order for all: no deadlock between tables
                        await self._write_files(connection, where, claim, files_by_table[where], spool)
                    if self._manifest:
                        await self._write_manifest(connection, claim, files_by_table, spool)
                return
            except DestinationError as error:
                outdated = tables_cached and isinstance(error, SchemaMismatch)  # it may fit into the table as it is now
                if attempt == _ATTEMPTS or not (outdated or is_transient(error.__cause__ or error)):
                    raise
                await anyio.sleep(random.uniform(0, 0.05 * 2**attempt))

    @asynccontextmanager
    async def _transaction(self, operation: str) -> AsyncIterator[AsyncConnection]:
        """Let no cancellation in but where ``_batches`` does: a driver that is cut off in mid-sentence may stay so.

        Each step ends by itself: connecting, a lock and a server that is away have time-outs of their own.
        """
        async with self._slots:
            with anyio.CancelScope(shield=True) as scope:
                try:
                    async with self._engine.begin() as connection:
                        connection.info["scope"] = scope
                        yield connection
                except DestinationError:
                    self._tables.clear()  # somebody may have changed one
                    raise
                except self._errors as error:
                    self._tables.clear()
                    raise map_error(error, f"{self._description}: {operation}") from error

    async def _write_files(
        self,
        connection: AsyncConnection,
        where: tuple[str | None, str],
        claim: Claim,
        files: Sequence[ExportFile],
        spool: Spool,
    ) -> None:
        if self._mode == "files":
            table = await self._get_table(connection, where, tables.files_table(*where))
            await self._delete_rows(connection, table, "task", claim)
            for file in files:
                await self._backend.put_file(connection, table, claim, file, spool[file])
            return
        rows_deleted = False
        for file in files:
            subject = f"task {claim.task.id}, file {file.number}"
            rows = await anyio.to_thread.run_sync(
                read_rows, spool[file].data, file.filename, subject, self._file_format
            )
            new = tables.rows_table(*where, rows.names, self._key, self._column_types)
            table = await self._get_table(connection, where, new)
            rows.check_columns(table, self._key)
            if not self._key and not rows_deleted:
                await self._delete_rows(connection, table, tables.ROW_KEY[0], claim)
                rows_deleted = True
            row_key = () if self._key else (claim.task.id, file.document, file.number)
            names = (*rows.names, *(() if self._key else tables.ROW_KEY))
            await self._backend.put_rows(
                connection, table, names, self._key, self._convert_batches(connection, rows, table, row_key)
            )

    async def _convert_batches(
        self, connection: AsyncConnection, rows: Rows, table: sa.Table, row_key: tuple[Any, ...]
    ) -> AsyncIterator[list[list[Any]]]:
        converted = rows.convert(table, self._key, self._file_format)
        if row_key:
            rows_with_key = ([*values, *row_key, number] for number, values in converted)
        else:
            rows_with_key = (values for _, values in converted)
        while batch := await anyio.to_thread.run_sync(lambda: list(islice(rows_with_key, _BATCH))):
            yield batch
            scope: anyio.CancelScope = connection.info["scope"]
            scope.shield = False
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                scope.shield = True

    async def _write_manifest(
        self,
        connection: AsyncConnection,
        claim: Claim,
        files_by_table: Mapping[tuple[str | None, str], Sequence[ExportFile]],
        spool: Spool,
    ) -> None:
        paths = {
            file.number: ".".join(filter(None, where)) for where, files in files_by_table.items() for file in files
        }
        stored = [
            StoredFile(file, paths[file.number], spool[file].size, spool[file].sha256) for file in claim.spec.files
        ]
        table = await self._manifest_table(connection)
        row_key = dict(zip(tables.MANIFEST_KEY, (claim.task.id, self._template), strict=True))
        text = render_manifest(claim, stored, self._now())
        await connection.execute(sa.delete(table).where(*(table.columns[name] == row_key[name] for name in row_key)))
        await connection.execute(sa.insert(table).values(**row_key, manifest=msgspec.json.decode(text)))

    async def _manifest_table(self, connection: AsyncConnection) -> sa.Table:
        schema = self._template.rpartition(".")[0] or None
        new = tables.manifest_table(schema)
        return await self._get_table(connection, (schema, tables.MANIFEST), new, tables.MANIFEST_KEY)

    async def _delete_rows(self, connection: AsyncConnection, table: sa.Table, column: str, claim: Claim) -> None:
        await connection.execute(sa.delete(table).where(table.columns[column] == claim.task.id))

    async def _get_table(
        self,
        connection: AsyncConnection,
        where: tuple[str | None, str],
        new: sa.Table | None = None,
        key: Sequence[str] = (),
    ) -> sa.Table:
        """Return a table as it is, or as it was made to be."""
        if where not in self._tables:
            if new is not None and self._create:
                await tables.create(connection, new)
            key = key or self._key or (("task", "file") if self._mode == "files" else tables.ROW_KEY)
            self._tables[where] = await tables.reflect(connection, *where, key)
        return self._tables[where]
