"""Rows out of CSV and JSON files, each value as the column that it goes into wants it.

What does not fit is a ``SchemaMismatch`` that names file, row and column, and never the value: that is a customer's.
"""

import csv
import io
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import IO, Any, TypeAlias

import msgspec
import sqlalchemy as sa
from msgspec import Struct

from aluma_async.exceptions import SchemaMismatch

Value: TypeAlias = Any
"""What a driver takes: None, str, int, float, bool, Decimal, date, datetime, time."""
Convert: TypeAlias = Callable[[Any], Value]
"""Turns a cell (text from CSV, any JSON value) into a value; raises ``ValueError`` that says what is wanted."""

_MISMATCHES = (ValueError, ArithmeticError, TypeError)
_MAX_CELL_CHARS = 64 * 1024 * 1024
_TRUTH = {"true": True, "t": True, "yes": True, "y": True, "1": True, "on": True} | dict.fromkeys(
    ("false", "f", "no", "n", "0", "off"), False
)

csv.field_size_limit(_MAX_CELL_CHARS)


class FileFormat(Struct, frozen=True, kw_only=True):
    """How files are read."""

    column_names: Mapping[str, str] = {}
    """What a column of the file is called in the table; empty: left out. Others keep their name."""
    header_names: tuple[str, ...] = ()
    """Names of the columns of files that have no header line; empty: the first line names them."""
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    decimal: str = "."
    """The sign before the decimals; the other one of ``.`` and ``,`` groups thousands."""
    date_format: str = ""
    """As ``strptime`` has it; empty: ISO 8601."""


class Rows:
    """The rows of one file; ``names`` are those of the table's columns that it fills."""

    def __init__(self, names: tuple[str, ...], cells: Iterator[tuple[int, Sequence[Any]]], subject: str) -> None:
        self.names = names
        self.subject = subject
        """What messages call the file."""
        self._cells = cells

    def check_columns(self, table: sa.Table, key: Sequence[str]) -> None:
        """Raise ``SchemaMismatch`` unless the table has all columns, and the file all of the key."""
        for name in self.names:
            if name not in table.columns:
                raise SchemaMismatch(
                    f"{self.subject}: table {table.fullname} has no column {name!r}",
                    hint='Add it, or give its name in the table under "columns"; "" leaves it out.',
                )
        if missing := [name for name in key if name not in self.names]:
            raise SchemaMismatch(
                f"{self.subject}: has no key column {missing[0]!r}", hint='"columns" gives other names.'
            )

    def convert(
        self, table: sa.Table, key: Sequence[str], file_format: FileFormat
    ) -> Iterator[tuple[int, list[Value]]]:
        """Yield the number of each row, from 1, and its values. Raises ``SchemaMismatch``."""
        converters = [converter(table.columns[name], file_format, required=name in key) for name in self.names]
        for number, cells in self._cells:
            if len(cells) != len(converters):
                raise SchemaMismatch(
                    f"{self.subject}, row {number}: has {len(cells)} values for {len(converters)} columns"
                )
            try:
                values = [convert(cell) for convert, cell in zip(converters, cells, strict=True)]
            except _MISMATCHES:
                raise self._find_mismatch(table, converters, number, cells) from None
            yield number, values

    def _find_mismatch(
        self, table: sa.Table, converters: Sequence[Convert], number: int, cells: Sequence[Any]
    ) -> SchemaMismatch:
        """Find the column that a row does not fit; only then is it asked which."""
        for name, convert, cell in zip(self.names, converters, cells, strict=True):
            try:
                convert(cell)
            except _MISMATCHES as error:
                return SchemaMismatch(
                    f"{self.subject}, row {number}, column {name!r}: {error}",
                    hint=f"The column is {table.columns[name].type!r} in table {table.fullname}.",
                )
        raise AssertionError("a value that fits now did not a moment ago")


def read_rows(data: IO[bytes], filename: str, subject: str, file_format: FileFormat) -> Rows:
    """Read a file: ``.json`` (an object, or a list of them), ``.jsonl`` and ``.ndjson`` (one a line), else CSV.

    Raises ``SchemaMismatch``. A JSON file is read whole; others are not.
    """
    data.seek(0)
    extension = filename.lower().rpartition(".")[2]
    if extension in ("json", "jsonl", "ndjson"):
        names, cells = _json_cells(data, subject, lines=extension != "json")
    else:
        names, cells = _csv_cells(data, subject, file_format)
    wanted = [file_format.column_names.get(name, name) for name in names]
    taken = [index for index, name in enumerate(wanted) if name]
    final = tuple(wanted[index] for index in taken)
    if not final or len(set(final)) < len(final):
        raise SchemaMismatch(
            f"{subject}: names no column, or one twice", hint='"columns" gives other names; "" leaves out.'
        )
    if len(taken) == len(names):
        return Rows(final, cells, subject)
    # A row that is too short or too long is passed on as it is, to be told by its number.
    return Rows(
        final, ((n, [row[i] for i in taken] if len(row) == len(names) else row) for n, row in cells), subject
    )  #


def _csv_cells(
    data: IO[bytes], subject: str, file_format: FileFormat
) -> tuple[Sequence[str], Iterator[tuple[int, list[str]]]]:
    text = io.TextIOWrapper(io.BufferedReader(_NonClosingReader(data)), file_format.encoding, newline="")
    lines = csv.reader(text, delimiter=file_format.delimiter, strict=True)

    def read_lines() -> Iterator[list[str]]:
        try:
            yield from (line for line in lines if line)
        except UnicodeDecodeError:
            raise SchemaMismatch(
                f"{subject}: is not {file_format.encoding} text", hint='"encoding" gives another.'
            ) from None
        except csv.Error as error:
            raise SchemaMismatch(f"{subject}, line {lines.line_num}: {error}") from None

    rows = read_lines()
    names = file_format.header_names or [name.strip() for name in next(rows, [])]
    if not names:
        raise SchemaMismatch(f"{subject}: is empty", hint="It should begin with a line that names the columns.")
    return names, enumerate(rows, 1)


def _json_cells(data: IO[bytes], subject: str, *, lines: bool) -> tuple[Sequence[str], Iterator[tuple[int, list[Any]]]]:
    decoder = msgspec.json.Decoder(float_hook=Decimal)
    try:
        text = data.read()
        decoded = decoder.decode_lines(text) if lines else decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SchemaMismatch(f"{subject}: is not JSON") from None
    rows = [decoded] if isinstance(decoded, dict) else decoded
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SchemaMismatch(f"{subject}: is no JSON object, and no list of them")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise SchemaMismatch(f"{subject}: holds no value")
    return names, ((number, [row.get(name) for name in names]) for number, row in enumerate(rows, 1))


def converter(column: "sa.Column[Any]", file_format: FileFormat, *, required: bool) -> Convert:
    """What turns a cell into what a column takes. An empty cell is NULL where the column may be that."""
    kind = column.type
    convert_value = next(
        (make_converter(kind, file_format) for known, make_converter in _CONVERTERS if isinstance(kind, known)), _plain
    )
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
    """Text, whatever it was: the database knows what to make of it."""
    text = cell if isinstance(cell, str) else _json_text(cell)
    if "\0" in text:
        raise ValueError("holds a zero character")
    if not text.isascii():
        text.encode()  # a lone surrogate is no text
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
            raise ValueError("is no whole number") from None
        if number != (cell if not isinstance(cell, str) else number):
            raise ValueError("is no whole number")
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
            raise ValueError("is no number") from None
        if is_float:
            return float(number)
        if not number.is_finite():
            raise ValueError("is no number")
        if max_integer_digits is not None and round(abs(number), kind.scale or 0) >= 10**max_integer_digits:
            raise ValueError(f"has more than {max_integer_digits} digits before the decimals")
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
    def make_converter(_: object, file_format: FileFormat) -> Convert:
        def convert(cell: Any) -> Value:
            text = str(cell).strip()
            try:
                if not file_format.date_format:
                    return parse(text)
                return pick(datetime.strptime(text, file_format.date_format))  # noqa: DTZ007
            except ValueError:
                raise ValueError(f"is no {type_name} ({file_format.date_format or 'ISO 8601'})") from None

        return convert

    return make_converter


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
            raise ValueError("is no UUID") from None

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
"""By kind of column, the first that fits; what is not listed is passed on as text."""


class _NonClosingReader(io.RawIOBase):
    """Reads what another owns: closing it closes nothing."""

    def __init__(self, data: IO[bytes]) -> None:
        self._data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._data.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)
