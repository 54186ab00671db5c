"""Converters: turn the cells of a file into values for the columns of a table.

A cell is text (from CSV) or any JSON value, with numbers as int or Decimal. A value is stored as it is, or not at all:
a cell that the column would change (a digit more than it keeps, a time zone that it lacks) does not fit. A cell that
does not fit raises ``ValueError`` with the reason, never with the value, because values are customer data.
"""

import json
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from aluma_async.destinations.sql.intervals import read_interval
from aluma_async.destinations.sql.json_text import RepeatedName, load_json
from aluma_async.destinations.sql.layout import Column, ColumnType, Kind
from aluma_async.destinations.sql.numbers import count_digits, integer, parse_number, to_float
from aluma_async.destinations.sql.row_groups import ABSENT
from aluma_async.destinations.sql.temporal import temporal

Value: TypeAlias = Any
"""A value that a driver accepts: None, str, int, float, bool, Decimal, date, datetime, time; or ``ABSENT``."""
Convert: TypeAlias = Callable[[Any], Value]
"""Converts a cell to a value; raises ``ValueError`` with the reason if it does not fit."""

_TRUTH = {"true": True, "t": True, "yes": True, "y": True, "1": True, "on": True} | dict.fromkeys(
    ("false", "f", "no", "n", "0", "off"), False
)
_UUID = re.compile(r"\{?[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}\}?")
_JSON = msgspec.json.Encoder(decimal_format="number")
_REPEATED_NAME = "repeats a name within an object"
_SHORT_INTEGER = 18
_DOUBLE_INTEGER_DIGITS = 18
"""SQLite stores whole numbers of so many digits as integers, even in a column of floating-point numbers."""
_PLAIN_EXPONENT = 40
"""Numbers of this many digits are written without an exponent."""


class FileFormat(Struct, frozen=True, kw_only=True):
    """The format of the files."""

    column_names: Mapping[str, str] = {}
    """Table column by file column; an empty name skips the column. Columns that are not listed keep their name."""
    header_names: tuple[str, ...] = ()
    """Column names of files without a header line; an empty name skips the column. Empty: the first line."""
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    """Encoding of downloaded CSV files. Texts of the Export Specification are Unicode already."""
    decimal: str = "."
    """The decimal sign, ``.`` or ``,``; the other one may separate groups of three digits before it."""
    date_format: str = ""
    """Format of dates and times for ``strptime``. Empty: ISO 8601."""


def converter(column: Column, file_format: FileFormat, *, required: bool, from_json: bool) -> Convert:
    """Return the converter for a column. An empty cell becomes NULL if the column is nullable and not ``required``.

    An absent cell stays absent, unless the column is required.
    """
    if from_json and column.type.kind == "json":
        convert_value: Convert = _json_value(column.type)
    else:
        convert_value = _CONVERTERS[column.type.kind](column.type, file_format)
    is_text = column.type.kind == "text"
    nullable = column.nullable and not required

    def convert_cell(cell: Any) -> Value:
        if cell is None or (cell == "" and (nullable or not is_text)):
            if nullable:
                return None
            raise ValueError("is empty")
        return convert_value(cell)

    if not from_json:
        return convert_cell

    def convert_named(cell: Any) -> Value:
        if cell is ABSENT:
            return convert_cell(None) if required else ABSENT
        return convert_cell(cell)

    return convert_named


def _plain(cell: Any) -> str:
    """Return a cell as text, for types that the database parses itself."""
    text = cell if isinstance(cell, str) else _json_text(cell)
    if "\0" in text:
        raise ValueError("contains a zero character")
    if not text.isascii():
        text.encode()  # raises for a lone surrogate
    return text


def _json_text(cell: Any) -> str:
    if isinstance(cell, Decimal) and abs(cell.adjusted()) < _PLAIN_EXPONENT:
        return f"{cell:f}"
    return str(cell) if isinstance(cell, Decimal) else _JSON.encode(cell).decode()


def _text(column: ColumnType, _: FileFormat) -> Convert:
    max_chars, is_padded = column.max_chars, column.is_padded

    def convert(cell: Any) -> str:
        text = _plain(cell)
        if max_chars is not None and len(text) > max_chars:
            raise ValueError(f"has {len(text)} characters, more than {max_chars}")
        if is_padded and text.endswith(" "):
            raise ValueError("ends with a space, which the column does not keep")
        return text

    return convert


def _number_of(cell: Any, file_format: FileFormat) -> Decimal:
    if isinstance(cell, str):
        return parse_number(cell, file_format.decimal)
    if isinstance(cell, (int, Decimal)):  # a JSON number; true and false count as 1 and 0
        return Decimal(cell)
    raise ValueError("is not a number")


def _integer(column: ColumnType, file_format: FileFormat) -> Convert:
    limit = 2 ** (column.bits - 1)

    def convert(cell: Any) -> int:
        if isinstance(cell, str) and len(cell) <= _SHORT_INTEGER and cell.isdigit() and cell.isascii():
            number = int(cell)  # the usual form
        else:
            try:
                number = integer(_number_of(cell, file_format))
            except ValueError as error:
                raise ValueError("is not an integer" if isinstance(cell, str) else str(error)) from None
        if not -limit <= number < limit:
            raise ValueError("is too big for the column")
        return number

    return convert


def _number(column: ColumnType, file_format: FileFormat) -> Convert:
    max_before = None if column.precision is None else column.precision - column.scale
    is_limited = column.is_double or max_before is not None

    def convert(cell: Any) -> Decimal | float | int:
        number = _number_of(cell, file_format)
        if not is_limited:
            return number
        before, after = count_digits(number)
        if max_before is not None and before > max_before:
            raise ValueError(f"has more than {max_before} digits before the decimal separator")
        if max_before is not None and after > column.scale:
            raise ValueError(f"has more than {column.scale} digits after the decimal separator")
        if column.is_double:
            return int(number) if after <= 0 and before <= _DOUBLE_INTEGER_DIGITS else to_float(number, 64)
        return number

    return convert


def _float(column: ColumnType, file_format: FileFormat) -> Convert:
    return lambda cell: to_float(_number_of(cell, file_format), column.bits)


def _boolean(_: ColumnType, __: FileFormat) -> Convert:
    def convert(cell: Any) -> bool:
        truth = _TRUTH.get(str(cell).strip().lower())
        if truth is None:
            raise ValueError("is neither true nor false")
        return truth

    return convert


def _interval(column: ColumnType, _: FileFormat) -> Convert:
    return lambda cell: read_interval(_plain(cell), column)


def _other(column: ColumnType, _: FileFormat) -> Convert:
    """Return the converter for types that the database parses, but whose texts it keeps."""
    if not column.pattern:
        return _plain
    pattern = re.compile(column.pattern)

    def convert(cell: Any) -> str:
        text = _plain(cell)
        if not pattern.fullmatch(text):
            raise ValueError("is not in a form that the column keeps unchanged")
        return text

    return convert


def _json(column: ColumnType, _: FileFormat) -> Convert:
    """Return the converter for cells of CSV files: JSON stays as it is, other text becomes a JSON string."""

    def convert(cell: Any) -> str:
        try:
            value = load_json(cell, unique_names=column.unique_names)
        except RepeatedName:
            raise ValueError(_REPEATED_NAME) from None
        except ValueError:
            return json.dumps(_plain(cell), ensure_ascii=False)
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        _check_json_number(column, value)
        return _plain(cell)

    return convert


def _json_value(column: ColumnType) -> Convert:
    """Return the converter for cells of JSON files."""

    def convert(cell: Any) -> str:
        _check_json_number(column, cell)
        return json.dumps(_plain(cell), ensure_ascii=False) if isinstance(cell, str) else _JSON.encode(cell).decode()

    return convert


def _check_json_number(column: ColumnType, value: Any) -> None:
    """Raise ``ValueError`` if the column would store a bare number, and lose digits of it."""
    if column.is_double and isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        _number(ColumnType(kind="number", is_double=True), FileFormat())(value)


def _uuid(_: ColumnType, __: FileFormat) -> Convert:
    def convert(cell: Any) -> str:
        text = str(cell).strip()
        if not _UUID.fullmatch(text):
            raise ValueError("is not a UUID")
        return str(uuid.UUID(text))

    return convert


def _array(column: ColumnType, file_format: FileFormat) -> Convert:
    """Return the converter for arrays, which are JSON lists, also of lists of equal length.

    The database's own form, such as {a,b}, does not fit, because a brace, a backslash or NULL in it may be plain text.
    """
    item = column.item or ColumnType()
    convert_item = _json_value(item) if item.kind == "json" else _CONVERTERS[item.kind](item, file_format)

    def literal(value: Any) -> str:
        if isinstance(value, list):
            if [] in value:
                raise ValueError("contains an empty list within a list, which the column does not keep")
            return "{" + ",".join(map(literal, value)) + "}"
        if value is None:
            return "NULL"
        text = str(convert_item(value))
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def convert(cell: Any) -> str:
        if isinstance(cell, str) and cell.lstrip().startswith("["):
            try:
                cell = load_json(cell, unique_names=True)
            except RepeatedName:
                raise ValueError(_REPEATED_NAME) from None
            except (ValueError, RecursionError):
                raise ValueError("is not a JSON list") from None
        if isinstance(cell, list):
            return literal(cell)
        raise ValueError("is not a JSON list")

    return convert


_CONVERTERS: Mapping[Kind, Callable[[ColumnType, FileFormat], Convert]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "float": _float,
    "boolean": _boolean,
    **dict.fromkeys(("date", "timestamp", "time"), lambda column, files: temporal(column, files.date_format)),
    "interval": _interval,
    "json": _json,
    "uuid": _uuid,
    "array": _array,
    "other": _other,
}
