"""``SqlDestination``: rows of CSV and JSON files, or whole files, in tables. Each task is one transaction."""

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from aluma_async.clock import wall_time
from aluma_async.destinations.common.manifest import StoredFile, render_manifest
from aluma_async.destinations.common.spool import Spool
from aluma_async.destinations.sql import tables
from aluma_async.destinations.sql.backend import Backend
from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.destinations.sql.errors import is_transient, map_error
from aluma_async.destinations.sql.place import table_place
from aluma_async.destinations.sql.postgres import Postgres
from aluma_async.destinations.sql.rows import Rows, read_rows
from aluma_async.destinations.sql.sqlite import Sqlite
from aluma_async.exceptions import ConfigError, DestinationError, SchemaMismatch
from aluma_async.models import Claim, ExportFile

BACKENDS: Mapping[str, Backend] = {"postgresql": Postgres(), "sqlite": Sqlite()}
"""By SQLAlchemy's name of the database."""

TableId: TypeAlias = tuple[str | None, str]
"""Schema and name of a table."""

_CONCURRENCY = 8
"""Maximum number of transactions and of connections, unless the backend allows fewer."""
_ATTEMPTS = 6
"""Attempts at one transaction."""
_BATCH_ROWS = 1000
"""Rows that are read and converted in one step in a thread."""


class SqlDestination:
    """Tables of a PostgreSQL or SQLite database.

    Args:
        url: SQLAlchemy's URL, ``postgresql://…`` or ``sqlite:///path``.
        table: name of the table; ``{folder}`` and ``{stem}`` stand for parts of the file's path.
        key: columns that identify a row; a row replaces the one with the same key. Without a key, the rows of a task
            replace all rows that the task delivered to that table before.
        create: create missing tables.
        mode: ``rows`` reads the rows of the files; ``files`` stores whole files with their metadata.
        column_types: types of the columns of created tables, from ``tables.COLUMN_TYPES``; text if not listed.
        file_format: format of the files in ``rows`` mode.
        manifest: add a row for each task to the table ``aluma_manifest`` in the same schema.
        spool: folder in which big files are staged. None: the system's folder for temporary files.
        now: clock for the manifest, in seconds since 1970.
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
        now: Callable[[], float] = wall_time,
    ) -> None:
        try:
            database_url = sa.make_url(url)
        except (sa.exc.ArgumentError, ValueError):  # ValueError: the port is no number
            raise ConfigError("url: is not a database URL", hint='Use "postgresql://user@host/database".') from None
        backend = database_url.get_backend_name()
        if backend not in BACKENDS:
            raise ConfigError(f"url: {backend} is not supported", hint=f"Use one of {', '.join(BACKENDS)}.")
        if backend == "sqlite" and (database_url.host or database_url.username):
            hint = "Use three slashes for a relative path (sqlite:///a.db), four for an absolute one (sqlite:////srv/a.db)."
            raise ConfigError("url: contains a host, but SQLite has none", hint=hint)
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
        self.place = table_place(database_url, table, manifest=manifest)
        self._template, self._key, self._create, self._mode = table, tuple(key), create, mode
        self._column_types, self._file_format, self._spool = column_types or {}, file_format or FileFormat(), spool
        self._manifest, self._now = manifest, now
        self._tables: dict[TableId, sa.Table] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def probe(self) -> None:
        """Connect, and check that a transaction may write and that a fixed table exists."""
        async with self._transaction("connecting") as connection:
            await self._backend.probe(connection)
            if "{" not in self._template and not self._create:
                schema, _, name = self._template.rpartition(".")
                await self._get_table(connection, (schema or None, name))
            if self._manifest and not self._create:
                await self._manifest_table(connection)

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Spool]:
        """Open a delivery: files are staged, and written to their tables when the block is left."""
        with Spool(self._spool) as spool:
            yield spool
            await self._publish(claim, spool)

    async def _publish(self, claim: Claim, spool: Spool) -> None:
        files_by_table: dict[TableId, list[ExportFile]] = {}
        for file in claim.spec.files:
            files_by_table.setdefault(tables.table_name(self._template, file), []).append(file)
        for attempt in range(1, _ATTEMPTS + 1):
            tables_cached = bool(self._tables)
            try:
                async with self._transaction(f"task {claim.task.id}") as connection:
                    # All transactions use the same order, so that they cannot deadlock between tables.
                    for table_id in sorted(files_by_table, key=str):
                        await self._write_files(connection, table_id, claim, files_by_table[table_id], spool)
                    if self._manifest:
                        await self._write_manifest(connection, claim, files_by_table, spool)
                return
            except DestinationError as error:
                # A mismatch with a cached table is retried once, because the table may have been altered.
                outdated = tables_cached and isinstance(error, SchemaMismatch)
                if attempt == _ATTEMPTS or not (outdated or is_transient(error.__cause__ or error)):
                    raise
                await anyio.sleep(random.uniform(0, 0.05 * 2**attempt))

    @asynccontextmanager
    async def _transaction(self, operation: str) -> AsyncIterator[AsyncConnection]:
        """Open a transaction, shielded from cancellation except in ``_convert_batches``.

        Shielded, because a driver that is interrupted within a request may stay in an undefined state. Each step ends
        by itself: connecting, waiting for a lock and waiting for an unreachable server have their own time-outs.
        """
        async with self._slots:
            with anyio.CancelScope(shield=True) as scope:
                try:
                    async with self._engine.begin() as connection:
                        connection.info["scope"] = scope
                        yield connection
                except DestinationError:
                    self._tables.clear()  # a table may have been altered
                    raise
                except self._errors as error:
                    self._tables.clear()
                    raise map_error(error, f"{self._description}: {operation}") from error

    async def _write_files(
        self, connection: AsyncConnection, table_id: TableId, claim: Claim, files: Sequence[ExportFile], spool: Spool
    ) -> None:
        """Write all files of a claim that belong into one table."""
        if self._mode == "files":
            table = await self._get_table(connection, table_id, tables.files_table(*table_id))
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
            layout = tables.rows_table(*table_id, rows.names, self._key, self._column_types)
            table = await self._get_table(connection, table_id, layout)
            rows.check_columns(table, self._key)
            if not self._key and not rows_deleted:
                await self._delete_rows(connection, table, tables.ROW_KEY[0], claim)
                rows_deleted = True
            row_key = () if self._key else (claim.task.id, file.document, file.number)
            names = (*rows.names, *(() if self._key else tables.ROW_KEY))
            batches = self._convert_batches(connection, rows, table, row_key)
            await self._backend.put_rows(connection, table, names, self._key, batches)

    async def _convert_batches(
        self, connection: AsyncConnection, rows: Rows, table: sa.Table, row_key: tuple[Any, ...]
    ) -> AsyncIterator[list[list[Any]]]:
        """Yield the converted rows in batches; a cancellation takes effect after each batch."""
        converted = rows.convert(table, self._key, self._file_format)
        if row_key:
            table_rows = ([*values, *row_key, number] for number, values in converted)
        else:
            table_rows = (values for _, values in converted)
        while batch := await anyio.to_thread.run_sync(lambda: list(islice(table_rows, _BATCH_ROWS))):
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
        files_by_table: Mapping[TableId, Sequence[ExportFile]],
        spool: Spool,
    ) -> None:
        paths = {
            file.number: ".".join(filter(None, table_id))
            for table_id, files in files_by_table.items()
            for file in files
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
        layout = tables.manifest_table(schema)
        return await self._get_table(connection, (schema, tables.MANIFEST), layout, tables.MANIFEST_KEY)

    async def _delete_rows(self, connection: AsyncConnection, table: sa.Table, column: str, claim: Claim) -> None:
        await connection.execute(sa.delete(table).where(table.columns[column] == claim.task.id))

    async def _get_table(
        self,
        connection: AsyncConnection,
        table_id: TableId,
        layout: sa.Table | None = None,
        key: Sequence[str] = (),
    ) -> sa.Table:
        """Return a table as it is in the database; first create it with ``layout`` if the configuration allows it."""
        if table_id not in self._tables:
            if layout is not None and self._create:
                await tables.create(connection, layout)
            key = key or self._key or (("task", "file") if self._mode == "files" else tables.ROW_KEY)
            self._tables[table_id] = await tables.reflect(connection, *table_id, key)
        return self._tables[table_id]
