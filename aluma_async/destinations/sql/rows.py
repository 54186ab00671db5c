"""``Rows``: reads rows from CSV and JSON files.

A row that does not fit its table raises ``SchemaMismatch`` with file, row and column, never with the value, because
values are customer data. So may be the names in a file: a column that neither the table nor the configuration names has
a number.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import IO, Any, TypeAlias

from msgspec import Struct

from aluma_async.destinations.sql.convert import Convert, FileFormat, Value, converter
from aluma_async.destinations.sql.csv_file import fill_blank_lines, read_csv
from aluma_async.destinations.sql.json_file import NO_ROWS_HINT, read_json
from aluma_async.destinations.sql.layout import Kind, Layout
from aluma_async.destinations.sql.row_groups import ABSENT
from aluma_async.exceptions import SchemaMismatch
from aluma_async.models import ExportFile

_MISMATCHES = (ValueError, ArithmeticError, TypeError)
_MAP_COLUMNS = 'Map column names in column_names; "" skips a column.'
_SETTINGS: Mapping[Kind, str] = {
    **dict.fromkeys(("integer", "number", "float"), ", or check decimal"),
    **dict.fromkeys(("date", "timestamp", "time"), ", or check date_format"),
}
"""Settings that determine how cells are read, by the kind of the column."""
_ZONE = ", export times with their zone, such as 2026-12-31T23:59:58+01:00"
_UNPRINTABLE = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
_VALUE = re.compile(r"[-+]?[0-9][0-9.,:/ T-]*")
"""A header cell that is a number, a date or a time, and so probably no header."""
_DELIMITERS = ";,\t|"

Cells: TypeAlias = Iterable[Sequence[Any]]


class FileColumn(Struct, frozen=True):
    """A column of a file."""

    number: int
    """Its number in messages, from 1; in a JSON file, by the first appearance of its name."""
    name: str
    """The table column that it fills; empty: none."""
    may_have_values: bool = True
    """False if the file gives it no name, so that nothing is known about its values."""
    is_known: bool = False
    """Whether the configuration contains its name, so that messages may do so."""


class Rows:
    """The rows of one file; ``names`` are the table columns that they fill."""

    def __init__(
        self,
        columns: Sequence[FileColumn],
        cells: Cells,
        subject: str,
        *,
        from_json: bool,
        has_header: bool,
        is_ragged: bool,
    ) -> None:
        self._columns = columns
        self.names = tuple(column.name for column in columns if column.name)
        self.subject = subject
        """The name of the file in messages."""
        rows = iter(cells)
        first = next(rows, None)
        self.count = 0
        """Number of rows that were converted so far."""
        self._is_empty = first is None
        self._cells = rows if first is None else chain([first], rows)
        self._from_json = from_json
        self._has_header = has_header
        self.is_ragged = is_ragged
        """Whether cells may be ``ABSENT``, because the objects of a JSON file have different names."""

    def check_names(self, key: Sequence[str], reserved: Collection[str]) -> None:
        """Raise ``SchemaMismatch`` unless the file has all key columns, and none of the ``reserved`` ones."""
        if absent := [name for name in key if name not in self.names]:
            raise SchemaMismatch(f"{self.subject}: has no key column {absent[0]!r}", hint=_MAP_COLUMNS)
        for column in self._columns:
            if column.name in reserved:
                raise SchemaMismatch(
                    f"{self.subject}: column {column.number} has a name that the exporter needs for itself",
                    hint=_MAP_COLUMNS,
                )

    def check_columns(self, layout: Layout) -> None:
        """Raise ``SchemaMismatch`` unless the table has all columns of the file."""
        kept = [column for column in self._columns if column.name]
        missing = [column for column in kept if column.name not in layout.columns]
        if self._has_header and len(missing) == len(kept):  # not named, because they may be values
            raise SchemaMismatch(
                f"{self.subject}: table {layout.label} has none of the columns in the first line of the file",
                hint="Check delimiter; set header_names if the file has no header line; map names in column_names.",
            )
        for column in missing:
            name = f"{column.name!r}, which is" if column.is_known else "for"
            raise SchemaMismatch(
                f"{self.subject}: table {layout.label} has no column {name} column {column.number} of the file",
                hint='Add the column, or map its name in column_names; "" skips it.',
            )

    def check_new_table(self) -> None:
        """Raise ``SchemaMismatch`` if the file may be misunderstood, so that no table should be created for it."""
        if self._is_empty:
            raise SchemaMismatch(
                f"{self.subject}: has no rows, so no table is created for it", hint="Create the table yourself."
            )
        if not self._has_header:
            return
        for column in self._columns:
            if _VALUE.fullmatch(column.name):
                raise SchemaMismatch(
                    f"{self.subject}: column {column.number} has a number or date as its name",
                    hint="Set header_names if the file has no header line, or create the table yourself.",
                )
        if len(self._columns) == 1 and any(char in self.names[0] for char in _DELIMITERS):
            raise SchemaMismatch(
                f"{self.subject}: the first line is a single name that contains a delimiter",
                hint="Set delimiter, or create the table yourself.",
            )

    def convert(self, layout: Layout, key: Sequence[str], file_format: FileFormat) -> Iterator[tuple[int, list[Value]]]:
        """Yield the number of each row, from 1, and its values. Raises ``SchemaMismatch``."""
        converters = [
            (
                index,
                converter(
                    layout.columns[column.name],
                    file_format,
                    required=column.name in key,
                    from_json=self._from_json,
                ),
            )
            for index, column in enumerate(self._columns)
            if column.name
        ]
        nameless = [(index, column) for index, column in enumerate(self._columns) if not column.may_have_values]
        key_positions = [self.names.index(name) for name in key]
        count = len(self._columns)
        for number, cells in enumerate(self._cells, 1):
            if len(cells) != count:
                raise SchemaMismatch(
                    f"{self.subject}, row {number}: has {len(cells)} values for {count} columns",
                    hint="Check delimiter, and that cells which contain it are quoted.",
                )
            for index, column in nameless:
                if cells[index] is not None and cells[index] is not ABSENT and str(cells[index]).strip():
                    raise SchemaMismatch(
                        f"{self.subject}, row {number}: column {column.number} has a value, but no name in the header",
                        hint='Name it in the file, or in column_names as { "" = "name" }.',
                    )
            try:
                values = [convert(cells[index]) for index, convert in converters]
            except _MISMATCHES:
                raise self._find_mismatch(layout, converters, number, cells) from None
            if key and not any(str(values[position]).strip() for position in key_positions):
                raise SchemaMismatch(
                    f"{self.subject}, row {number}: has an empty key, so it could replace a row that is not its own",
                    hint="Use other columns as key, or none.",
                )
            self.count = number
            yield number, values

    def _find_mismatch(
        self, layout: Layout, converters: Sequence[tuple[int, Convert]], number: int, cells: Sequence[Any]
    ) -> SchemaMismatch:
        """Return the error for a row that was not converted; only now is it worth finding the column."""
        for index, convert in converters:
            column = self._columns[index]
            name = column.name
            try:
                convert(cells[index])
            except UnicodeError:  # its text contains the value
                reason = "is not valid Unicode"
            except _MISMATCHES as error:
                reason = str(error)
            else:
                continue
            column_type = layout.columns[name].type
            needs_zone = (column_type.item or column_type).needs_zone
            label = column.number if layout.is_new and not column.is_known else repr(name)
            return SchemaMismatch(
                f"{self.subject}, row {number}, column {label}: {reason}",
                hint=f"The column is of type {layout.columns[name].declared} in table {layout.label}. Change it there"
                f"{_ZONE if needs_zone else ''}{_SETTINGS.get(column_type.kind, '')}.",
            )
        raise AssertionError("conversion failed once and then succeeded")


def read_rows(
    data: IO[bytes],
    file: ExportFile,
    subject: str,
    file_format: FileFormat,
    *,
    max_name_bytes: int,
    fold_case: bool,
    known_names: Collection[str] = (),
) -> Rows:
    """Read a file: ``.json`` (an object or a list of objects), ``.jsonl`` or ``.ndjson`` (an object per line), or CSV.

    A JSON file is read into memory, CSV is not. Raises ``SchemaMismatch``.

    Args:
        data: the content of the file.
        file: its name determines the format.
        subject: its name in messages.
        file_format: the format of CSV files, and the names of columns.
        max_name_bytes: maximum length of the name of a column.
        fold_case: whether the database regards names as equal that differ in upper and lower case only.
        known_names: columns of the table that the configuration names.
    """
    extension = file.filename.lower().rpartition(".")[2]
    from_json = extension in ("json", "jsonl", "ndjson")
    if from_json:
        names, cells, is_ragged = read_json(data, subject, lines=extension != "json")
    else:
        encoding = "utf-8-sig" if file.source == "content" else file_format.encoding
        is_ragged = False
        names, cells = _read_header(read_csv(data, subject, file_format, encoding), subject, file_format)
    has_header = not from_json and not file_format.header_names
    columns = [
        _file_column(number, name, file_format, known_names, is_named=from_json or has_header)
        for number, name in enumerate(names, 1)
    ]
    _check_names(columns, subject, max_name_bytes=max_name_bytes, fold_case=fold_case)
    return Rows(columns, cells, subject, from_json=from_json, has_header=has_header, is_ragged=is_ragged)


def _file_column(
    number: int, name: str, file_format: FileFormat, known_names: Collection[str], *, is_named: bool
) -> FileColumn:
    column_name = file_format.column_names.get(name, name)
    may_have_values = bool(name) or name in file_format.column_names or not is_named
    is_known = name in file_format.column_names or name in file_format.header_names or column_name in known_names
    return FileColumn(number, column_name, may_have_values, is_known)


def _check_names(columns: Sequence[FileColumn], subject: str, *, max_name_bytes: int, fold_case: bool) -> None:
    """Raise ``SchemaMismatch`` unless each column that is kept has a usable name of its own."""
    first: dict[str, FileColumn] = {}
    for column in columns:
        if not column.name:
            continue
        try:
            size = len(column.name.encode())
        except UnicodeError:
            raise SchemaMismatch(
                f"{subject}: column {column.number} has a name that is not valid Unicode", hint=_MAP_COLUMNS
            ) from None
        if _UNPRINTABLE.search(column.name):
            raise SchemaMismatch(
                f"{subject}: column {column.number} has control characters in its name, so this may be a binary file",
                hint="Send such files to another destination with a route, or check encoding.",
            )
        if max_name_bytes and size > max_name_bytes:
            raise SchemaMismatch(
                f"{subject}: column {column.number} has a name of {size} bytes, more than {max_name_bytes}",
                hint=_MAP_COLUMNS,
            )
        name = column.name.lower() if fold_case else column.name
        if name in first:
            raise SchemaMismatch(
                f"{subject}: column {column.number} has the same name as column {first[name].number}",
                hint=_MAP_COLUMNS,
            )
        first[name] = column
    if not first:
        raise SchemaMismatch(f"{subject}: has no columns", hint=_MAP_COLUMNS)


def _read_header(
    lines: Iterator[list[str]], subject: str, file_format: FileFormat
) -> tuple[Sequence[str], Iterator[list[str]]]:
    names = file_format.header_names or [name.strip().removeprefix("\ufeff") for name in next(filter(None, lines), [])]
    if not names:
        raise SchemaMismatch(f"{subject}: is empty", hint=NO_ROWS_HINT)
    return names, filter(None, lines) if len(names) > 1 else fill_blank_lines(lines)
