"""``EarlierRows``: shows whether a delivery has changed rows that were there before, within its transaction.

Only a redelivery needs it (``Claim.may_replace``). The rows are read from the database before and after, so that only
values of the same origin are compared.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from aluma_async.destinations.sql.backend import Backend, core_table
from aluma_async.destinations.sql.layout import Layout

Values: TypeAlias = Mapping[str, int]
"""For each column, a number that depends on the values of all rows, but not on their order."""

_KEYS_AT_ONCE = 100
"""Keys in one query. More could exceed the depth of an expression that SQLite permits."""


class OwnRows:
    """The rows of a task in a table without a key, by the file that they come from."""

    def __init__(
        self, table: sa.TableClause, condition: sa.ColumnElement[bool], key: Sequence[str], names: Sequence[str]
    ) -> None:
        """``condition`` selects the rows of the task, ``key`` identifies one of them, and ``names`` are compared."""
        self._table, self._condition, self._key, self._names = table, condition, key, names
        self._before: Mapping[int, Values] = {}
        self._written: dict[int, set[str]] = {}

    async def remember(self, connection: AsyncConnection, file_column: str) -> None:
        """Read the rows before they are replaced."""
        self._file_column = file_column
        self._before = await self._read(connection)

    def record(self, file: int, names: Collection[str]) -> None:
        """Record which columns are written for a file. Other columns may change: the database fills them."""
        self._written[file] = {*names, *self._key}

    async def changed_file(self, connection: AsyncConnection) -> int | None:
        """Return the number of a file that had other rows before, or that has none any more; None if there is none."""
        if not self._before:
            return None
        after = await self._read(connection)
        for file, values in self._before.items():
            names = self._written.get(file, set())
            if not names or any(values.get(name) != after.get(file, {}).get(name) for name in names):
                return file
        return None

    async def _read(self, connection: AsyncConnection) -> Mapping[int, Values]:
        found: defaultdict[int, Counter[str]] = defaultdict(Counter)
        query = sa.select(*(self._table.columns[name] for name in self._names)).where(self._condition)
        async with connection.stream(query) as result:
            async for row in result.mappings():
                place = tuple(row[name] for name in self._key)
                for name in self._names:
                    found[row[self._file_column]][name] += hash((place, repr(row[name])))
        return found


class KeyedRows:
    """The rows of a table with a key that have the keys of a file. They may come from any task."""

    def __init__(self, layout: Layout, key: Sequence[str], names: Sequence[str]) -> None:
        self._table, self._key, self._names = core_table(layout), key, names
        self._before: dict[tuple[Any, ...], str] = {}

    async def remember(
        self, connection: AsyncConnection, backend: Backend, batches: AsyncIterator[Sequence[Sequence[Any]]]
    ) -> None:
        """Read the rows that have the same keys as new rows."""
        positions = [self._names.index(name) for name in self._key]
        async for batch in batches:
            keys = [[backend.driver_value(row[position]) for position in positions] for row in batch]
            self._before |= await self._read(connection, keys)

    async def are_changed(self, connection: AsyncConnection) -> bool:
        """Return whether one of these rows is another one now."""
        return await self._read(connection, list(self._before)) != self._before

    async def _read(self, connection: AsyncConnection, keys: Sequence[Sequence[Any]]) -> dict[tuple[Any, ...], str]:
        columns = self._table.columns
        found = {}
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            conditions = [
                sa.and_(*(columns[name] == _untyped(value) for name, value in zip(self._key, key, strict=True)))
                for key in keys[start : start + _KEYS_AT_ONCE]
            ]
            query = sa.select(*(columns[name] for name in self._names)).where(sa.or_(*conditions))
            for row in (await connection.execute(query)).mappings():
                found[tuple(row[name] for name in self._key)] = repr([row[name] for name in self._names])
        return found


def _untyped(value: object) -> sa.BindParameter[Any]:
    """Return a parameter that gets the type of its column, such as uuid for a text."""
    return sa.bindparam(None, value, type_=sa.types.NullType())
