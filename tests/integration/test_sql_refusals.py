"""Rows that the database refuses: the task is not failed for them, and no message contains a value."""

import pytest

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.exceptions import DestinationError, DestinationUnavailable, SchemaMismatch
from tests.support.clock import real_time
from tests.support.databases import SqliteDatabase, deliver_file, open_sql
from tests.support.tasks import deliver, make_claim

SECRET = "canary-cell"


def refuse(database, message, text=f"k,x\n1,{SECRET}\n", **options):
    """Deliver a file that is refused with ``SchemaMismatch``; return the error."""
    options = {"key": ["k"], **options}
    with pytest.raises(SchemaMismatch, match=message) as caught:
        deliver_file(database, text, **options)
    error = caught.value
    assert SECRET not in str(error) + error.hint
    assert error.hint, "the administrator is told what to change"
    assert str(error).startswith("task t1, file 0")
    return error


@pytest.mark.parametrize("key", [["k"], []])
def test_narrow_column(postgres_database, key):
    row_key = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
    unique = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x VARCHAR(3), {row_key}, {unique})")
    refuse(postgres_database, "row 1, column 'x': has 11 characters, more than 3", key=key)
    postgres_database.ask("ALTER TABLE t ALTER x TYPE varchar(20)")
    deliver_file(postgres_database, f"k,x\n1,{SECRET}\n", key=key)


def test_missing_column(database):
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY)")
    refuse(database, "table t has no column for column 2 of the file")
    file_format = FileFormat(column_names={"x": "y"})
    refuse(database, "table t has no column 'y', which is column 2 of the file", file_format=file_format)


def test_header_that_may_be_data_is_not_repeated(database):
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY)")
    file_format = FileFormat(column_names={"2": "k2"})
    row_key = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
    database.ask(f"CREATE TABLE u (k TEXT, {row_key}, UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row))")
    refuse(database, "has none of the columns", f"{SECRET},2\n1,2\n", table="u", key=[], file_format=file_format)


def test_missing_partition(postgres_database):
    postgres_database.ask("CREATE TABLE t (k INT PRIMARY KEY, x TEXT) PARTITION BY RANGE (k)")
    postgres_database.ask("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)")
    deliver_file(postgres_database, "k,x\n1,a\n", key=["k"])
    error = refuse(postgres_database, "no partition of the table takes a row", f"k,x\n77,{SECRET}\n")
    assert "Create the partition" in error.hint
    postgres_database.ask("CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (100)")
    deliver_file(postgres_database, "k,x\n77,b\n", key=["k"])


@pytest.mark.parametrize("deferred", ["", " DEFERRABLE INITIALLY DEFERRED"])
def test_foreign_key_whose_row_comes_later(postgres_database, deferred):
    postgres_database.ask("CREATE TABLE u (x TEXT PRIMARY KEY)")
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT REFERENCES u{deferred})")
    message = r"a row refers to another row that does not exist.*constraint t_x_fkey"
    with pytest.raises(SchemaMismatch, match=message) as caught:  # if deferred, only the commit finds it
        deliver_file(postgres_database, f"k,x\n1,{SECRET}\n", key=["k"])
    assert SECRET not in str(caught.value) + caught.value.hint
    postgres_database.ask(f"INSERT INTO u VALUES ('{SECRET}')")
    deliver_file(postgres_database, f"k,x\n1,{SECRET}\n", key=["k"])


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("x TEXT NOT NULL", "k\n1\n", "a column that must not be empty has no value, .*column x"),
        ("x TEXT UNIQUE", f"k,x\n1,{SECRET}\n2,{SECRET}\n", "another row has the same value.*constraint t_x_key"),
        ("x TEXT CHECK (length(x) < 5)", f"k,x\n1,{SECRET}\n", "violates a constraint.*constraint t_x_check"),
        ("x TEXT, EXCLUDE USING btree (x WITH =)", "k,x\n1,a\n2,a\n", "violates a constraint"),
        ("x JSONB", '[{"k": "1", "x": "a\\u0000"}]', "contains a zero character"),
        ("x JSONB", '[{"k": "1", "x": ["a\\u0000"]}]', "a character does not exist in the encoding"),
        ("x INTERVAL", f"k,x\n1,{SECRET}\n", "row 1, column 'x': is not an interval with units"),
        ("x REAL", "k,x\n1,1e39\n", "row 1, column 'x': is too big for the column"),
        ("x BIT(3)", "k,x\n1,10101\n", "a value does not have the form"),
    ],
)
def test_value_or_constraint_of_the_table(postgres_database, column, text, message):
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, {column})")
    name = "a.json" if text.startswith("[") else "a.csv"
    refuse(postgres_database, message, text, name=name)


@pytest.mark.parametrize("key", [["k"], []])
@pytest.mark.parametrize(
    "raised",
    [
        "RAISE EXCEPTION 'refused: %', NEW.x",
        "RAISE EXCEPTION 'refused: %', NEW.x USING ERRCODE = '22023'",
        "RAISE EXCEPTION 'refused: %', NEW.x USING ERRCODE = '45000', CONSTRAINT = NEW.x, COLUMN = NEW.x",
        "RAISE EXCEPTION 'refused: %', NEW.x USING ERRCODE = '23514', CONSTRAINT = NEW.x",
        "RAISE EXCEPTION 'refused: %', NEW.x USING ERRCODE = 'P0002', DETAIL = NEW.x, HINT = NEW.x",
        "PERFORM NEW.x::integer",
        "CASE WHEN false THEN NULL; END CASE",
        "ASSERT false, NEW.x",
    ],
)
def test_trigger_that_raises(postgres_database, raised, key):
    row_key = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
    unique = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, {row_key}, {unique})")
    body = f"BEGIN {raised}; RETURN NEW; END"
    postgres_database.ask(f"CREATE FUNCTION check_row() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    postgres_database.ask("CREATE TRIGGER c BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION check_row()")
    refuse(postgres_database, "in function check_row", key=key)


@pytest.mark.parametrize("code", ["42501", "XX000", "0A000", "40004"])
def test_message_of_a_trigger_is_not_repeated_whatever_its_code(postgres_database, code):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT)")
    body = f"BEGIN RAISE EXCEPTION 'refused: %', NEW.x USING ERRCODE = '{code}'; END"
    postgres_database.ask(f"CREATE FUNCTION check_row() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    postgres_database.ask("CREATE TRIGGER c BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION check_row()")
    with pytest.raises(DestinationError) as caught:
        deliver_file(postgres_database, f"k,x\n1,{SECRET}\n", key=["k"])
    assert not isinstance(caught.value, DestinationUnavailable)
    assert SECRET not in str(caught.value) + caught.value.hint
    assert "in function check_row" in str(caught.value)


def test_trigger_of_sqlite_that_raises(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT)")
    database.ask("CREATE TRIGGER c BEFORE INSERT ON t BEGIN SELECT RAISE(ABORT, 'no'); END")
    refuse(database, "a trigger of the table refused a row")


def test_constraints_of_sqlite(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT UNIQUE, y TEXT NOT NULL DEFAULT 'y') STRICT")
    refuse(database, "UNIQUE constraint failed: t.x", f"k,x\n1,{SECRET}\n2,{SECRET}\n")
    database.ask("CREATE TABLE u (k TEXT PRIMARY KEY, x INTEGER NOT NULL)")
    refuse(database, "NOT NULL constraint failed: u.x", "k\n1\n", table="u")


def test_statement_timeout_concerns_one_task(postgres_database):
    """It does not stop all claiming, because other tasks may be smaller."""
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY)")
    postgres_database.ask("CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(9); END'")
    postgres_database.ask("CREATE TRIGGER c BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()")
    postgres_database.ask(f"ALTER DATABASE {postgres_database.name} SET statement_timeout = '1s'")
    with pytest.raises(DestinationError) as caught:
        deliver_file(postgres_database, "k\n1\n", key=["k"])
    assert not isinstance(caught.value, DestinationUnavailable)
    assert "statement_timeout" in caught.value.hint


def test_character_outside_the_encoding_of_the_database(postgres, postgres_database):
    name = f"{postgres_database.name}_latin"
    postgres.ask("postgres", f"CREATE DATABASE {name} ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'")

    class Latin:
        url = postgres.url(name)

    deliver_file(Latin, "k\nMüller\n", key=["k"], create=True)
    refuse(Latin, "a character does not exist in the encoding of the database", "k\n€\n")
    assert postgres.ask(name, "SELECT k FROM t") == [("Müller",)]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\xef\xbb\xbf\r\n", "is empty"),
        ("a.json", b"", "is empty"),
        ("a.json", b"[]", "contains no values"),
        ("a.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "is a PDF file, not CSV or JSON"),
        ("a.csv", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "is a PDF file, not CSV or JSON"),
    ],
)
@pytest.mark.parametrize("create", [False, True])
def test_file_without_rows(database, name, data, message, create):
    if not create:
        database.ask("CREATE TABLE t (k TEXT PRIMARY KEY)")
    for encoding in ("utf-8-sig", "latin-1"):
        refuse(database, message, data, name=name, create=create, file_format=FileFormat(encoding=encoding))
    tables = (
        "sqlite_master WHERE type = 'table'" if "sqlite" in database.url else "pg_tables WHERE schemaname = 'public'"
    )
    assert database.ask(f"SELECT count(*) FROM {tables}") == [(int(not create),)]


def test_refused_file_leaves_no_table_behind(database):
    """The creation of tables is part of the transaction, in SQLite, too."""
    refuse(database, "row 2: has 3 values for 2 columns", "k,x\n1,2\n1,2,3\n", create=True)
    assert count_tables(database) == 0


def count_tables(database):
    is_sqlite = "sqlite" in database.url
    tables = "sqlite_master WHERE type = 'table'" if is_sqlite else "pg_tables WHERE schemaname = 'public'"
    ((count,),) = database.ask(f"SELECT count(*) FROM {tables}")
    return count


@real_time
async def test_missing_table_of_one_task_does_not_stop_the_others(database):
    database.ask("CREATE TABLE a (k TEXT PRIMARY KEY)")
    async with open_sql(database, "{stem}", key=["k"]) as destination:
        with pytest.raises(DestinationError, match="table b does not exist") as caught:
            await deliver(destination, make_claim("t1", "b.csv"), "k\n1\n")
        assert not isinstance(caught.value, DestinationUnavailable | SchemaMismatch)
        await deliver(destination, make_claim("t2", "a.csv"), "k\n1\n")


def test_file_that_is_too_big_for_a_table_is_refused(database, monkeypatch):
    from aluma_async.destinations.sql import destination

    kind = database.url.partition(":")[0]
    monkeypatch.setattr(destination.BACKENDS[kind], "max_file_bytes", 5, raising=True)
    with pytest.raises(SchemaMismatch, match="has 6 bytes, more than a table can store"):
        deliver_file(database, "123456", mode="files", create=True)
