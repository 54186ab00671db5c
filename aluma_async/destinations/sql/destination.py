"""``SqlDestination``: rows of CSV and JSON files, or whole files, in tables. Each task is one transaction."""

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import anyio
import anyio.lowlevel
import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from aluma_async.clock import wall_time
from aluma_async.config.redaction import redact_url
from aluma_async.destinations.common.spool import Spool
from aluma_async.destinations.sql import tables
from aluma_async.destinations.sql.backend import Backend
from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.destinations.sql.errors import is_transient, map_error
from aluma_async.destinations.sql.layout import (
    Layout,
    check_columns,
    check_writable,
    type_warnings,
)
from aluma_async.destinations.sql.place import table_place
from aluma_async.destinations.sql.postgres import Postgres
from aluma_async.destinations.sql.settings import Settings
from aluma_async.destinations.sql.sqlite import Sqlite
from aluma_async.destinations.sql.table_access import TableAccess, TableAltered
from aluma_async.destinations.sql.tables import TableId, TableTemplate
from aluma_async.destinations.sql.writer import MANIFEST_USE, SCOPE, TaskWriter
from aluma_async.exceptions import ConfigError, DestinationError, DestinationUnavailable, SchemaMismatch
from aluma_async.models import Claim, ExportFile
from aluma_async.ports import CHECK_LEASE

BACKENDS: Mapping[str, Backend] = {"postgresql": Postgres(), "postgres": Postgres(), "sqlite": Sqlite()}
"""By the scheme of the URL."""

_CONCURRENCY = 8
"""Maximum number of transactions and of connections, unless the backend allows fewer."""
_ATTEMPTS = 6
"""Attempts at one transaction."""
_STORAGE_HINT = "Use a file, and stop the exporter before you move or remove it."


class SqlDestination:
    """Tables of a PostgreSQL or SQLite database.

    Args:
        url: ``postgresql://…`` with the parameters of libpq, or ``sqlite:///path``.
        table: name of the table, quoted as it is; ``{folder}`` and ``{stem}`` stand for parts of the file's path.
        key: columns that identify a row; a row replaces the one with the same key. Without a key, the rows of a task
            replace all rows that the task delivered to that table before.
        create: create missing tables.
        mode: ``rows`` reads the rows of the files; ``files`` stores whole files with their metadata.
        column_types: types of the columns of created tables, from ``tables.COLUMN_TYPES``; text if not listed.
        file_format: format of the files in ``rows`` mode.
        trigger_columns: columns that a trigger of the table may change or keep, so that they are not compared.
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
        trigger_columns: Sequence[str] = (),
        manifest: bool = False,
        spool: Path | None = None,
        now: Callable[[], float] = wall_time,
    ) -> None:
        kind = url.partition(":")[0].partition("+")[0].lower() if "://" in url else ""
        if not kind:
            raise ConfigError("url: is not a database URL", hint='Use "postgresql://user@host/database".')
        if kind not in BACKENDS:
            raise ConfigError(f"url: {kind[:20]} is not supported", hint="Use one of postgresql, sqlite.")
        self._backend: Backend = BACKENDS[kind]
        self._template = TableTemplate.parse(table, self._backend.max_name_bytes)
        address, arguments = self._backend.read_url(url)
        self.place = table_place(address, self._template, manifest=manifest)
        self._engine = create_async_engine(
            self._backend.engine_url(address),
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=_CONCURRENCY,
            connect_args=dict(arguments),
        )
        if kind == "sqlite":
            sa.event.listen(self._engine.sync_engine, "connect", self._backend.set_up)
        self._errors: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, OSError, *self._backend.errors)
        self._slots = anyio.Semaphore(self._backend.max_transactions or _CONCURRENCY)
        self._description = redact_url(url)
        self._spool = spool
        self._settings = Settings(
            backend=self._backend,
            errors=self._errors,
            template=self._template,
            mode=mode,
            key=tuple(key),
            column_types=column_types or {},
            file_format=file_format or FileFormat(),
            trigger_columns=frozenset(trigger_columns),
            manifest=manifest,
            now=now,
        )
        self._tables = TableAccess(self._backend, create=create)
        self.warning = ""
        """The limitations that the last probe found; empty if there are none."""

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    async def probe(self) -> None:
        """Check all that can be checked without a file: that a transaction may write, the tables and the rights."""
        self._tables.forget()
        layouts: list[Layout | None] = []
        warnings: list[str] = []
        async with self._transaction("connecting") as connection:
            if self._template.is_fixed:
                layout = await self._tables.probe(
                    connection, (self._template.schema, self._template.name), self._settings.use
                )
                layouts.append(layout)
                if layout and self._settings.mode == "rows":
                    warnings += self._check_configured_columns(layout)
            if self._settings.manifest:
                manifest_id = (self._template.fixed_schema, tables.MANIFEST)
                layouts.append(await self._tables.probe(connection, manifest_id, MANIFEST_USE))
        warnings += [layout.warning for layout in layouts if layout and layout.warning]
        self.warning = "; ".join(warnings)

    def _check_configured_columns(self, layout: Layout) -> list[str]:
        """Raise ``DestinationError`` unless the columns of ``header_names`` exist; return warnings about others."""
        names = self._settings.file_format.column_names
        header = [names.get(name, name) for name in self._settings.file_format.header_names]
        check_columns(layout, [name for name in header if name])
        for name in filter(None, header):
            check_writable(layout, name)
        return type_warnings(layout) + [
            f"table {layout.label} has no column {name!r}, which column_names contains"
            for name in names.values()
            if name and name not in layout.columns
        ]

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Spool]:
        """Open a delivery: files are staged, and written to their tables when the block is left."""
        check_lease = CHECK_LEASE.get()
        with Spool(self._spool) as spool:
            yield spool
            await self._publish(claim, spool, check_lease)

    async def _publish(self, claim: Claim, spool: Spool, check_lease: Callable[[], object]) -> None:
        files_by_table = self._group_by_table(claim)
        for attempt in range(1, _ATTEMPTS + 1):
            tables_cached = not self._tables.is_empty
            try:
                # What a redelivery compares must not change until its end.
                operation = f"task {claim.task.id}"
                async with self._transaction(operation, serializable=not claim.may_replace) as connection:
                    writer = TaskWriter(self._settings, self._tables, connection, claim, spool)
                    await writer.write(files_by_table)
                    check_lease()  # another exporter may have committed a newer version since
                self._tables.remember(writer.layouts)
                return
            except DestinationError as error:
                # A mismatch with a cached table is retried once, because the table may have been altered.
                outdated = isinstance(error, TableAltered) or (tables_cached and isinstance(error, SchemaMismatch))
                if attempt == _ATTEMPTS or not (outdated or is_transient(error.__cause__ or error)):
                    raise
                await anyio.sleep(random.uniform(0, 0.05 * 2**attempt))

    def _group_by_table(self, claim: Claim) -> Mapping[TableId, list[ExportFile]]:
        """Return the files of each table. Names that the database regards as equal are one table."""
        table_ids: dict[TableId, TableId] = {}
        files_by_table: dict[TableId, list[ExportFile]] = {}
        for file in claim.spec.files:
            schema, name = self._template.table_for(file)
            folded = (schema, name.lower()) if self._backend.fold_case else (schema, name)
            files_by_table.setdefault(table_ids.setdefault(folded, (schema, name)), []).append(file)
        return files_by_table

    @asynccontextmanager
    async def _transaction(self, operation: str, *, serializable: bool = False) -> AsyncIterator[AsyncConnection]:
        """Open a transaction, shielded from cancellation except in ``_convert_batches``.

        Shielded, because a driver that is interrupted within a request may stay in an undefined state. Each step ends
        by itself: connecting, waiting for a lock and waiting for an unreachable server have their own time-outs.
        """
        engine = self._engine.execution_options(isolation_level="SERIALIZABLE") if serializable else self._engine
        async with self._slots:
            with anyio.CancelScope(shield=True) as scope:
                try:
                    async with engine.begin() as connection:
                        info = connection.info
                        info[SCOPE] = scope
                        if not await self._backend.begin(connection):
                            raise DestinationUnavailable(
                                f"{self._description}: transactions are read-only",
                                hint="Use the primary server, and a user whose transactions may write.",
                            )
                        yield connection
                    if problem := await self._backend.storage_problem(info):
                        await self._engine.dispose()  # so that the next transaction opens the file anew
                        raise DestinationUnavailable(f"{self._description}: {problem}", hint=_STORAGE_HINT)
                except DestinationError:
                    self._tables.forget()  # a table or a right may have changed
                    raise
                except self._errors as error:
                    self._tables.forget()
                    raise map_error(error, f"{self._description}: {operation}") from error
