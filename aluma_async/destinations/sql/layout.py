"""``Layout``: a table as it is in the database, and whether the exporter can use it.

A table that cannot be used raises ``DestinationError`` before any row is sent, with the change that the administrator
can make.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from aluma_async.exceptions import DestinationError

Kind: TypeAlias = Literal[
    "text",
    "integer",
    "number",
    "float",
    "boolean",
    "date",
    "timestamp",
    "time",
    "interval",
    "json",
    "uuid",
    "array",
    "other",
]
"""How a cell is converted; ``other`` cells are passed on as text, if they match ``ColumnType.pattern``."""

Unit: TypeAlias = Literal["year", "month", "day", "hour", "minute", "second"]

Purpose: TypeAlias = Literal["upsert", "replace", "files"]
"""``upsert``: rows replace those with the same key. ``replace``: all rows of the task are deleted before. ``files``:
the same for whole files."""

RIGHTS: Mapping[Purpose, tuple[str, ...]] = {
    "upsert": ("SELECT", "INSERT", "UPDATE"),
    **dict.fromkeys(("replace", "files"), ("SELECT", "INSERT", "DELETE")),
}
"""The rights that the database user needs on a table."""
_TYPE_NAMES: Mapping[Kind, str] = {"text": "text", "integer": "bigint", "json": "json", "other": "bytea"}
_KEY_RIGHTS = ("SELECT", "INSERT")


class ColumnType(Struct, frozen=True, kw_only=True):
    """The type of a column; that of its base type if it is a domain."""

    kind: Kind = "other"
    max_chars: int | None = None
    is_padded: bool = False
    """Whether spaces at the end of a text are lost."""
    pattern: str = ""
    """Regular expression of the texts that the type keeps as they are; empty: all, or those that it does not refuse."""
    bits: int = 64
    """Size of an integer, or of a floating-point number."""
    precision: int | None = None
    """Maximum number of digits of a number; None if it is not limited."""
    scale: int = 0
    """Maximum number of digits after the decimal sign, if ``precision`` is limited."""
    is_double: bool = False
    """Whether a number is stored as a floating-point number, which keeps 15 to 17 digits."""
    drops_zone: bool = False
    """Whether the time zone of a time would be lost."""
    needs_zone: bool = False
    """Whether the database would complete a time without a time zone by a setting of the session."""
    fraction: int = 6
    """Maximum number of digits after the decimal sign of seconds."""
    unit: Unit = "second"
    """The smallest unit that an interval keeps."""
    unique_names: bool = False
    """Whether JSON keeps only one of several values with the same name."""
    item: "ColumnType | None" = None
    """The type of the items of an array."""
    problem: str = ""
    """Why values of this type would be stored wrong; empty if they are not."""


class Column(Struct, frozen=True, kw_only=True):
    """A column of a table."""

    name: str
    declared: str
    """Its type as the database names it."""
    type: ColumnType
    nullable: bool = True
    written_by: str = ""
    """Why only the database may write it; empty if everybody may."""
    missing_rights: frozenset[str] = frozenset()
    """Rights on this column that the user lacks."""
    missing_sequence: str = ""
    """The sequence of its default, if the user lacks the right to use it."""
    merges_texts: bool = False
    """Whether the database regards different texts in it as equal, such as A and a."""


class UniqueIndex(Struct, frozen=True):
    """A unique index or constraint."""

    name: str
    columns: frozenset[str]
    problem: str = ""
    """Why it does not keep the columns of all rows unique; empty if it does."""
    is_deferrable: bool = False
    merges_texts: bool = False
    """Whether it regards different texts as equal."""


class Layout(Struct, frozen=True, kw_only=True):
    """A table as it is in the database."""

    schema: str | None
    name: str
    label: str
    """Its name in messages."""
    columns: Mapping[str, Column]
    indexes: Sequence[UniqueIndex] = ()
    problem: str = ""
    """Why it cannot store rows at all; empty if it can."""
    missing_rights: frozenset[str] = frozenset()
    """Rights on the whole table that the user lacks."""
    missing_policies: frozenset[str] = frozenset()
    """Commands that row-level security forbids for all rows."""
    may_stage: bool = True
    """Whether the user may create temporary tables."""
    must_stage: bool = False
    """Whether rows must be inserted with INSERT from a temporary table, because COPY is refused."""
    has_triggers: bool = False
    """Whether it or a partition has triggers, which may change rows."""
    fingerprint: str = ""
    """A text that changes when the table is altered."""
    is_new: bool = False
    """Whether the transaction has created it, so that only the file knows the names of its columns."""
    warning: str = ""
    """A limitation that does not prevent the export."""


def is_staged(layout: Layout, purpose: Purpose) -> bool:
    """Return whether PostgreSQL inserts rows from a temporary table."""
    return purpose == "upsert" or layout.must_stage or (purpose == "replace" and layout.has_triggers)


def check_stage(layout: Layout) -> None:
    """Raise ``DestinationError`` unless the user may create temporary tables."""
    if not layout.may_stage:
        raise DestinationError(
            f"table {layout.label}: the database user may not create temporary tables",
            hint="Grant the user TEMPORARY on the database.",
        )


def check_layout(layout: Layout, key: Sequence[str], purpose: Purpose) -> None:
    """Raise ``DestinationError`` unless rows with this key can be stored."""
    if layout.problem:
        raise DestinationError(f"table {layout.label}: {layout.problem}", hint="Name a table that stores rows.")
    check_columns(layout, key)
    _check_unique(layout, key, purpose)
    for name in key:
        check_writable(layout, name)
    rights = [right for right in RIGHTS[purpose] if right in layout.missing_rights]
    rights += [right for right in _KEY_RIGHTS if any(right in layout.columns[name].missing_rights for name in key)]
    if rights := list(dict.fromkeys(rights)):
        raise DestinationError(
            f"table {layout.label}: the database user lacks the right to {_join(rights)}",
            hint=f"Grant the user {', '.join(RIGHTS[purpose])} on the table.",
        )
    if is_staged(layout, purpose):
        check_stage(layout)
    if policies := [right for right in RIGHTS[purpose] if right in layout.missing_policies]:
        raise DestinationError(
            f"table {layout.label}: row-level security has no policy that lets the database user {_join(policies)}",
            hint=f"Create a policy for {', '.join(RIGHTS[purpose])} of the user.",
        )


def check_columns(layout: Layout, names: Collection[str]) -> None:
    """Raise ``DestinationError`` unless the table has all of these columns."""
    if missing := [name for name in names if name not in layout.columns]:
        raise DestinationError(
            f"table {layout.label} has no column {missing[0]!r}",
            hint=f"The table needs the columns {', '.join(names)}. Add them, or check the configuration.",
        )


def check_kinds(layout: Layout, kinds: Mapping[str, Kind]) -> None:
    """Raise ``DestinationError`` unless columns that the exporter fills itself have the right kind of type."""
    for name, kind in kinds.items():
        column = layout.columns[name]
        if column.type.kind != kind:
            raise DestinationError(
                f"table {layout.label}: column {name!r} is of type {column.declared}",
                hint=f"Use {_TYPE_NAMES[kind]} for this column.",
            )


def check_distinct(layout: Layout, key: Collection[str], names: Collection[str]) -> None:
    """Raise ``DestinationError`` if a table with this key could confuse different texts in the columns ``names``."""
    by_index = any(index.merges_texts for index in layout.indexes if index.columns == set(key))
    for name in names:
        if by_index or layout.columns[name].merges_texts:
            raise DestinationError(
                f"table {layout.label}: column {name!r} has a type or collation by which different texts are equal",
                hint='Use text COLLATE "C" for this column; in SQLite, TEXT and a unique index with COLLATE BINARY.',
            )


def check_writable(layout: Layout, name: str) -> None:
    """Raise ``DestinationError`` if the database refuses values for a column, or would change them."""
    column = layout.columns[name]
    if reason := column.written_by:
        raise DestinationError(
            f"table {layout.label}: column {name!r} {reason}",
            hint='Omit the column with column_names = { "name in the file" = "" }, or change it in the table.',
        )
    if reason := (column.type.item or column.type).problem:
        raise DestinationError(
            f"table {layout.label}: column {name!r} is of type {column.declared}, {reason}",
            hint='Change the type, or omit the column with column_names = { "name in the file" = "" }.',
        )


def type_warnings(layout: Layout) -> list[str]:
    """Return a warning for each column that files cannot fill, because its type would change values."""
    return [
        f"table {layout.label}: files cannot fill column {column.name!r} of type {column.declared}, {problem}"
        for column in layout.columns.values()
        if (problem := (column.type.item or column.type).problem) and not column.written_by
    ]


def check_rights(layout: Layout, name: str, key: Sequence[str], purpose: Purpose, *, is_ragged: bool) -> None:
    """Raise ``DestinationError`` if the user may not write a column; rows with absent cells are always staged."""
    needed = ["INSERT"]
    if is_ragged or is_staged(layout, purpose):
        needed.append("SELECT")
    if purpose == "upsert" and name not in key:
        needed.append("UPDATE")
    if missing := [right for right in needed if right in layout.columns[name].missing_rights]:
        raise DestinationError(
            f"table {layout.label}: the database user lacks the right to {_join(missing)} column {name!r}",
            hint=f"Grant the user {', '.join(RIGHTS[purpose])} on the table.",
        )


def check_defaults(layout: Layout, names: Collection[str]) -> None:
    """Raise ``DestinationError`` if the database cannot fill the columns that are not in ``names``."""
    for column in layout.columns.values():
        if column.missing_sequence and column.name not in names:
            raise DestinationError(
                f"table {layout.label}: the database user may not use the sequence {column.missing_sequence} of "
                f"column {column.name!r}",
                hint=f"Grant the user USAGE on the sequence {column.missing_sequence}.",
            )


def _check_unique(layout: Layout, key: Sequence[str], purpose: Purpose) -> None:
    candidates = [index for index in layout.indexes if index.columns == set(key)]
    problems = [
        (index.name, index.problem or "is deferrable")
        for index in candidates
        if index.problem or (index.is_deferrable and purpose == "upsert")
    ]
    if len(problems) < len(candidates):
        return
    names = ", ".join(key)
    hint = f"Create a unique index on ({names}), or let the exporter create the table: create = true."
    if problems:
        index, problem = problems[0]
        raise DestinationError(
            f"table {layout.label}: no constraint or index keeps ({names}) unique, because {index} {problem}", hint=hint
        )
    raise DestinationError(f"table {layout.label}: no constraint or index keeps ({names}) unique", hint=hint)


def _join(rights: Sequence[str]) -> str:
    return " and ".join(rights)
