"""``TaskWriter``: writes the files of one task into their tables, in one transaction."""

import json
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.common.manifest import StoredFile, render_manifest
from aluma_async.destinations.common.spool import Spool
from aluma_async.destinations.sql import tables
from aluma_async.destinations.sql.backend import TableRows, clean, core_table, file_columns
from aluma_async.destinations.sql.differences import check_complete, check_difference, check_file
from aluma_async.destinations.sql.earlier import KeyedRows, OwnRows
from aluma_async.destinations.sql.errors import map_error
from aluma_async.destinations.sql.layout import Layout, check_defaults, check_rights, check_stage, check_writable
from aluma_async.destinations.sql.rows import Rows, read_rows
from aluma_async.destinations.sql.settings import Settings
from aluma_async.destinations.sql.table_access import TableAccess, TableUse
from aluma_async.destinations.sql.tables import TableId
from aluma_async.exceptions import AlreadyExported, SchemaMismatch
from aluma_async.models import Claim, ExportFile

MANIFEST_USE = TableUse(
    tables.MANIFEST_KEY, "replace", dict.fromkeys(tables.MANIFEST_KEY, "text"), (tables.MANIFEST_COLUMN,)
)
"""How the table of manifests is used."""
SCOPE = "scope"
"""Key of the cancel scope in the information of a connection."""
_COMPARED_OF_FILES = tuple(name for name in tables.FILE_KINDS if name != "data")
"""Columns of a table of whole files that show whether a file has changed; its hash is one of them."""
_BATCH_ROWS = 1000
"""Rows that are read and converted in one step in a thread."""


class TaskWriter:
    """Writes one task; valid for one transaction."""

    def __init__(
        self, settings: Settings, access: TableAccess, connection: AsyncConnection, claim: Claim, spool: Spool
    ) -> None:
        self._settings, self._access, self._connection = settings, access, connection
        self._backend, self._use = settings.backend, settings.use
        self._claim, self._spool = claim, spool
        self._row_counts: Counter[TableId] = Counter()
        """Rows that the tables must have for this task at the end, unless they have a key."""
        self._own_rows_before: dict[TableId, OwnRows] = {}
        self._rows: dict[TableId, TableRows] = {}
        self._is_only = True
        """Whether all files go into one table."""
        self._keyed_rows_before: list[tuple[str, KeyedRows]] = []
        self.layouts: dict[TableId, Layout] = {}
        """The tables that were used so far."""

    async def write(self, files_by_table: Mapping[TableId, Sequence[ExportFile]]) -> None:
        """Write all files and the manifest. Raises ``DestinationError`` and the errors of the driver."""
        self._is_only = len(files_by_table) == 1
        # All transactions use the same order, so that they cannot deadlock between tables.
        for table_id in sorted(files_by_table, key=str):
            await self._write_files(table_id, files_by_table[table_id])
        if self._settings.manifest:
            await self._write_manifest(files_by_table)
        with self._map_errors(f"task {self._claim.task.id}"):
            await self._backend.run_deferred(self._connection)
            await self._count_rows()
            await self._compare(files_by_table)
        await self._check_earlier_rows()
        await self._access.verify(self._connection, self.layouts.values())

    async def _write_files(self, table_id: TableId, files: Sequence[ExportFile]) -> None:
        """Write all files of the task that belong into one table."""
        for file in files:
            subject = f"task {self._claim.task.id}, file {file.number}"
            if self._settings.mode == "files":
                layout = await self._open_table(table_id, self._use, lambda: tables.files_table(*table_id))
                with self._map_errors(subject, layout):
                    self._record_written(table_id, file, _COMPARED_OF_FILES)
                    await self._put_file(layout, file, subject)
                    self._row_counts[table_id] += 1
            else:
                rows = await anyio.to_thread.run_sync(self._read_rows, file, subject)
                layout = await self._open_table(table_id, self._use, partial(self._new_table, table_id, rows))
                self._check_rows(rows, layout)
                with self._map_errors(subject, layout):
                    self._record_written(table_id, file, rows.names)
                    await self._put_rows(table_id, file, rows)
                    if self._use.purpose == "replace":
                        self._row_counts[table_id] += rows.count

    async def _open_table(self, table_id: TableId, use: TableUse, new: Callable[[], sa.Table]) -> Layout:
        """Return a table; before its first use, delete the rows that the task has stored there."""
        if table_id not in self.layouts:
            self.layouts[table_id] = layout = await self._access.get(self._connection, table_id, use, new)
            if use.purpose != "upsert":
                table, condition = self._own_rows(layout, use)
                if not self._claim.may_replace:
                    if use is MANIFEST_USE:
                        return layout
                    is_file = self._settings.mode == "files"
                    names = _COMPARED_OF_FILES if is_file else tuple(layout.columns)
                    rows = OwnRows(table, condition, use.key[1:], names)
                    await rows.remember(self._connection, use.key[1 if is_file else 2])
                    self._own_rows_before[table_id] = rows
                await self._connection.execute(sa.delete(table).where(condition))
        return self.layouts[table_id]

    def _record_written(self, table_id: TableId, file: ExportFile, names: Collection[str]) -> None:
        if table_id in self._own_rows_before:
            self._own_rows_before[table_id].record(file.number, names)

    async def _check_earlier_rows(self) -> None:
        """Raise ``AlreadyExported`` if rows have changed that must not be replaced."""
        for rows in self._own_rows_before.values():
            if (number := await rows.changed_file(self._connection)) is not None:
                raise AlreadyExported(f"task {self._claim.task.id}, file {number}")
        for subject, keyed in self._keyed_rows_before:
            if await keyed.are_changed(self._connection):
                raise AlreadyExported(f"{subject}: a row with the same key")

    def _own_rows(self, layout: Layout, use: TableUse) -> tuple[sa.TableClause, sa.ColumnElement[bool]]:
        """Return a table without a key, and the condition that rows of this task fulfil."""
        table, values = core_table(layout), (clean(self._claim.task.id), self._settings.template.text)
        # Rows and files are identified by their task, manifests by their table, too.
        key = use.key if use is MANIFEST_USE else use.key[:1]
        equals = self._backend.equals
        return table, sa.and_(*(equals(table.columns[name], value) for name, value in zip(key, values, strict=False)))

    async def _count_rows(self) -> None:
        """Raise ``SchemaMismatch`` unless the tables have all rows of this task: a trigger or rule may drop them."""
        for table_id, expected in self._row_counts.items():
            layout = self.layouts[table_id]
            table, condition = self._own_rows(layout, MANIFEST_USE if table_id[1] == tables.MANIFEST else self._use)
            query = sa.select(sa.func.count()).select_from(table).where(condition)
            count = int((await self._connection.execute(query)).scalar_one())
            check_complete(f"task {self._claim.task.id}, table {layout.label}", expected - count)

    async def _compare(self, files_by_table: Mapping[TableId, Sequence[ExportFile]]) -> None:
        """Raise ``SchemaMismatch`` unless the tables have what was written, as far as a trigger may change it."""
        left_out = self._settings.trigger_columns
        for table_id, rows in self._rows.items():
            layout = self.layouts[table_id]
            difference = await rows.compare(left_out)
            check_difference(f"task {self._claim.task.id}, table {layout.label}", difference, self._use.key)
        for table_id, files in files_by_table.items() if self._settings.mode == "files" else ():
            if self._backend.may_change_files(self.layouts[table_id]):
                await self._compare_files(self.layouts[table_id], files, left_out)

    async def _compare_files(self, layout: Layout, files: Sequence[ExportFile], left_out: Collection[str]) -> None:
        stored = await self._backend.read_files(
            self._connection, layout, clean(self._claim.task.id), _COMPARED_OF_FILES
        )
        by_number = {values["file"]: (values, digest) for values, digest in stored}
        for file in files:
            subject, data = f"task {self._claim.task.id}, file {file.number}", self._spool[file]
            check_complete(subject, file.number not in by_number)
            values, digest = by_number[file.number]
            check_file(subject, layout, file_columns(self._claim, file, data), values, data, digest, left_out)

    def _read_rows(self, file: ExportFile, subject: str) -> Rows:
        key = self._settings.key
        rows = read_rows(
            self._spool[file].data,
            file,
            subject,
            self._settings.file_format,
            max_name_bytes=self._backend.max_name_bytes,
            fold_case=self._backend.fold_case,
            known_names=self._settings.known_names,
        )
        rows.check_names(key, () if key else tables.ROW_KEY)
        return rows

    def _new_table(self, table_id: TableId, rows: Rows) -> sa.Table:
        rows.check_new_table()
        return tables.rows_table(*table_id, rows.names, self._settings.key, self._settings.column_types)

    def _check_rows(self, rows: Rows, layout: Layout) -> None:
        rows.check_columns(layout)
        for name in rows.names:
            check_writable(layout, name)
            check_rights(layout, name, self._use.key, self._use.purpose, is_ragged=rows.is_ragged)
        if rows.is_ragged:
            check_stage(layout)
        check_defaults(layout, (*rows.names, *self._use.key))

    async def _put_rows(self, table_id: TableId, file: ExportFile, rows: Rows) -> None:
        layout, key = self.layouts[table_id], self._settings.key
        if key and not self._claim.may_replace:
            keyed = KeyedRows(layout, key, rows.names)
            again = await anyio.to_thread.run_sync(self._read_rows, file, rows.subject)
            await keyed.remember(self._connection, self._backend, self._convert_batches(again, layout, ()))
            self._keyed_rows_before.append((rows.subject, keyed))
        row_key = () if key else (clean(self._claim.task.id), file.document, file.number)
        names = (*rows.names, *(() if key else tables.ROW_KEY))
        batches = self._convert_batches(rows, layout, row_key)
        target = await self._open_rows(table_id, self._use)
        await target.put(names, batches, is_ragged=rows.is_ragged)

    async def _open_rows(self, table_id: TableId, use: TableUse) -> TableRows:
        if table_id not in self._rows:
            layout, number = self.layouts[table_id], len(self._rows)
            self._rows[table_id] = await self._backend.open_rows(
                self._connection, layout, use.key, use.purpose, number, is_only=self._is_only
            )
        return self._rows[table_id]

    async def _put_file(self, layout: Layout, file: ExportFile, subject: str) -> None:
        data = self._spool[file]
        if data.size > self._backend.max_file_bytes:
            raise SchemaMismatch(
                f"{subject}: has {data.size} bytes, more than a table can store",
                hint="Send such files to another destination with a route.",
            )
        await self._backend.put_file(self._connection, layout, self._claim, file, data)

    async def _convert_batches(
        self, rows: Rows, layout: Layout, row_key: tuple[Any, ...]
    ) -> AsyncIterator[list[list[Any]]]:
        """Yield the converted rows in batches; a cancellation takes effect after each batch."""
        converted = rows.convert(layout, self._settings.key, self._settings.file_format)
        if row_key:
            table_rows = ([*values, *row_key, number] for number, values in converted)
        else:
            table_rows = (values for _, values in converted)
        while batch := await anyio.to_thread.run_sync(lambda: list(islice(table_rows, _BATCH_ROWS))):
            yield batch
            scope: anyio.CancelScope = self._connection.info[SCOPE]
            scope.shield = False
            try:
                await anyio.lowlevel.checkpoint()
            finally:
                scope.shield = True

    async def _write_manifest(self, files_by_table: Mapping[TableId, Sequence[ExportFile]]) -> None:
        paths = {file.number: tables.label(table_id) for table_id, files in files_by_table.items() for file in files}
        stored = [
            StoredFile(file, paths[file.number], self._spool[file].size, self._spool[file].sha256)
            for file in self._claim.spec.files
        ]
        text = render_manifest(self._claim, stored, self._settings.now())
        row = [clean(self._claim.task.id), self._settings.template.text, json.dumps(msgspec.json.decode(text))]
        schema = self._settings.template.fixed_schema
        layout = await self._open_table((schema, tables.MANIFEST), MANIFEST_USE, lambda: tables.manifest_table(schema))

        if not self._claim.may_replace:
            table, condition = self._own_rows(layout, MANIFEST_USE)
            if (await self._connection.execute(sa.select(sa.true()).select_from(table).where(condition))).first():
                return

        async def one_row() -> AsyncIterator[list[list[Any]]]:
            yield [row]

        with self._map_errors(f"task {self._claim.task.id}, manifest", layout):
            names = (*tables.MANIFEST_KEY, tables.MANIFEST_COLUMN)
            target = await self._open_rows((schema, tables.MANIFEST), MANIFEST_USE)
            await target.put(names, one_row(), is_ragged=False)
            self._row_counts[schema, tables.MANIFEST] = 1

    @contextmanager
    def _map_errors(self, subject: str, layout: Layout | None = None) -> Iterator[None]:
        """Map the errors of one file, so that they name it. A value that the driver cannot send does not fit."""
        try:
            yield
        except self._settings.errors as error:
            columns = layout.columns if layout and not layout.is_new else ()
            may_name_columns = not (layout and layout.is_new)
            raise map_error(error, subject, columns, may_name_columns=may_name_columns, in_rows=True) from error
        except (ValueError, TypeError, ArithmeticError, struct.error) as error:
            raise SchemaMismatch(
                f"{subject}: the database driver cannot send a value ({type(error).__name__})", hint="Check the file."
            ) from error
