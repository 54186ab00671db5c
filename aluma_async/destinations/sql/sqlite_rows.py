"""``SqliteRows``: inserts the rows of one table in batches, and compares them at the end of the transaction.

They are only compared if the database has a trigger, or if the table's key merges different texts. They are stored in a
temporary table for it.
"""

from collections import defaultdict
from collections.abc import AsyncIterable, Callable, Collection, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.sql.backend import free_name, on_conflict_clause, quote, quote_names
from aluma_async.destinations.sql.differences import Difference
from aluma_async.destinations.sql.layout import Layout, Purpose
from aluma_async.destinations.sql.row_groups import RowGroups

INSERT = "INSERT OR ABORT INTO"
"""Overrides ON CONFLICT clauses of the table, by which a row replaces others, even those of other tasks."""
_TRIGGERS = "SELECT count(*) FROM (SELECT type FROM main.sqlite_master UNION ALL SELECT type FROM temp.sqlite_master)"


class SqliteRows:
    """The rows that a transaction writes to one table."""

    def __init__(
        self,
        connection: AsyncConnection,
        layout: Layout,
        key: Sequence[str],
        purpose: Purpose,
        number: int,
        plain: Callable[[Any], Any],
    ) -> None:
        """``number`` identifies the table in the transaction, and ``plain`` turns a value into one of SQLite."""
        self._connection, self._layout, self._key, self._plain = connection, layout, key, plain
        self._is_upsert = purpose == "upsert"
        self._table = quote_names(layout, ())[0]
        self._number, self._group = (free_name(name, layout.columns) for name in ("aluma_number", "aluma_group"))
        self._stage = f"temp.aluma_stage_{number}"
        self._groups = RowGroups(key if self._is_upsert else ())
        self._sent = 0
        self._is_staged: bool | None = None

    async def put(self, names: Sequence[str], batches: AsyncIterable[Sequence[list[Any]]], *, is_ragged: bool) -> None:
        """Insert the rows of a file; ``is_ragged`` is whether cells may be absent."""
        if self._is_staged is None:
            self._is_staged = await self._open_stage()
        self._groups.begin_file(names)
        complete = -1 if is_ragged else self._groups.add_complete()
        async for batch in batches:
            if is_ragged:
                groups = [self._groups.add(row) for row in batch]
                rows = [tuple(map(self._plain, row)) for row in batch]
                rows_by_group = defaultdict(list)
                for group, row in zip(groups, rows, strict=True):
                    present = self._groups.names[group]
                    rows_by_group[group].append(
                        tuple(value for name, value in zip(names, row, strict=True) if name in present)
                    )
                for group in sorted(rows_by_group):
                    await self._insert(group, rows_by_group[group])
            else:
                rows, groups = [tuple(map(self._plain, row)) for row in batch], [complete] * len(batch)
                await self._insert(complete, rows)
            if self._is_staged:
                columns = ", ".join([*map(quote, names), self._number, self._group])
                numbered = [
                    (*row, number, group)
                    for number, (row, group) in enumerate(zip(rows, groups, strict=True), self._sent)
                ]
                places = ", ".join("?" * (len(names) + 2))
                await self._connection.exec_driver_sql(
                    f"INSERT INTO {self._stage} ({columns}) VALUES ({places})", numbered
                )
            self._sent += len(batch)

    async def _open_stage(self) -> bool:
        """Create the temporary table; return whether it is needed."""
        count = (await self._connection.exec_driver_sql(f"{_TRIGGERS} WHERE type = 'trigger'")).scalar_one()
        if not count and not any(index.merges_texts for index in self._layout.indexes):
            return False
        await self._connection.exec_driver_sql(f"DROP TABLE IF EXISTS {self._stage}")
        columns = ", ".join(map(quote, self._layout.columns))
        await self._connection.exec_driver_sql(
            f"CREATE TABLE {self._stage} AS SELECT {columns}, 0 AS {self._number}, 0 AS {self._group} "
            f"FROM {self._table} WHERE 0"
        )
        return True

    async def _insert(self, group: int, rows: Sequence[Sequence[Any]]) -> None:
        names = self._groups.names[group]
        places = ", ".join("?" * len(names))
        # With a name of its own, because a table may be named "excluded".
        insert = f"{INSERT} {self._table} AS aluma_target ({', '.join(map(quote, names))}) VALUES ({places})"
        if self._is_upsert:
            insert += " " + on_conflict_clause(names, self._key)
        if rows:
            await self._connection.exec_driver_sql(insert, rows)

    async def compare(self, left_out: Collection[str]) -> Difference:
        """Return how the rows differ from those in the temporary table, except in the columns ``left_out``."""
        if not self._is_staged:
            return Difference()
        all_groups = tuple(range(len(self._groups.names)))
        compared: defaultdict[tuple[int, ...], list[str]] = defaultdict(list, {all_groups: []})
        for name in dict.fromkeys(name for names in self._groups.names for name in names):
            if name not in left_out and name not in self._key:
                compared[tuple(group for group in all_groups if name in self._groups.names[group])].append(name)
        missing, changed = 0, list[str]()
        for groups, names in compared.items():
            absent, found = await self._find_changed(groups, names)
            missing, changed = max(missing, absent), changed + found
        await self._connection.exec_driver_sql(f"DROP TABLE {self._stage}")
        return Difference(missing, tuple(changed))

    async def _find_changed(self, groups: Sequence[int], names: Sequence[str]) -> tuple[int, list[str]]:
        """Return the number of rows that are missing, and the columns in which others differ.

        A row with a key that the table only regards as equal counts as missing.
        """
        keys = ", ".join(f"{quote(name)} COLLATE BINARY" for name in self._key)
        same = " AND ".join(f"aluma_target.{name} COLLATE BINARY = aluma_new.{name}" for name in map(quote, self._key))
        is_missing = f"aluma_target.{quote(self._key[0])} IS NULL"
        # The other columns are those of the row with the maximum.
        some = f"{self._group} IN ({', '.join(map(str, groups))})"
        rows = f"SELECT *, max({self._number}) FROM {self._stage} WHERE {some}"
        counts = [f"total({is_missing})", *(f"total(NOT {is_missing} AND {_differs(name)})" for name in names)]
        statement = (
            f"SELECT {', '.join(counts)} FROM ({rows} GROUP BY {keys}) AS aluma_new "
            f"LEFT JOIN {self._table} AS aluma_target ON {same}"
        )
        missing, *changed = tuple((await self._connection.exec_driver_sql(statement)).one())
        return int(missing), [name for name, count in zip(names, changed, strict=True) if count]


def _differs(name: str) -> str:
    return f"aluma_target.{quote(name)} COLLATE BINARY IS NOT aluma_new.{quote(name)}"
