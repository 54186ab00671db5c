"""CSV files: their encoding, the line ``sep=;`` of spreadsheet programs, and files that are no CSV."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.exceptions import SchemaMismatch

MAX_CELL_CHARS = 64 * 1024 * 1024
_HEAD_BYTES = 4096
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FORMATS = (
    (b"%PDF-", "a PDF file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"PK\x03\x04", "a ZIP archive or an office document"),
    (b"\xd0\xcf\x11\xe0", "an office document"),
    (b"\x1f\x8b", "a compressed file"),
    (b"<?xml", "an XML file"),
    (b"<!DOCTYPE", "a web page"),
    (b"<html", "a web page"),
    (b"{\\rtf", "a document"),
)
_JSON = re.compile(rb"\s*[\[{]\s*[\"{\[\]}]")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
_OTHER_HINT = 'Send such files to another destination with a route, or set mode = "files".'

csv.field_size_limit(MAX_CELL_CHARS)


def read_csv(data: IO[bytes], subject: str, file_format: FileFormat, encoding: str) -> Iterator[list[str]]:
    """Yield the lines of a CSV file as cells, of a blank line none. Raises ``SchemaMismatch``."""
    data.seek(0)
    head = data.read(_HEAD_BYTES)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), encoding)
    _check_format(head, subject)
    data.seek(0)
    text = io.TextIOWrapper(io.BufferedReader(_NonClosingReader(data)), encoding, newline="")
    try:
        first_line = text.readline()
        separator = _SEPARATOR_LINE.fullmatch(first_line)
        lines = csv.reader(
            text if separator else chain([first_line], text),
            delimiter=separator[1] if separator else file_format.delimiter,
            strict=True,
        )
        yield from lines
    except UnicodeError:
        raise SchemaMismatch(
            f"{subject}: is not valid {encoding} text", hint="Set encoding to that of the file."
        ) from None
    except csv.Error as error:
        hint = "Check delimiter, and that each quote within a cell is doubled."
        if _contains(data, '\\"'.encode(encoding.removesuffix("-sig"), "replace")):
            hint = 'Double each quote within a cell (""); a backslash before it is not supported.'
        number = lines.line_num + bool(separator)
        raise SchemaMismatch(f"{subject}, line {number}: {error}", hint=hint) from None


def fill_blank_lines(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """Yield the lines of a file with one column; a blank line is an empty cell, except at the end of the file."""
    blank = 0
    for line in lines:
        if not line:
            blank += 1
            continue
        yield from ([""] for _ in range(blank))
        blank = 0
        yield line


def _check_format(head: bytes, subject: str) -> None:
    """Raise ``SchemaMismatch`` if a file is certainly no CSV."""
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()
    for magic, name in _OTHER_FORMATS:
        if start[: len(magic)].lower() == magic.lower():
            raise SchemaMismatch(f"{subject}: is {name}, not CSV or JSON", hint=_OTHER_HINT)
    if _JSON.match(start):
        raise SchemaMismatch(
            f"{subject}: is a JSON file, but its name does not say so", hint="Give it the extension .json or .jsonl."
        )


def _contains(data: IO[bytes], text: bytes) -> bool:
    """Return whether a file contains a text, also one that lies on the border of two blocks."""
    data.seek(0)
    last = b""
    while block := data.read(BLOCK):
        if text in last + block:
            return True
        last = block[-len(text) :]
    return False


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
