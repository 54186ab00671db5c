"""Converters: turn the cells of a file into values for the columns of a table.

A cell is text (from CSV) or any JSON value. A cell that does not fit raises ``ValueError`` with the reason, never with
the value, because values are customer data.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from msgspec import Struct

Value: TypeAlias = Any
"""A value that a driver accepts: None, str, int, float, bool, Decimal, date, datetime, time."""
Convert: TypeAlias = Callable[[Any], Value]
"""Converts a cell to a value; raises ``ValueError`` with the reason if it does not fit."""

_TRUTH = {"true": True, "t": True, "yes": True, "y": True, "1": True, "on": True} | dict.fromkeys(
    ("false", "f", "no", "n", "0", "off"), False
)


class FileFormat(Struct, frozen=True, kw_only=True):
    """The format of the files."""

    column_names: Mapping[str, str] = {}
    """Table column by file column; an empty name skips the column. Columns that are not listed keep their name."""
    header_names: tuple[str, ...] = ()
    """Column names of files without a header line. Empty: the first line is the header."""
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    decimal: str = "."
    """The decimal separator, ``.`` or ``,``; the other one is the thousands separator."""
    date_format: str = ""
    """Format of dates and times for ``strptime``. Empty: ISO 8601."""


def converter(column: "sa.Column[Any]", file_format: FileFormat, *, required: bool) -> Convert:
    """Return the converter for a column. An empty cell becomes NULL if the column is nullable and not ``required``."""
    kind = column.type
    convert_value = next((make(kind, file_format) for known, make in _CONVERTERS if isinstance(kind, known)), _plain)
    is_text = isinstance(kind, sa.String)
    nullable = bool(column.nullable) and not required

    def convert_cell(cell: Any) -> Value:
        if cell is None or (cell == "" and (nullable or not is_text)):
            if nullable:
                return None
            raise ValueError("is empty")
        return convert_value(cell)

    return convert_cell


def _plain(cell: Any) -> Value:
    """Return a cell as text, for types that the database parses itself."""
    text = cell if isinstance(cell, str) else _json_text(cell)
    if "\0" in text:
        raise ValueError("contains a zero character")
    if not text.isascii():
        text.encode()  # raises for a lone surrogate
    return text


def _json_text(cell: Any) -> str:
    return msgspec.json.encode(cell, enc_hook=str).decode() if not isinstance(cell, Decimal) else str(cell)


def _text(kind: sa.String, _: FileFormat) -> Convert:
    max_chars = kind.length

    def convert(cell: Any) -> str:
        text = str(_plain(cell))
        if max_chars is not None and len(text) > max_chars:
            raise ValueError(f"has {len(text)} characters, more than {max_chars}")
        return text

    return convert


def _integer(kind: sa.Integer, file_format: FileFormat) -> Convert:
    bits = 15 if isinstance(kind, sa.SmallInteger) else 63 if isinstance(kind, sa.BigInteger) else 31
    groups = "," if file_format.decimal == "." else "."

    def convert(cell: Any) -> int:
        if isinstance(cell, str):
            cell = cell.replace(groups, "") if groups in cell else cell
        try:
            number = int(cell)
        except (ValueError, TypeError):
            raise ValueError("is not an integer") from None
        if number != (cell if not isinstance(cell, str) else number):
            raise ValueError("is not an integer")
        if not -(2**bits) <= number < 2**bits:
            raise ValueError("is too big for the column")
        return number

    return convert


def _numeric(kind: "sa.Numeric[Any]", file_format: FileFormat) -> Convert:
    max_integer_digits = None if kind.precision is None else kind.precision - (kind.scale or 0)
    groups = "," if file_format.decimal == "." else "."
    is_float = isinstance(kind, sa.Float)

    def convert(cell: Any) -> Decimal | float:
        text = cell.replace(groups, "").replace(file_format.decimal, ".") if isinstance(cell, str) else str(cell)
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise ValueError("is not a number") from None
        if is_float:
            return float(number)
        if not number.is_finite():
            raise ValueError("is not a finite number")
        if max_integer_digits is not None and round(abs(number), kind.scale or 0) >= 10**max_integer_digits:
            raise ValueError(f"has more than {max_integer_digits} digits before the decimal separator")
        return number

    return convert


def _boolean(_: sa.Boolean, __: FileFormat) -> Convert:
    def convert(cell: Any) -> bool:
        truth = _TRUTH.get(str(cell).strip().lower())
        if truth is None:
            raise ValueError("is neither true nor false")
        return truth

    return convert


def _temporal(
    parse: Callable[[str], Value], pick: Callable[[datetime], Value], type_name: str
) -> Callable[..., Convert]:
    def make(_: object, file_format: FileFormat) -> Convert:
        def convert(cell: Any) -> Value:
            text = str(cell).strip()
            try:
                if not file_format.date_format:
                    return parse(text)
                # Without a time zone, unless the format contains one: the table's column defines its meaning.
                return pick(datetime.strptime(text, file_format.date_format))  # noqa: DTZ007
            except ValueError:
                raise ValueError(f"is not a {type_name} ({file_format.date_format or 'ISO 8601'})") from None

        return convert

    return make


def _json(_: object, __: FileFormat) -> Convert:
    def convert(cell: Any) -> str:
        if isinstance(cell, str):
            try:
                json.loads(cell)
            except (ValueError, RecursionError):
                return json.dumps(cell)
            return cell
        return _json_text(cell)

    return convert


def _uuid(_: object, __: FileFormat) -> Convert:
    def convert(cell: Any) -> str:
        try:
            return str(uuid.UUID(str(cell)))
        except ValueError:
            raise ValueError("is not a UUID") from None

    return convert


_CONVERTERS: tuple[tuple[type[Any], Callable[[Any, FileFormat], Convert]], ...] = (
    (sa.Boolean, _boolean),
    (sa.Integer, _integer),
    (sa.Numeric, _numeric),
    (sa.DateTime, _temporal(datetime.fromisoformat, lambda moment: moment, "date and time")),
    (sa.Date, _temporal(date.fromisoformat, datetime.date, "date")),
    (sa.Time, _temporal(time.fromisoformat, datetime.time, "time")),
    (sa.JSON, _json),
    (sa.Uuid, _uuid),
    (sa.Enum, lambda _, __: _plain),
    (sa.String, _text),
)
"""Converter by column type; the first match counts. Cells for other types are passed on as text."""
