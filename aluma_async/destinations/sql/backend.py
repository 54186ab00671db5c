"""``Backend``: how one kind of database stores many rows, and files that do not fit into memory."""

from collections.abc import AsyncIterable, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.models import Claim, ExportFile


class Backend(Protocol):
    """One kind of database. Every method runs inside a transaction and raises the errors of its driver."""

    driver: str
    """SQLAlchemy's name of dialect and driver."""
    max_transactions: int
    """Maximum number of concurrent transactions; 0 means no limit of the backend."""
    connect_args: Mapping[str, Any]

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """Exceptions that the driver raises outside SQLAlchemy."""
        ...

    def set_up(self, connection: Any, record: object) -> None:
        """Prepare a new connection of the driver. Blocking."""
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
        """Insert rows. With a ``key``, a row replaces the one with the same key; the last one of a file wins."""
        ...

    async def put_file(
        self, connection: AsyncConnection, table: sa.Table, claim: Claim, file: ExportFile, data: SpooledFile
    ) -> None:
        """Insert a whole file."""
        ...


def quote_names(table: sa.Table, names: Sequence[str]) -> tuple[str, str]:
    """Return the quoted names of a table and of columns.

    SQLAlchemy would double each percent sign, because its own parameters begin with one.
    """
    return ".".join(_quote(part) for part in (table.schema, table.name) if part), ", ".join(map(_quote, names))


def on_conflict_clause(names: Sequence[str], key: Sequence[str]) -> str:
    """Return the end of an INSERT that replaces the row with the same key."""
    others = ", ".join(f"{_quote(name)} = excluded.{_quote(name)}" for name in names if name not in key)
    keys = ", ".join(map(_quote, key))
    return f"ON CONFLICT ({keys}) DO " + (f"UPDATE SET {others}" if others else "NOTHING")


def file_columns(claim: Claim, file: ExportFile, data: SpooledFile) -> dict[str, str | int]:
    """Return the columns that describe a whole file, without its content.

    Zero characters and lone surrogates are replaced, because PostgreSQL's text and UTF-8 cannot contain them.
    """
    texts = {"task": claim.task.id, "project": claim.task.project_id, "folder": file.folder, "filename": file.filename}
    clean = {name: text.replace("\0", "_").encode(errors="replace").decode() for name, text in texts.items()}
    return {**clean, "file": file.number, "document": file.document, "size": data.size, "sha256": data.sha256}


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
