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

_MISFITS = (ValueError, ArithmeticError, TypeError)
_LONGEST_CELL = 64 * 1024 * 1024
_TRUTH = {"true": True, "t": True, "yes": True, "y": True, "1": True, "on": True} | dict.fromkeys(
    ("false", "f", "no", "n", "0", "off"), False
)

csv.field_size_limit(_LONGEST_CELL)


class Reading(Struct, frozen=True, kw_only=True):
    """How files are read."""

    columns: Mapping[str, str] = {}
    """What a column of the file is called in the table; empty: left out. Others keep their name."""
    header: tuple[str, ...] = ()
    """Names of the columns of files that have no header line; empty: the first line names them."""
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    decimal: str = "."
    """The sign before the decimals; the other one of ``.`` and ``,`` groups thousands."""
    date_format: str = ""
    """As ``strptime`` has it; empty: ISO 8601."""


class Rows:
    """The rows of one file; ``names`` are those of the table's columns that it fills."""

    def __init__(self, names: tuple[str, ...], cells: Iterator[tuple[int, Sequence[Any]]], what: str) -> None:
        self.names = names
        self.what = what
        """What messages call the file."""
        self._cells = cells

    def check(self, table: sa.Table, key: Sequence[str]) -> None:
        """Raise ``SchemaMismatch`` unless the table has all columns, and the file all of the key."""
        for name in self.names:
            if name not in table.columns:
                raise SchemaMismatch(
                    f"{self.what}: table {table.fullname} has no column {name!r}",
                    hint='Add it, or give its name in the table under "columns"; "" leaves it out.',
                )
        if missing := [name for name in key if name not in self.names]:
            raise SchemaMismatch(f"{self.what}: has no key column {missing[0]!r}", hint='"columns" gives other names.')

    def converted(self, table: sa.Table, key: Sequence[str], reading: Reading) -> Iterator[tuple[int, list[Value]]]:
        """Yield the number of each row, from 1, and its values. Raises ``SchemaMismatch``."""
        converts = [converter(table.columns[name], reading, needed=name in key) for name in self.names]
        for number, cells in self._cells:
            if len(cells) != len(converts):
                raise SchemaMismatch(f"{self.what}, row {number}: has {len(cells)} values for {len(converts)} columns")
            try:
                values = [convert(cell) for convert, cell in zip(converts, cells, strict=True)]
            except _MISFITS:
                raise self._misfit(table, converts, number, cells) from None
            yield number, values

    def _misfit(
        self, table: sa.Table, converts: Sequence[Convert], number: int, cells: Sequence[Any]
    ) -> SchemaMismatch:
        """Find the column that a row does not fit; only then is it asked which."""
        for name, convert, cell in zip(self.names, converts, cells, strict=True):
            try:
                convert(cell)
            except _MISFITS as error:
                return SchemaMismatch(
                    f"{self.what}, row {number}, column {name!r}: {error}",
                    hint=f"The column is {table.columns[name].type!r} in table {table.fullname}.",
                )
        raise AssertionError("a value that fits now did not a moment ago")


def read_rows(data: IO[bytes], filename: str, what: str, reading: Reading) -> Rows:
    """Read a file: ``.json`` (an object, or a list of them), ``.jsonl`` and ``.ndjson`` (one a line), else CSV.

    Raises ``SchemaMismatch``. A JSON file is read whole; others are not.
    """
    data.seek(0)
    ending = filename.lower().rpartition(".")[2]
    if ending in ("json", "jsonl", "ndjson"):
        names, cells = _json_cells(data, what, lines=ending != "json")
    else:
        names, cells = _csv_cells(data, what, reading)
    wanted = [reading.columns.get(name, name) for name in names]
    taken = [index for index, name in enumerate(wanted) if name]
    final = tuple(wanted[index] for index in taken)
    if not final or len(set(final)) < len(final):
        raise SchemaMismatch(
            f"{what}: names no column, or one twice", hint='"columns" gives other names; "" leaves out.'
        )
    if len(taken) == len(names):
        return Rows(final, cells, what)
    # A row that is too short or too long is passed on as it is, to be told by its number.
    return Rows(final, ((n, [row[i] for i in taken] if len(row) == len(names) else row) for n, row in cells), what)  #


def _csv_cells(data: IO[bytes], what: str, reading: Reading) -> tuple[Sequence[str], Iterator[tuple[int, list[str]]]]:
    text = io.TextIOWrapper(io.BufferedReader(_Borrowed(data)), reading.encoding, newline="")
    lines = csv.reader(text, delimiter=reading.delimiter, strict=True)

    def told() -> Iterator[list[str]]:
        try:
            yield from (line for line in lines if line)
        except UnicodeDecodeError:
            raise SchemaMismatch(f"{what}: is not {reading.encoding} text", hint='"encoding" gives another.') from None
        except csv.Error as error:
            raise SchemaMismatch(f"{what}, line {lines.line_num}: {error}") from None

    rows = told()
    names = reading.header or [name.strip() for name in next(rows, [])]
    if not names:
        raise SchemaMismatch(f"{what}: is empty", hint="It should begin with a line that names the columns.")
    return names, enumerate(rows, 1)


def _json_cells(data: IO[bytes], what: str, *, lines: bool) -> tuple[Sequence[str], Iterator[tuple[int, list[Any]]]]:
    decoder = msgspec.json.Decoder(float_hook=Decimal)
    try:
        text = data.read()
        found = decoder.decode_lines(text) if lines else decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SchemaMismatch(f"{what}: is not JSON") from None
    objects = [found] if isinstance(found, dict) else found
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise SchemaMismatch(f"{what}: is no JSON object, and no list of them")
    names = list(dict.fromkeys(name for one in objects for name in one))
    if not names:
        raise SchemaMismatch(f"{what}: holds no value")
    return names, ((number, [one.get(name) for name in names]) for number, one in enumerate(objects, 1))


def converter(column: "sa.Column[Any]", reading: Reading, *, needed: bool) -> Convert:
    """What turns a cell into what a column takes. An empty cell is NULL where the column may be that."""
    kind = column.type
    convert = next((make(kind, reading) for known, make in _CONVERTERS if isinstance(kind, known)), _plain)
    is_text = isinstance(kind, sa.String)
    nullable = bool(column.nullable) and not needed

    def converted(cell: Any) -> Value:
        if cell is None or (cell == "" and (nullable or not is_text)):
            if nullable:
                return None
            raise ValueError("is empty")
        return convert(cell)

    return converted


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


def _text(kind: sa.String, _: Reading) -> Convert:
    longest = kind.length

    def convert(cell: Any) -> str:
        text = str(_plain(cell))
        if longest is not None and len(text) > longest:
            raise ValueError(f"has {len(text)} characters, more than {longest}")
        return text

    return convert


def _integer(kind: sa.Integer, reading: Reading) -> Convert:
    bits = 15 if isinstance(kind, sa.SmallInteger) else 63 if isinstance(kind, sa.BigInteger) else 31
    groups = "," if reading.decimal == "." else "."

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


def _numeric(kind: "sa.Numeric[Any]", reading: Reading) -> Convert:
    above = None if kind.precision is None else kind.precision - (kind.scale or 0)
    groups = "," if reading.decimal == "." else "."
    is_float = isinstance(kind, sa.Float)

    def convert(cell: Any) -> Decimal | float:
        text = cell.replace(groups, "").replace(reading.decimal, ".") if isinstance(cell, str) else str(cell)
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise ValueError("is no number") from None
        if is_float:
            return float(number)
        if not number.is_finite():
            raise ValueError("is no number")
        if above is not None and round(abs(number), kind.scale or 0) >= 10**above:
            raise ValueError(f"has more than {above} digits before the decimals")
        return number

    return convert


def _boolean(_: sa.Boolean, __: Reading) -> Convert:
    def convert(cell: Any) -> bool:
        found = _TRUTH.get(str(cell).strip().lower())
        if found is None:
            raise ValueError("is neither true nor false")
        return found

    return convert


def _moment(parse: Callable[[str], Value], pick: Callable[[datetime], Value], what: str) -> Callable[..., Convert]:
    def make(_: object, reading: Reading) -> Convert:
        def convert(cell: Any) -> Value:
            text = str(cell).strip()
            try:
                return pick(datetime.strptime(text, reading.date_format)) if reading.date_format else parse(text)  # noqa: DTZ007 - as the file says it
            except ValueError:
                raise ValueError(f"is no {what} ({reading.date_format or 'ISO 8601'})") from None

        return convert

    return make


def _json(_: object, __: Reading) -> Convert:
    def convert(cell: Any) -> str:
        if isinstance(cell, str):
            try:
                json.loads(cell)
            except (ValueError, RecursionError):
                return json.dumps(cell)
            return cell
        return _json_text(cell)

    return convert


def _uuid(_: object, __: Reading) -> Convert:
    def convert(cell: Any) -> str:
        try:
            return str(uuid.UUID(str(cell)))
        except ValueError:
            raise ValueError("is no UUID") from None

    return convert


_CONVERTERS: tuple[tuple[type[Any], Callable[[Any, Reading], Convert]], ...] = (
    (sa.Boolean, _boolean),
    (sa.Integer, _integer),
    (sa.Numeric, _numeric),
    (sa.DateTime, _moment(datetime.fromisoformat, lambda moment: moment, "date and time")),
    (sa.Date, _moment(date.fromisoformat, datetime.date, "date")),
    (sa.Time, _moment(time.fromisoformat, datetime.time, "time")),
    (sa.JSON, _json),
    (sa.Uuid, _uuid),
    (sa.Enum, lambda _, __: _plain),
    (sa.String, _text),
)
"""By kind of column, the first that fits; what is not listed is passed on as text."""


class _Borrowed(io.RawIOBase):
    """Reads what another owns: closing it closes nothing."""

    def __init__(self, data: IO[bytes]) -> None:
        self._data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._data.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
