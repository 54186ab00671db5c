"""``PostgresRows``: sends the rows of one table with COPY, and compares them at the end of the transaction.

With a key, and if a trigger could change rows, they are copied into a temporary table, inserted from there, and
compared with it. Otherwise, COPY stores them in the table itself, as they are.
"""

from collections import defaultdict
from collections.abc import AsyncIterable, Collection, Sequence
from typing import Any

from aluma_async.destinations.sql.backend import free_name, on_conflict_clause, quote, quote_names
from aluma_async.destinations.sql.differences import Difference
from aluma_async.destinations.sql.layout import Layout, Purpose, is_staged
from aluma_async.destinations.sql.row_groups import RowGroups

_STAGE = "aluma_stage"


class PostgresRows:
    """The rows that a transaction writes to one table."""

    def __init__(
        self, cursor: Any, layout: Layout, key: Sequence[str], purpose: Purpose, number: int, *, is_only: bool
    ) -> None:
        """``number`` identifies the table in the transaction; the triggers of other tables may change its rows, too."""
        self._cursor, self._layout, self._key = cursor, layout, key
        self._is_upsert, self._must_stage = purpose == "upsert", is_staged(layout, purpose)
        self._may_stage = not is_only and layout.may_stage
        self._table = quote_names(layout, ())[0]
        self._stage = f"pg_temp.{_STAGE}_{number}"
        self._number, self._group = (free_name(name, layout.columns) for name in ("aluma_number", "aluma_group"))
        self._groups = RowGroups(key if self._is_upsert else ())
        self._sent = self._stored = 0
        self._is_open = self._is_indexed = False

    async def put(self, names: Sequence[str], batches: AsyncIterable[Sequence[list[Any]]], *, is_ragged: bool) -> None:
        """Insert the rows of a file; ``is_ragged`` is whether cells may be absent."""
        columns_of_table = self._layout.columns
        may_stage = self._may_stage and not any("SELECT" in columns_of_table[name].missing_rights for name in names)
        if not (self._must_stage or is_ragged or may_stage):
            async with self._cursor.copy(f"COPY {self._table} ({_list(names)}) FROM STDIN") as copy:
                async for batch in batches:
                    for row in batch:
                        await copy.write_row(row)
            return
        if not self._is_open:
            await self._open_stage()
        self._groups.begin_file(names)
        first, add = len(self._groups.names), self._groups.add
        group = -1 if is_ragged else self._groups.add_complete()
        columns = _list([*names, self._number, self._group])
        async with self._cursor.copy(f"COPY {self._stage} ({columns}) FROM STDIN") as copy:
            async for batch in batches:
                for number, row in enumerate(batch, self._sent):
                    row_group = add(row) if is_ragged else group
                    await copy.write_row((*row, number, row_group))
                self._sent += len(batch)
        if len(self._groups.names) > 1 and not self._is_indexed:  # so that no group reads the rows of all others
            self._is_indexed = True
            await self._cursor.execute(f"CREATE INDEX ON {self._stage} ({self._group})")
        for number in range(first, len(self._groups.names)):
            await self._insert(number)

    async def _open_stage(self) -> None:
        self._is_open = True
        names = [name for name, column in self._layout.columns.items() if "SELECT" not in column.missing_rights]
        numbers = f"0::bigint AS {self._number}, 0 AS {self._group}"
        await self._cursor.execute(
            f"CREATE TEMP TABLE {self._stage.partition('.')[2]} ON COMMIT DROP AS "
            f"SELECT {_list(names)}, {numbers} FROM {self._table} LIMIT 0"
        )

    async def _insert(self, group: int) -> None:
        names = self._groups.names[group]
        columns, keys = _list(names), _list(self._key)
        rows = f"FROM {self._stage} WHERE {self._group} = {group}"
        if self._is_upsert:
            # With a name of its own, because a table may be named "excluded".
            await self._cursor.execute(
                f"INSERT INTO {self._table} AS aluma_target ({columns}) SELECT DISTINCT ON ({keys}) {columns} {rows} "
                f"ORDER BY {keys}, {self._number} DESC {on_conflict_clause(names, self._key)}"
            )
        else:
            await self._cursor.execute(
                f"INSERT INTO {self._table} ({columns}) SELECT {columns} {rows} ORDER BY {self._number}"
            )
        self._stored += max(0, self._cursor.rowcount)

    async def compare(self, left_out: Collection[str]) -> Difference:
        """Return how the rows differ from those in the temporary table, except in the columns ``left_out``."""
        all_groups = tuple(range(len(self._groups.names)))
        if not all_groups:
            return Difference()
        keys_repeat = self._is_upsert and (len(all_groups) > 1 or self._stored < self._sent)
        compared: defaultdict[tuple[int, ...], list[str]] = defaultdict(list, {all_groups: []})
        for name in dict.fromkeys(name for names in self._groups.names for name in names):
            if name not in left_out and not (name in self._key and (keys_repeat or not self._may_merge(name))):
                compared[tuple(group for group in all_groups if name in self._groups.names[group])].append(name)
        missing, changed = 0, list[str]()
        for groups, names in compared.items():
            rows = self._stage
            if groups != all_groups:
                rows = f"(SELECT * FROM {rows} WHERE {self._group} IN ({', '.join(map(str, groups))}))"
            if keys_repeat:
                keys = _list(self._key)
                rows = f"(SELECT DISTINCT ON ({keys}) * FROM {rows} AS aluma_part ORDER BY {keys}, {self._number} DESC)"
            absent, found = await self._find_changed(rows, names)
            missing, changed = max(missing, absent), changed + found
        if keys_repeat and (names := [name for name in self._key if name not in left_out and self._may_merge(name)]):
            changed += (await self._find_changed(self._stage, names))[1]
        return Difference(missing, tuple(changed))

    def _may_merge(self, name: str) -> bool:
        """Return whether values of a key column may be different texts although they are equal."""
        column_type = self._layout.columns[name].type
        return (column_type.item or column_type).kind == "text"

    async def _find_changed(self, rows: str, names: Sequence[str]) -> tuple[int, list[str]]:
        """Return the number of rows that are missing, and the columns in which others differ.

        The images of records are compared, because not all types have an operator for it, and texts may be equal
        although they differ.
        """
        same = " AND ".join(f"aluma_target.{name} = aluma_new.{name}" for name in map(quote, self._key))
        is_missing = f"aluma_target.{quote(self._key[0])} IS NULL"
        found = f"FROM {rows} AS aluma_new LEFT JOIN {self._table} AS aluma_target ON {same}"
        differs = [_differs([name]) for name in names]
        await self._cursor.execute(
            f"SELECT count(*) FILTER (WHERE {is_missing}), "
            f"count(*) FILTER (WHERE NOT {is_missing} AND {_differs(names) if names else 'false'}) {found}"
        )
        missing, changed = await self._cursor.fetchone()
        if not changed:
            return missing, []
        await self._cursor.execute(
            f"SELECT {', '.join(f'bool_or({each})' for each in differs)} {found} WHERE NOT {is_missing}"
        )
        row = await self._cursor.fetchone()
        return missing, [name for name, is_changed in zip(names, row, strict=True) if is_changed]


def _differs(names: Sequence[str]) -> str:
    old, new = (", ".join(f"{table}.{quote(name)}" for name in names) for table in ("aluma_target", "aluma_new"))
    return f"ROW({old})::record *<> ROW({new})::record"


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(quote, names))
