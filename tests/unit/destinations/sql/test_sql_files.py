"""Headers and formats of CSV and JSON files."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.destinations.sql.layout import Column, ColumnType, Layout
from aluma_async.destinations.sql.row_groups import ABSENT
from aluma_async.destinations.sql.rows import read_rows
from aluma_async.exceptions import SchemaMismatch
from aluma_async.models import ExportFile


def read(content, name="a.csv", *, source="url", max_name_bytes=63, fold_case=False, **options):
    """Return the names of a file's columns and the cells of its rows, as texts."""
    data = content if isinstance(content, bytes) else content.encode()
    file_format = FileFormat(**options)
    file = ExportFile(0, 0, "in", name, source)
    rows = read_rows(io.BytesIO(data), file, "file 0", file_format, max_name_bytes=max_name_bytes, fold_case=fold_case)
    columns = {name: Column(name=name, declared="text", type=ColumnType(kind="text")) for name in rows.names}
    layout = Layout(schema=None, name="t", label="t", columns=columns)
    rows.check_columns(layout)
    return rows.names, [values for _, values in rows.convert(layout, (), file_format)]


@pytest.mark.parametrize("rest", ["1,2,\n", "1,2,  \n3,4,\n"])
def test_nameless_column_without_values_is_skipped(rest):
    assert read("a,b,\n" + rest)[0] == ("a", "b")


def test_nameless_column_with_a_value_does_not_fit():
    with pytest.raises(SchemaMismatch, match="row 2: column 2 has a value, but no name in the header"):
        read("a,,b\n1,,2\n3,secret,4\n")
    assert read("a,,b\n1,x,2\n", column_names={"": "rest"}) == (("a", "rest", "b"), [["1", "x", "2"]])
    assert read("a,,b\n1,x,2\n", column_names={"": ""}) == (("a", "b"), [["1", "2"]])


def test_nameless_json_value_does_not_fit():
    with pytest.raises(SchemaMismatch, match="has a value, but no name"):
        read('[{"a": 1, "": 2}]', "a.json")
    assert read('[{"a": 1, "": null}, {"a": 2}]', "a.json")[0] == ("a",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b,a\n1,2,3\n", "column 3 has the same name as column 1"),
        ("a,A\n1,2\n", "column 2 has the same name as column 1"),
        (",\n1,2\n", "has no columns"),
        ("a,b\0\n1,2\n", "column 2 has control characters in its name"),
        ("a," + "ü" * 32 + "\n1,2\n", "column 2 has a name of 64 bytes, more than 63"),
        ("", "is empty"),
        ("\n\n", "is empty"),
    ],
)
def test_unusable_header_is_reported_by_number(content, message):
    with pytest.raises(SchemaMismatch, match=message) as caught:
        read(content, fold_case=True)
    assert caught.value.hint


def test_two_columns_with_one_name_in_the_table_are_refused():
    with pytest.raises(SchemaMismatch, match="column 2 has the same name as column 1"):
        read("a,b\n1,2\n", column_names={"b": "a"})


def test_long_name_is_mapped_to_a_short_one():
    assert read("x" * 64 + "\n1\n", column_names={"x" * 64: "short"})[0] == ("short",)


@pytest.mark.parametrize("first", ["sep=;\r\n", "SEP=;\n", '"sep=;"\n', "\ufeffsep=;\n"])
def test_separator_line_sets_the_delimiter(first):
    assert read(first + "a;b\n1,5;2\n", delimiter=",") == (("a", "b"), [["1,5", "2"]])


def test_separator_line_counts_as_a_line_in_messages():
    with pytest.raises(SchemaMismatch, match="line 3"):
        read('sep=;\na;b\n"1"x;2\n')


@pytest.mark.parametrize("text", ['"a \\"quoted\\" word",1', '"\\"a\\", b",1', '"a\\"",1', '"5\\" disk","x"'])
def test_quote_after_a_backslash_is_refused_with_a_hint(text):
    with pytest.raises(SchemaMismatch) as caught:
        read(f'a,b\n{text}\n"c","d"\n')
    assert "backslash" in caught.value.hint
    assert "line" in str(caught.value)


def test_backslash_is_no_escape_character():
    assert read('a,b\n"C:\\","\\n"\n\\N,\\.\n')[1] == [["C:\\", "\\n"], ["\\N", "\\."]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF file, not CSV or JSON"),
        (b"PK\x03\x04\x14\0", "is a ZIP archive or an office document"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
        (b"II*\0\x08", "is a TIFF image"),
        (b"\xff\xd8\xff\xe0", "is a JPEG image"),
        (b"<?xml version='1.0'?><a/>", "is an XML file"),
        (b"  <!doctype html><title>Log in</title>", "is a web page"),
        (b"\x01\x02\x03\x04", "this may be a binary file"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "latin-1"])
def test_file_of_another_format_is_refused(data, message, encoding):
    with pytest.raises(SchemaMismatch, match=message) as caught:
        read(data, encoding=encoding)
    assert "route" in caught.value.hint


@pytest.mark.parametrize(
    "text", ['[{"k": 1}]', ' {"k": 1, "b": 2}\n{"k": 3, "b": 4}\n', "[]", '\ufeff{"k": 1}', "[[1]]"]
)
def test_json_in_a_file_of_another_name_is_refused(text):
    """Its first line would become the names of columns."""
    with pytest.raises(SchemaMismatch, match="is a JSON file, but its name does not say so") as caught:
        read(text)
    assert ".jsonl" in caught.value.hint
    assert read("[Nr],[Name]\n1,2\n")[0] == ("[Nr]", "[Name]")


def test_encoding_applies_to_downloads_only():
    """A text of the Export Specification is Unicode already, and reaches the destination as UTF-8."""
    assert read("a\nMüller €\n", source="content", encoding="cp1252")[1] == [["Müller €"]]
    assert read("a\nMüller €\n".encode("cp1252"), source="url", encoding="cp1252")[1] == [["Müller €"]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("configured", ["cp1252", "utf-8", "latin-1"])
def test_byte_order_mark_determines_the_encoding(encoding, configured):
    assert read("ä,b\nö,€\n".encode(encoding), encoding=configured) == (("ä", "b"), [["ö", "€"]])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "idna", "utf-16-le"])
def test_invalid_text_is_reported(encoding):
    with pytest.raises(SchemaMismatch, match=r"is not valid|control characters"):
        read(b"a,b\n\xd8\x00\xff\n1", encoding=encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
@pytest.mark.parametrize(("name", "text"), [("a.json", '[{"a": "ä"}]'), ("a.jsonl", '\n{"a": "ä"}\r\n\n')])
def test_json_is_read_with_a_byte_order_mark(name, text, encoding):
    assert read(text.encode(encoding), name) == (("a",), [["ä"]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\ufeff \n", "is empty"),
        ("[]", "contains no values"),
        ("{}", "contains no values"),
        ("[{}, {}]", "contains no values"),
        ("[1]", "neither a JSON object nor a list"),
        ("null", "neither a JSON object nor a list"),
        ('"text"', "neither a JSON object nor a list"),
        ('[{"a": NaN}]', "is not valid JSON"),
        ('[{"a": Infinity}]', "is not valid JSON"),
        ('[{"a": 1,}]', "is not valid JSON"),
        ('{"a": 1}\n{"a": 2}', r"is not valid JSON \(line 2\)"),
        ("[" * 100_000, "is not valid JSON"),
        ('[{"a": 1, "a": 2}]', "repeats a name within an object"),
        ('[{"a": {"b": 1, "b": 2}}]', "repeats a name within an object"),
        ('[{"\\ud800": 1}]', "column 1 has a name that is not valid Unicode"),
        ('[{"a": "\\ud800"}]', "row 1, column 'a': is not valid Unicode"),
        (b'[{"a": "\xff"}]', "is not valid UTF-8 text"),
        (b"%PDF-1.7\n\xe2\xe3", "is not valid"),
    ],
)
def test_json_without_usable_rows_is_reported(content, message):
    with pytest.raises(SchemaMismatch, match=message) as caught:
        read(content, "a.json")
    assert caught.value.hint


def test_number_of_the_line_of_invalid_json_is_reported():
    with pytest.raises(SchemaMismatch, match=r"is not valid JSON \(line 3\)"):
        read('{"a": 1}\n\n{"a": secret}\n', "a.jsonl")


def test_big_json_numbers_keep_their_digits():
    text = '[{"a": 123456789012345678901234567890, "b": 0.10, "c": 1e400, "d": ' + "9" * 5000 + "}]"
    assert read(text, "a.json")[1] == [["123456789012345678901234567890", "0.10", "1E+400", "9" * 5000]]


def test_header_that_matches_no_column_is_not_repeated():
    """It may be the first row of a file without a header line."""
    rows = read_rows(
        io.BytesIO(b"Miller,42\n"),
        ExportFile(0, 0, "in", "a.csv", "url"),
        "file 0",
        FileFormat(),
        max_name_bytes=63,
        fold_case=False,
    )
    column = Column(name="name", declared="text", type=ColumnType(kind="text"))
    with pytest.raises(SchemaMismatch, match="has none of the columns in the first line") as caught:
        rows.check_columns(Layout(schema=None, name="t", label="t", columns={"name": column}))
    assert "Miller" not in str(caught.value)
    assert "header_names" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n", "has no rows, so no table is created"),
        ("a,2026-12-31\n1,2\n", "column 2 has a number or date as its name"),
        ("Miller,42.50\n1,2\n", "column 2 has a number or date as its name"),
        ("a;b;c\n1;2;3\n", "the first line is a single name that contains a delimiter"),
    ],
)
def test_misunderstood_file_creates_no_table(content, message):
    rows = read_rows(
        io.BytesIO(content.encode()),
        ExportFile(0, 0, "in", "a.csv", "url"),
        "file 0",
        FileFormat(),
        max_name_bytes=63,
        fold_case=False,
    )
    with pytest.raises(SchemaMismatch, match=message):
        rows.check_new_table()


cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
tables_of_cells = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(tables_of_cells, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_any_csv_that_python_writes_is_read_back(table, delimiter, encoding):
    names = [f"c{number}" for number in range(len(table[0]))]
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([names, *table])
    expected = [[cell or None for cell in row] for row in table]
    assert read(out.getvalue().encode(encoding), delimiter=delimiter, encoding=encoding) == (tuple(names), expected)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.none() | cells | st.integers() | st.booleans())))
def test_any_json_is_read_back(rows):
    text = json.dumps(rows)
    try:
        names, values = read(text, "a.json")
    except SchemaMismatch as error:
        assert "contains no values" in str(error)
        assert not any(rows)
        return
    as_text = lambda cell: cell if cell is None or isinstance(cell, str) else json.dumps(cell)  # noqa: E731
    assert values == [[as_text(row[name]) or None if name in row else ABSENT for name in names] for row in rows]


@given(st.binary(max_size=60), st.sampled_from(["a.csv", "a.json", "a.jsonl", "a.pdf", ""]))
def test_any_bytes_are_read_or_refused(data, name):
    for encoding in ("utf-8-sig", "cp1252", "utf-16", "latin-1"):
        try:
            read(data, name, encoding=encoding)
        except SchemaMismatch as error:
            assert error.hint


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        ("v\na\n\nb\n", ["a", None, "b"]),
        ("v\r\n\r\na", [None, "a"]),
        ("\n\nv\na\n", ["a"]),
        ("v\na\n\n\n", ["a"]),
        ('v\na\n""\n', ["a", None]),
    ],
)
def test_blank_line_of_a_file_with_one_column_is_an_empty_cell(content, cells):
    """Except before the header and at the end of the file, where many programs add blank lines."""
    assert read(content) == (("v",), [[cell] for cell in cells])


def test_blank_line_of_a_file_with_more_columns_is_skipped():
    assert read("a,b\n1,2\n\n3,4\n")[1] == [["1", "2"], ["3", "4"]]
    assert read("1\n\n2\n", header_names=["a"])[1] == [["1"], [None], ["2"]]
