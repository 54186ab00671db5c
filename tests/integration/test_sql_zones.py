"""A time without a time zone does not fit a column of PostgreSQL that would complete it by a setting."""

import json

import pytest

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.exceptions import SchemaMismatch
from tests.support.databases import SqliteDatabase, deliver_file

GAP, FOLD = "2026-03-29T02:30:00", "2026-10-25T02:30:00"
"""Local times that do not exist, or exist twice, where the clocks are changed."""


@pytest.mark.parametrize(
    ("declared", "cell"),
    [
        ("TIMESTAMPTZ", GAP),
        ("TIMESTAMPTZ", FOLD),
        ("TIMESTAMPTZ(0)", "2026-06-01 12:00"),
        ("TIMESTAMPTZ", "2026-06-01"),
        ("TIMETZ", "12:30"),
        ("TIMESTAMPTZ[]", [GAP]),
        ("moment", FOLD),
    ],
)
def test_time_without_a_zone_does_not_fit_a_column_that_needs_one(postgres_database, declared, cell):
    """The session would add its own zone, and move or choose an hour in silence."""
    postgres_database.ask(f"ALTER DATABASE {postgres_database.name} SET timezone = 'Europe/Berlin'")
    postgres_database.ask("CREATE DOMAIN moment AS timestamptz")
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x {declared})")
    with pytest.raises(SchemaMismatch, match="row 1, column 'x': has no time zone, which the column needs") as caught:
        deliver_file(postgres_database, json.dumps([{"k": "1", "x": cell}]), name="a.json", key=["k"])
    assert "export times with their zone" in caught.value.hint
    assert postgres_database.ask("SELECT * FROM t") == []


def test_time_with_a_zone_is_stored_whatever_the_zone_of_the_session_is(postgres_database):
    postgres_database.ask(f"ALTER DATABASE {postgres_database.name} SET timezone = 'Europe/Berlin'")
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TIMESTAMPTZ, y TIMETZ)")
    deliver_file(postgres_database, "k,x,y\n1,2026-10-25T02:30:00+01:00,12:30+05:30\n2,,\n", key=["k"])
    formatted = FileFormat(date_format="%d.%m.%Y %H:%M %z")
    deliver_file(postgres_database, "k,x\n3,25.10.2026 02:30 +0200\n", key=["k"], file_format=formatted)
    formatted = FileFormat(date_format="%d.%m.%Y %H:%M")
    with pytest.raises(SchemaMismatch, match="has no time zone"):
        deliver_file(postgres_database, "k,x\n3,25.10.2026 02:30\n", key=["k"], file_format=formatted)
    stored = postgres_database.ask("SELECT k, (x AT TIME ZONE 'UTC')::text, y::text FROM t ORDER BY k")
    assert stored == [
        ("1", "2026-10-25 01:30:00", "12:30:00+05:30"),
        ("2", None, None),
        ("3", "2026-10-25 00:30:00", None),
    ]


@pytest.mark.parametrize("declared", ["TIMESTAMP", "TIMESTAMPTZ"])
def test_time_without_a_zone_stays_as_it_is_in_a_column_without_one(tmp_path, postgres_database, declared):
    databases = [SqliteDatabase(tmp_path / "a.db"), *([postgres_database] if declared == "TIMESTAMP" else [])]
    for database in databases:
        database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x {declared})")
        deliver_file(database, f"k,x\n1,{GAP}\n", key=["k"])
        assert database.ask("SELECT CAST(x AS TEXT) FROM t")[0][0].replace("T", " ") == GAP.replace("T", " ")
