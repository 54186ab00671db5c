"""``TableAccess``: the tables that a destination uses, as they are in the database, checked and created if needed."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import sqlalchemy as sa
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.sql.backend import Backend
from aluma_async.destinations.sql.layout import (
    ColumnType,
    Kind,
    Layout,
    Purpose,
    check_columns,
    check_distinct,
    check_kinds,
    check_layout,
)
from aluma_async.destinations.sql.tables import TableId, label
from aluma_async.exceptions import DestinationError


class TableUse(Struct, frozen=True):
    """How the rows of a table are stored."""

    key: Sequence[str]
    purpose: Purpose
    kinds: Mapping[str, Kind] = {}
    """Columns that the exporter itself fills, and the kind of their type."""
    further: Sequence[str] = ()
    """Columns that the exporter itself fills, of any type."""


class TableAltered(DestinationError):
    """A table was altered while rows were converted for it, so the transaction has to be repeated."""


class TableAccess:
    """Layouts of tables, kept between transactions. At its end, a transaction verifies those that it used."""

    def __init__(self, backend: Backend, *, create: bool) -> None:
        self._backend = backend
        self._create = create
        self._layouts: dict[TableId, Layout] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no layout is kept, so that the next transaction reads all of them."""
        return not self._layouts

    def forget(self) -> None:
        """Read all layouts again, because tables or rights may have changed."""
        self._layouts.clear()

    def remember(self, layouts: Mapping[TableId, Layout]) -> None:
        """Keep the layouts that a transaction used. Called after its commit, because it may have created tables."""
        self._layouts.update({table_id: replace(layout, is_new=False) for table_id, layout in layouts.items()})

    async def get(
        self, connection: AsyncConnection, table_id: TableId, use: TableUse, new: Callable[[], sa.Table]
    ) -> Layout:
        """Return a table's layout; create the table as ``new`` if it is missing and the configuration allows it.

        Raises ``DestinationError`` if the table cannot be used, and what ``new`` raises.
        """
        layout = self._layouts.get(table_id)
        if layout is None:
            layout = await self._backend.describe(connection, *table_id)
            if layout is None and self._create:
                await connection.execute(sa.schema.CreateTable(new()))
                layout = await self._backend.describe(connection, *table_id)
                layout = layout and replace(layout, is_new=True)
            if layout is None:
                raise await self._missing(connection, table_id)
            self._check(layout, use)
        return layout

    async def probe(self, connection: AsyncConnection, table_id: TableId, use: TableUse) -> Layout | None:
        """Check a table without using it; return None if it will be created."""
        layout = await self._backend.describe(connection, *table_id)
        if layout is None:
            if not self._create:
                raise await self._missing(connection, table_id)
            if problem := await self._backend.creation_problem(connection, table_id[0]):
                raise DestinationError(
                    f"table {label(table_id)} does not exist, and {problem}",
                    hint="Create the table, or grant the user CREATE on the schema.",
                )
            return None
        self._check(layout, use)
        return layout

    async def verify(self, connection: AsyncConnection, layouts: Iterable[Layout]) -> None:
        """Raise ``TableAltered`` unless the tables are as they were when their rows were converted.

        Called after the last row: from the first row on, the transaction has a lock that prevents changes.
        """
        for layout in layouts:
            if await self._backend.fingerprint(connection, layout) != layout.fingerprint:
                raise TableAltered(f"table {layout.label} was altered during the export")

    def _check(self, layout: Layout, use: TableUse) -> None:
        check_layout(layout, use.key, use.purpose)
        check_columns(layout, (*use.kinds, *use.further))
        check_distinct(layout, use.key, [name for name in use.key if use.kinds.get(name) == "text"])
        kinds = use.kinds
        if not self._backend.has_strict_types:  # texts are stored wrong only in columns that turn them into numbers
            columns = layout.columns
            kinds = {
                name: kind for name, kind in kinds.items() if kind == "text" and columns[name].type != ColumnType()
            }
        check_kinds(layout, kinds)

    async def _missing(self, connection: AsyncConnection, table_id: TableId) -> DestinationError:
        hint = "Create it, or set create = true."
        if similar := await self._backend.find_similar(connection, *table_id):
            hint = (
                f"The database has {similar}: write the name with the same upper and lower case, or create the table."
            )
        return DestinationError(f"table {label(table_id)} does not exist", hint=hint)
