"""A value is stored as it is in the file, or the row does not fit, whatever the type of its column."""

import json

import pytest

from aluma_async.exceptions import DestinationError, SchemaMismatch
from tests.support.clock import real_time
from tests.support.databases import SqliteDatabase, create_citext, deliver_file, open_sql

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
KEPT = [
    ("text", "  a\\b\n"),
    ("varchar(5)", "ab "),
    ("char(5)", "ab"),
    ("citext", "AbC"),
    ("colour", "red"),
    ("int4", "7"),
    ("numeric(5,2)", "1.50"),
    ("date", "2024-01-31"),
    ("timestamp(1)", "2024-01-31 23:59:59.7"),
    ("time(0)", "12:30:00"),
    ("interval", "1 year 2 mons 3 days 04:05:06.000007"),
    ("interval", "-1 mons +2 days -00:00:00.5"),
    ("interval(0)", "01:30:00"),
    ("interval day", "3 days"),
    ("json", '{"a":1,"a":2}'),
    ("jsonb", '{"a": 1.10}'),
    ("uuid", UUID),
    ("bytea", "\\x0041ff"),
    ("bit(3)", "101"),
    ("varbit", "10101"),
    ("inet", "10.0.0.1/24"),
    ("inet", "fe80::1/64"),
    ("cidr", "10.0.0.0/8"),
    ("macaddr", "08:00:2b:01:02:03"),
    ("text[]", [" a ", None, "NULL", "", "{}", "\\"]),
    ("numeric(5,2)[]", [1.25, None]),
    ("timestamp(0)[]", ["2024-01-31T10:00:00"]),
    ("colour[]", ["green", "red"]),
    ("interval[]", ["1 day"]),
]
REFUSED = [
    ("char(5)", "ab "),
    ("colour", "Red"),
    ("timestamp(0)", "2024-01-31T23:59:59.7"),
    ("timestamp", "2024-01-01T12:00:00.1234567"),
    ("timestamptz(0)", "2024-12-31T23:59:59.9Z"),
    ("time(2)", "12:30:00.123"),
    ("time", "12:30:00.123456789"),
    ("timetz(0)", "12:30:00.5+01"),
    ("interval(0)", "01:30:00.6"),
    ("interval second(2)", "00:00:00.123"),
    ("interval year", "1 year 11 months"),
    ("interval year to month", "1 year 1 day"),
    ("interval day", "3 days 23:00:00"),
    ("interval hour", "2:30:45"),
    ("interval day to minute", "2:30:45"),
    ("interval", "00:00:00.1234567"),
    ("jsonb", '{"a":1,"a":2}'),
    ("bytea", "a\\101b"),
    ("bytea", "C:\\dir"),
    ("bit(3)", "10101"),
    ("bit(3)", "1"),
    ("bit(4)", "x1"),
    ("varbit(2)", "101"),
    ("cidr", "10.1"),
    ("inet", "10"),
    ("macaddr", "8:0:2b:1:2:3"),
    ("text[]", "{a,b}"),
    ("varchar(3)[]", ["ab   "]),
    ("char(3)[]", ["a "]),
    ("numeric(5,2)[]", [1.239]),
    ("timestamp(0)[]", ["2024-01-01T00:00:00.7"]),
    ("jsonb[]", '[{"a":1,"a":2}]'),
    ("text[]", [[], []]),
    ("short", "abcd"),
    ("shorts", ["ab   "]),
]
CHANGING = (
    "pair oid regclass xid8 pg_lsn tsvector tsquery jsonpath xml point lseg box path polygon circle line int4range"
    ' numrange tsrange tstzrange daterange int4multirange macaddr8 code money name "char" tags tsrange[] pair[]'
)


@pytest.fixture
def typed_database(postgres_database):
    """A database with types of its own."""
    for name in ("citext", "code"):
        create_citext(postgres_database, name)
    for statement in (
        "CREATE TYPE colour AS ENUM ('red', 'green')",
        "CREATE TYPE pair AS (a numeric(5,2), b text)",
        "CREATE DOMAIN short AS varchar(3)",
        "CREATE DOMAIN shorts AS varchar(3)[]",
        "CREATE DOMAIN tags AS tsvector",
    ):
        postgres_database.ask(statement)
    return postgres_database


def deliver_cell(database, declared, cell):
    """Store a cell of a JSON file, or of a CSV file if it is text; return the column as text, and as JSON."""
    database.ask("DROP TABLE IF EXISTS t")
    database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x {declared})")
    if isinstance(cell, str):
        quoted = cell.replace('"', '""')
        deliver_file(database, f'k,x\n1,"{quoted}"\n', key=["k"])
    else:
        deliver_file(database, json.dumps([{"k": "1", "x": cell}]), name="a.json", key=["k"])
    return database.ask("SELECT x::text, to_jsonb(x) FROM t")[0]


def test_value_that_the_type_keeps_is_stored(typed_database):
    for declared, cell in KEPT:
        text, value = deliver_cell(typed_database, declared, cell)
        if isinstance(cell, list):
            assert value == cell, declared
        elif declared == "interval":
            assert typed_database.ask(f"SELECT x = '{cell}'::interval FROM t") == [(True,)], cell
        else:
            assert text == cell, declared


def test_value_that_the_type_would_change_does_not_fit(typed_database):
    for declared, cell in REFUSED:
        with pytest.raises(SchemaMismatch, match=r"row 1, column '?x") as caught:
            deliver_cell(typed_database, declared, cell)
        assert caught.value.hint, declared


def test_type_that_is_not_known_to_keep_values_is_refused(typed_database):
    for declared in CHANGING.split():
        with pytest.raises(DestinationError, match=r"column 'x' is of type .*, which") as caught:
            deliver_cell(typed_database, declared, "1")
        assert declared.removesuffix("[]") in str(caught.value)
        assert "Change the type" in caught.value.hint
        deliver_file(typed_database, "k\n1\n", key=["k"])


@real_time
async def test_probe_reports_a_column_that_files_cannot_fill(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, p POINT)")
    async with open_sql(postgres_database, key=["k"]) as destination:
        await destination.probe()
        assert (
            destination.warning
            == "table t: files cannot fill column 'p' of type point, which may change values; use text"
        )


@pytest.mark.parametrize("style", ["postgres", "sql_standard", "postgres_verbose", "iso_8601"])
def test_interval_does_not_depend_on_the_settings_of_the_user(postgres_database, style):
    postgres_database.ask(f"ALTER DATABASE {postgres_database.name} SET intervalstyle = {style}")
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x INTERVAL)")
    cells = ["-1 day 02:00:00", "-00:00:00.5", "2147483647 months", "P-1M3DT-4H-5M-6.000007S", "1.5 days ago"]
    deliver_file(postgres_database, "k,x\n" + "".join(f"{n},{cell}\n" for n, cell in enumerate(cells)), key=["k"])
    query = "SELECT 12 * extract(year FROM x) + extract(month FROM x), extract(day FROM x),"
    query += " 3600 * extract(hour FROM x) + 60 * extract(minute FROM x) + extract(second FROM x) FROM t ORDER BY k"
    stored = [tuple(map(float, row)) for row in postgres_database.ask(query)]
    assert stored == [(0, -1, 7200), (0, 0, -0.5), (2147483647, 0, 0), (-1, 3, -14706.000007), (0, -1, -43200)]


def test_type_that_sqlite_does_not_know_drops_no_zeros(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, zip STRING)")
    with pytest.raises(SchemaMismatch, match="row 2, column 'zip': is not in a form that the column keeps") as caught:
        deliver_file(database, "k,zip\n1,10115\n2,01067\n", key=["k"])
    assert "The column is of type STRING in table t" in caught.value.hint
    deliver_file(database, "k,zip\n1,10115\n2,A-1010\n", key=["k"])
    assert database.ask("SELECT CAST(zip AS TEXT) FROM t ORDER BY k") == [("10115",), ("A-1010",)]


@pytest.mark.parametrize("mode", ["rows", "files"])
def test_text_of_the_exporter_needs_a_column_of_texts(tmp_path, mode):
    """SQLite would store the task 007 as 7, and replace the rows of another task."""
    database = SqliteDatabase(tmp_path / "a.db")
    for number, declared in enumerate(("STRING", "INTEGER", "", "VARCHAR(50)")):
        names = ("aluma_task", "aluma_document", "aluma_file", "aluma_row") if mode == "rows" else ("task", "file")
        further = "x" if mode == "rows" else "document, project, folder, filename, size, sha256, data"
        columns = f"{names[0]} {declared}, {', '.join(names[1:])}, {further}, UNIQUE ({', '.join(names)})"
        database.ask(f"CREATE TABLE t{number} ({columns})")
        if declared in ("STRING", "INTEGER"):
            with pytest.raises(DestinationError, match=f"column '{names[0]}' is of type {declared}") as caught:
                deliver_file(database, "x\n1\n", table=f"t{number}", task="007", mode=mode)
            assert caught.value.hint == "Use text for this column."
        else:
            deliver_file(database, "x\n1\n", table=f"t{number}", task="007", mode=mode)
            assert database.ask(f"SELECT {names[0]} FROM t{number}") == [("007",)]


def test_null_in_an_array_is_not_a_text_whatever_the_settings_are(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT[])")
    postgres_database.ask(f"ALTER DATABASE {postgres_database.name} SET array_nulls = off")
    deliver_file(postgres_database, '[{"k": "1", "a": ["x", null]}]', name="a.json", key=["k"])
    assert postgres_database.ask("SELECT a FROM t") == [(["x", None],)]
