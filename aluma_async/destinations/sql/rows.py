"""``Rows``: reads rows from CSV and JSON files.

A row that does not fit its table raises ``SchemaMismatch`` with file, row and column, never with the value, because
values are customer data.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import IO, Any, TypeAlias

import msgspec
import sqlalchemy as sa

from aluma_async.destinations.sql.convert import Convert, FileFormat, Value, converter
from aluma_async.exceptions import SchemaMismatch

_MISMATCHES = (ValueError, ArithmeticError, TypeError)
_MAX_CELL_CHARS = 64 * 1024 * 1024
_MAP_COLUMNS = 'Map column names in column_names; "" skips a column.'

csv.field_size_limit(_MAX_CELL_CHARS)

NumberedCells: TypeAlias = Iterator[tuple[int, Sequence[Any]]]
"""The number of each row, from 1, and its cells."""


class Rows:
    """The rows of one file; ``names`` are the table columns that they fill."""

    def __init__(self, names: tuple[str, ...], cells: NumberedCells, subject: str) -> None:
        self.names = names
        self.subject = subject
        """The name of the file in messages."""
        self._cells = cells

    def check_columns(self, table: sa.Table, key: Sequence[str]) -> None:
        """Raise ``SchemaMismatch`` unless the table has all columns of the file, and the file all key columns."""
        for name in self.names:
            if name not in table.columns:
                raise SchemaMismatch(
                    f"{self.subject}: table {table.fullname} has no column {name!r}",
                    hint='Add the column, or map its name in column_names; "" skips it.',
                )
        if missing := [name for name in key if name not in self.names]:
            raise SchemaMismatch(f"{self.subject}: has no key column {missing[0]!r}", hint=_MAP_COLUMNS)

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
        """Return the error for a row that was not converted; only now is it worth finding the column."""
        for name, convert, cell in zip(self.names, converters, cells, strict=True):
            try:
                convert(cell)
            except _MISMATCHES as error:
                return SchemaMismatch(
                    f"{self.subject}, row {number}, column {name!r}: {error}",
                    hint=f"The column is {table.columns[name].type!r} in table {table.fullname}.",
                )
        raise AssertionError("conversion failed once and then succeeded")


def read_rows(data: IO[bytes], filename: str, subject: str, file_format: FileFormat) -> Rows:
    """Read a file: ``.json`` (an object or a list of objects), ``.jsonl`` or ``.ndjson`` (an object per line), or CSV.

    A JSON file is read into memory, CSV is not. Raises ``SchemaMismatch``.
    """
    data.seek(0)
    extension = filename.lower().rpartition(".")[2]
    if extension in ("json", "jsonl", "ndjson"):
        names, cells = _json_cells(data, subject, lines=extension != "json")
    else:
        names, cells = _csv_cells(data, subject, file_format)
    mapped = [file_format.column_names.get(name, name) for name in names]
    kept = [index for index, name in enumerate(mapped) if name]
    table_names = tuple(mapped[index] for index in kept)
    if not table_names:
        raise SchemaMismatch(f"{subject}: has no columns", hint=_MAP_COLUMNS)
    if len(set(table_names)) < len(table_names):
        raise SchemaMismatch(f"{subject}: has two columns with the same name", hint=_MAP_COLUMNS)
    if len(kept) == len(names):
        return Rows(table_names, cells, subject)
    # A row with too few or too many cells stays as it is, so that `convert` reports its number.
    picked = ((number, [row[i] for i in kept] if len(row) == len(names) else row) for number, row in cells)
    return Rows(table_names, picked, subject)


def _csv_cells(data: IO[bytes], subject: str, file_format: FileFormat) -> tuple[Sequence[str], NumberedCells]:
    text = io.TextIOWrapper(io.BufferedReader(_NonClosingReader(data)), file_format.encoding, newline="")
    lines = csv.reader(text, delimiter=file_format.delimiter, strict=True)

    def read_lines() -> Iterator[list[str]]:
        try:
            yield from (line for line in lines if line)
        except UnicodeDecodeError:
            raise SchemaMismatch(
                f"{subject}: is not valid {file_format.encoding} text", hint="Set encoding to that of the file."
            ) from None
        except csv.Error as error:
            raise SchemaMismatch(f"{subject}, line {lines.line_num}: {error}") from None

    rows = read_lines()
    names = file_format.header_names or [name.strip() for name in next(rows, [])]
    if not names:
        raise SchemaMismatch(f"{subject}: is empty", hint="Begin the file with a line of column names.")
    return names, enumerate(rows, 1)


def _json_cells(data: IO[bytes], subject: str, *, lines: bool) -> tuple[Sequence[str], NumberedCells]:
    decoder = msgspec.json.Decoder(float_hook=Decimal)
    try:
        text = data.read()
        decoded = decoder.decode_lines(text) if lines else decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise SchemaMismatch(f"{subject}: is not valid JSON") from None
    rows = [decoded] if isinstance(decoded, dict) else decoded
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SchemaMismatch(f"{subject}: is neither a JSON object nor a list of JSON objects")
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise SchemaMismatch(f"{subject}: contains no values")
    return names, ((number, [row.get(name) for name in names]) for number, row in enumerate(rows, 1))


class _NonClosingReader(io.RawIOBase):
    """Reads a file that its caller owns, so closing the reader does not close the file."""

    def __init__(self, data: IO[bytes]) -> None:
        self._data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._data.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)
