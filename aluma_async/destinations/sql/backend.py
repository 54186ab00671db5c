"""``Backend``: how one kind of database stores many rows, and files that do not fit into memory."""

from collections.abc import AsyncIterable, Collection, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.sql.differences import Difference
from aluma_async.destinations.sql.layout import Layout, Purpose
from aluma_async.models import Claim, ExportFile


class TableRows(Protocol):
    """The rows that a transaction writes to one table. Every method raises the errors of the driver."""

    async def put(self, names: Sequence[str], batches: AsyncIterable[Sequence[list[Any]]], *, is_ragged: bool) -> None:
        """Insert the rows of a file; ``is_ragged`` is whether cells may be ``ABSENT``.

        With a key of the administrator, a row replaces the one with the same key; the last one of a file wins. An
        absent cell keeps the value of the stored row.
        """
        ...

    async def compare(self, left_out: Collection[str]) -> Difference:
        """Return how the table differs from the rows, except in the columns ``left_out``, if it can differ at all."""
        ...


class Backend(Protocol):
    """One kind of database. Every method runs inside a transaction and raises the errors of its driver."""

    max_transactions: int
    """Maximum number of concurrent transactions; 0 means no limit of the backend."""
    max_name_bytes: int
    """Maximum length of the name of a table or column; 0 means no limit."""
    max_file_bytes: int
    """Maximum size of a file that a table can store."""
    fold_case: bool
    """Whether names are equal that differ in upper and lower case only."""

    has_strict_types: bool
    """Whether a column refuses values of another type."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Exceptions that the driver raises outside SQLAlchemy."""
        ...

    def read_url(self, url: str) -> tuple[sa.URL, Mapping[str, Any]]:
        """Return the URL as SQLAlchemy reads it, and the arguments of a connection. Raises ``ConfigError``."""
        ...

    def engine_url(self, address: sa.URL) -> str | sa.URL:
        """Return the URL for an engine that gets the arguments of a connection, too."""
        ...

    def set_up(self, connection: Any, record: Any) -> None:
        """Prepare a new connection of the driver. Blocking."""
        ...

    async def storage_problem(self, info: Mapping[Any, Any]) -> str:
        """Return why committed rows are not where the URL says; ``info`` is the information of the connection."""
        ...

    async def begin(self, connection: AsyncConnection) -> bool:
        """Prepare a transaction; return whether it may write."""
        ...

    async def describe(self, connection: AsyncConnection, schema: str | None, name: str) -> Layout | None:
        """Return a table as it is in the database; None if it does not exist."""
        ...

    async def find_similar(self, connection: AsyncConnection, schema: str | None, name: str) -> str:
        """Return the name of a table that differs in upper and lower case only; empty if there is none."""
        ...

    async def creation_problem(self, connection: AsyncConnection, schema: str | None) -> str:
        """Return why the user cannot create tables; empty if it can."""
        ...

    async def fingerprint(self, connection: AsyncConnection, layout: Layout) -> str:
        """Return the fingerprint that the table has now."""
        ...

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
        """Return the rows that the transaction writes to a table.

        ``number`` identifies the table in the transaction, and ``is_only`` is whether it writes to no other one, whose
        triggers could change these rows.
        """
        ...

    async def put_file(
        self, connection: AsyncConnection, layout: Layout, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        """Insert a whole file."""
        ...

    def may_change_files(self, layout: Layout) -> bool:
        """Return whether a stored file may differ from the one that was written, or a comparison costs little."""
        ...

    async def read_files(
        self, connection: AsyncConnection, layout: Layout, task: str, names: Sequence[str]
    ) -> Sequence[tuple[Mapping[str, Any], str]]:
        """Return the columns ``names`` of the files of a task, and the SHA-256 hash of each content."""
        ...

    def equals(self, column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
        """Return the condition that a column of the exporter itself contains exactly a text."""
        ...

    def driver_value(self, value: Any) -> Any:
        """Return a converted value as the driver accepts it in a query."""
        ...

    async def run_deferred(self, connection: AsyncConnection) -> None:
        """Run the triggers and constraints that would run at the commit."""
        ...


def core_table(layout: Layout) -> sa.TableClause:
    """Return a table for SQLAlchemy's statements, with its names quoted as they are."""
    columns: list[sa.ColumnClause[Any]] = [sa.column(sa.quoted_name(name, quote=True)) for name in layout.columns]
    schema = None if layout.schema is None else sa.quoted_name(layout.schema, quote=True)
    return sa.table(sa.quoted_name(layout.name, quote=True), *columns, schema=schema)


def quote_names(layout: Layout, names: Sequence[str]) -> tuple[str, str]:
    """Return the quoted names of a table and of columns.

    SQLAlchemy would double each percent sign, because its own parameters begin with one.
    """
    return ".".join(quote(part) for part in (layout.schema, layout.name) if part), ", ".join(map(quote, names))


def quote(name: str) -> str:
    """Return a name as it is, in quotes."""
    return '"' + name.replace('"', '""') + '"'


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a name that is not taken, which begins like ``name``."""
    while name in taken:
        name += "_"
    return name


def on_conflict_clause(names: Sequence[str], key: Sequence[str]) -> str:
    """Return the end of an INSERT that replaces the row with the same key."""
    others = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in names if name not in key)
    keys = ", ".join(map(quote, key))
    return f"ON CONFLICT ({keys}) DO " + (f"UPDATE SET {others}" if others else "NOTHING")


def clean(text: str) -> str:
    """Replace zero characters and lone surrogates, because PostgreSQL's text and UTF-8 cannot contain them."""
    return text.replace("\0", "_").encode(errors="replace").decode()


def file_columns(claim: Claim, file: ExportFile, data: SpooledFile) -> dict[str, str | int]:
    """Return the columns that describe a whole file, without its content."""
    texts = {"task": claim.task.id, "project": claim.task.project_id, "folder": file.folder, "filename": file.filename}
    cleaned = {name: clean(text) for name, text in texts.items()}
    return {**cleaned, "file": file.number, "document": file.document, "size": data.size, "sha256": data.sha256}
