"""Types of SQLite columns, whose declaration may be any text."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.destinations.sql.convert import FileFormat, converter
from aluma_async.destinations.sql.layout import Column
from aluma_async.destinations.sql.sqlite_types import column_type


def store(declared, cell):
    """Return a cell as SQLite has stored it, as text."""
    column = Column(name="x", declared=declared, type=column_type(declared, is_strict=False))
    value = converter(column, FileFormat(), required=False, from_json=False)(cell)
    database = sqlite3.connect(":memory:")
    database.execute(f"CREATE TABLE t (x {declared})")
    database.execute("INSERT INTO t VALUES (?)", (value,))
    ((stored,),) = database.execute("SELECT CAST(x AS TEXT) FROM t")
    database.close()
    return stored


UNKNOWN = ["STRING", "ZIP", "PHONE", "any", "POINT", "TIMESTAMPTZ", "VARYING STRING(20)", "INT TEXT", "PRINT(5)"]


@pytest.mark.parametrize("declared", UNKNOWN)
def test_unknown_type_keeps_a_text_or_refuses_it(declared):
    """SQLite turns a text that looks like a number into one, and drops its leading zeros."""
    for cell in ("01234", "+4912345", "1e3", "1.10", "12 ", " 7", ".5", "5.", "-0", "0.00001", "1" * 19, "1.0"):
        with pytest.raises(ValueError, match="is not in a form that the column keeps unchanged"):
            store(declared, cell)
    for cell in ("abc", "0", "7", "-12", "1" * 18, "12.5", "-0.25", "0x1F", "1-2", "nan", "12 a", "007a", "é", "\n"):
        assert store(declared, cell) == cell


@given(
    st.text(st.sampled_from("0123456789+-.eE x \t"), min_size=1, max_size=20)
    | st.floats().map(repr)
    | st.text(min_size=1)
)
def test_unknown_type_never_changes_a_text(cell):
    try:
        stored = store("STRING", cell)
    except ValueError:
        return
    assert stored == cell


@pytest.mark.parametrize("declared", ["", "BLOB", "TEXT", "VARCHAR(30)", "CLOB", "nvarchar", "LONGTEXT"])
def test_type_without_numbers_keeps_a_text(declared):
    for cell in ("007", "1e3", "1.10", " 7 "):
        assert store(declared, cell) == cell


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("INTEGER", "integer"),
        ("int(11) unsigned", "integer"),
        ("BIGINT  SIGNED", "integer"),
        ("DECIMAL(10, 2)", "number"),
        ("NUMERIC (5)", "number"),
        ("decimal unsigned(10,2)", "number"),
        ("DOUBLE  PRECISION", "float"),
        ("DATETIME(3)", "timestamp"),
    ],
)
def test_known_type_is_recognized(declared, kind):
    assert column_type(declared, is_strict=False).kind == kind


def test_length_of_a_type_is_read():
    assert column_type("VARCHAR(5)", is_strict=False).max_chars == 5
    number = column_type("DECIMAL UNSIGNED (10,2)", is_strict=False)
    assert (number.precision, number.scale) == (10, 2)


def test_unknown_type_of_floating_point_numbers_is_refused():
    assert column_type("REALM", is_strict=False).problem


def test_any_of_a_strict_table_keeps_a_text():
    assert not column_type("ANY", is_strict=True).pattern
