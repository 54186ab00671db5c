"""``RowGroups``: the rows of files, grouped by the columns that they fill. Pure.

The objects of a JSON file may lack names. An absent name keeps the value of a stored row, and a new row gets the
default of the column, so the rows of each group need a statement of their own. The groups in their order have the same
effect as the rows in theirs.
"""

from collections.abc import Sequence
from typing import Any, Final

ABSENT: Final[Any] = object()
"""The cell of a name that an object lacks."""


class RowGroups:
    """Numbers the groups of the rows of a table, from 0. A row belongs to one group."""

    def __init__(self, key: Sequence[str]) -> None:
        """``key`` contains the columns by which a later row of a file replaces an earlier one; empty: none does."""
        self._key = key
        self.names: list[tuple[str, ...]] = []
        """The columns that the rows of each group fill."""
        self._names: Sequence[str] = ()
        self._groups: dict[tuple[str, ...], int] = {}
        self._group_by_key: dict[tuple[Any, ...], int] = {}

    def begin_file(self, names: Sequence[str]) -> None:
        """Begin a file with these columns."""
        self._names = names
        self._positions = [names.index(name) for name in self._key]
        self._begin_groups()

    def _begin_groups(self) -> None:
        self._groups, self._group_by_key = {}, {}

    def add(self, row: list[Any]) -> int:
        """Return the number of the row's group, and replace absent cells by None."""
        present = self._take_absent(row)
        group = self._groups.get(present)
        if self._key:
            key = tuple(row[position] for position in self._positions)
            before = self._group_by_key.get(key)
            if before is not None and before != group:  # the group of the later row must come after it
                self._begin_groups()
                group = None
        if group is None:
            group = self._groups[present] = len(self.names)
            self.names.append(present)
        if self._key:
            self._group_by_key[key] = group
        return group

    def add_complete(self) -> int:
        """Return the group of the rows of a file that fill all columns."""
        self.names.append(tuple(self._names))
        return len(self.names) - 1

    def _take_absent(self, row: list[Any]) -> tuple[str, ...]:
        if not any(cell is ABSENT for cell in row):
            return tuple(self._names)
        present = tuple(name for name, cell in zip(self._names, row, strict=True) if cell is not ABSENT)
        row[:] = [None if cell is ABSENT else cell for cell in row]
        return present
