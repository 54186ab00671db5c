"""Column types of SQLite, by their declaration and SQLite's rules for the affinity of a column. Pure.

A column of a type that SQLite does not know, such as STRING, turns texts that look like numbers into numbers. It keeps
only those whose form stays the same: 7, but neither 007 nor 1.50.
"""

import re
from collections.abc import Mapping

from aluma_async.destinations.sql.layout import ColumnType

_PARENTHESES = re.compile(r"\s*\(\s*(\d+)?\s*(?:,\s*(\d+))?[^)]*\)\s*")
_SIGN = re.compile(r"\s+(?:UN)?SIGNED\Z")
_TYPES: Mapping[str, ColumnType] = {
    "BOOL": ColumnType(kind="boolean"),
    "BOOLEAN": ColumnType(kind="boolean"),
    "DATE": ColumnType(kind="date"),
    "DATETIME": ColumnType(kind="timestamp"),
    "TIMESTAMP": ColumnType(kind="timestamp"),
    "TIME": ColumnType(kind="time"),
    "JSON": ColumnType(kind="json", is_double=True),
    "JSONB": ColumnType(kind="json", is_double=True),
    "UUID": ColumnType(kind="uuid"),
    **dict.fromkeys(
        ("INT", "INTEGER", "TINYINT", "SMALLINT", "MEDIUMINT", "BIGINT", "UNSIGNED BIG INT", "INT2", "INT4", "INT8"),
        ColumnType(kind="integer"),
    ),
    **dict.fromkeys(
        ("REAL", "DOUBLE", "DOUBLE PRECISION", "FLOAT", "FLOAT4", "FLOAT8"),
        ColumnType(kind="float"),
    ),
}
_NUMBERS = ("NUMERIC", "DECIMAL", "DEC", "NUMBER", "FIXED", "MONEY", "CURRENCY")
_SPACE = r"[ \t\n\v\f\r]*"
_NUMBER = rf"{_SPACE}[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?{_SPACE}"
"""Texts that SQLite turns into numbers."""
_KEPT_NUMBER = r"0|-?[1-9][0-9]{0,17}|(?=.{3,16}\Z)(?!-?0\.0000)-?(?:0|[1-9][0-9]*)\.[0-9]*[1-9]"
_TEXT_OR_NUMBER = ColumnType(pattern=rf"(?!{_NUMBER}\Z)(?s:.*)|{_KEPT_NUMBER}")
_FLOATS = ColumnType(problem="whose numbers SQLite stores as floating-point numbers; use TEXT or REAL")


def column_type(declared: str, *, is_strict: bool) -> ColumnType:
    """Return the type of a column; ``is_strict`` is whether the table is."""
    size = _PARENTHESES.search(declared)
    length = int(size[1]) if size and size[1] else None
    name = " ".join(_SIGN.sub("", _PARENTHESES.sub(" ", declared).strip().upper()).split())
    if name in _TYPES:
        return _TYPES[name]
    if name in _NUMBERS:
        scale = int(size[2]) if size and size[2] else 0
        return ColumnType(kind="number", precision=length, scale=scale, is_double=True)
    if "INT" in name:
        return _TEXT_OR_NUMBER
    if any(word in name for word in ("CHAR", "CLOB", "TEXT")):
        return ColumnType(kind="text", max_chars=length)
    if not name or "BLOB" in name or (is_strict and name == "ANY"):
        return ColumnType()
    return _FLOATS if any(word in name for word in ("REAL", "FLOA", "DOUB")) else _TEXT_OR_NUMBER
