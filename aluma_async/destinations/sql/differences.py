"""``Difference``: how a table differs from the rows that were written to it, and the errors for it.

A trigger, a rule or a policy of the database may drop, hide or change rows without an error.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.sql.layout import Layout
from aluma_async.exceptions import SchemaMismatch

_MAX_COLUMNS = 3
"""Maximum number of columns in a message."""
_INTENDED = "If that is intended, list the column in trigger_columns."


class Difference(Struct, frozen=True):
    """How the rows of a table differ from those that were written."""

    missing: int = 0
    """Number of rows that the table does not have."""
    columns: tuple[str, ...] = ()
    """Columns with other values."""


def check_complete(subject: str, missing: int) -> None:
    """Raise ``SchemaMismatch`` unless the table has taken all rows."""
    if missing > 0:
        raise SchemaMismatch(
            f"{subject}: the table has not taken all rows ({missing} missing)",
            hint="A trigger or rule of the table drops rows, a policy hides them, or its key merges different texts. "
            "Change it, because Aluma would delete the only copy.",
        )


def check_difference(subject: str, difference: Difference, key: Collection[str]) -> None:
    """Raise ``SchemaMismatch`` if the table has other rows than those that were written."""
    check_complete(subject, difference.missing)
    if merged := [name for name in difference.columns if name in key]:
        raise SchemaMismatch(
            f"{subject}: a row has a key that differs from the one of the file in column {merged[0]!r}",
            hint="The table regards different texts as the same key, such as A and a, or a trigger changes the key. "
            "Change the type or collation of the column, or the trigger.",
        )
    if difference.columns:
        raise _changed(subject, difference.columns)


def check_file(
    subject: str,
    layout: Layout,
    written: Mapping[str, str | int],
    stored: Mapping[str, Any],
    data: SpooledFile,
    stored_hash: str,
    left_out: Collection[str],
) -> None:
    """Raise ``SchemaMismatch`` if a stored file differs from the one that was written."""
    changed = [
        name
        for name, value in written.items()
        if name not in left_out and not _is_same(value, stored[name], is_padded=layout.columns[name].type.is_padded)
    ]
    if stored_hash != data.sha256 and "data" not in left_out:
        changed.append("data")
    if changed:
        raise _changed(f"{subject}, table {layout.label}", changed)


def _is_same(written: str | int, stored: Any, *, is_padded: bool) -> bool:
    return bool(written == (stored.rstrip(" ") if is_padded and isinstance(stored, str) else stored))


def _changed(subject: str, columns: Sequence[str]) -> SchemaMismatch:
    names = ", ".join(map(repr, columns[:_MAX_COLUMNS])) + (" and others" if len(columns) > _MAX_COLUMNS else "")
    return SchemaMismatch(
        f"{subject}: a trigger, a rule or the type of a column has changed values in column {names}",
        hint=f"Change it, because Aluma would delete the only copy. {_INTENDED}",
    )
