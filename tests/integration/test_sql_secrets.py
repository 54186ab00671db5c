"""No error of a database repeats a value, a name that only the file contains, or a text that a trigger made up."""

import json

import pytest

from aluma_async.exceptions import DestinationError
from tests.integration.test_sql_dropped_rows import ROW_KEY, UNIQUE
from tests.support.databases import SqliteDatabase, deliver_file

SECRET = "Canary77"
TEXT = f"k,x\n1,{SECRET}\n"
USING = f"DETAIL = '{SECRET}', HINT = '{SECRET}', COLUMN = '{SECRET}', CONSTRAINT = '{SECRET}', TABLE = '{SECRET}'"
CODES = "P0001 P0002 22000 22P02 23502 23505 23514 23503 42000 42501 42P01 0A000 3F000 55000 57014 XX000 A1B2C"
KEYS = pytest.mark.parametrize("key", [["k"], []])


def expect_no_secret(database, content=TEXT, **options):
    """Deliver a file, and check the message and hint of its error."""
    with pytest.raises(DestinationError) as caught:
        deliver_file(database, content, **options)
    text = f"{caught.value} {caught.value.hint}"
    assert SECRET.lower() not in text.lower()
    assert "t1" in text


def create_table(database, declared="TEXT", further=""):
    database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x {declared}, {ROW_KEY}, {UNIQUE}{further})")


@KEYS
@pytest.mark.parametrize("code", CODES.split())
def test_text_of_a_trigger_is_not_repeated(postgres_database, code, key):
    create_table(postgres_database)
    body = f"BEGIN RAISE NOTICE '{SECRET}'; RAISE EXCEPTION '%', NEW.x USING ERRCODE = '{code}', {USING}; END"
    postgres_database.ask(f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    timing = "CONSTRAINT TRIGGER c AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
    for kind in ("TRIGGER c BEFORE INSERT ON t", timing):
        postgres_database.ask(f"DROP TRIGGER IF EXISTS c ON t; CREATE {kind} FOR EACH ROW EXECUTE FUNCTION f()")
        expect_no_secret(postgres_database, key=key)


@KEYS
@pytest.mark.parametrize(
    "condition",
    [
        f"x <> '{SECRET}'",
        "x::int > 0",
        "x::regclass IS NOT NULL",
        "x::regtype IS NOT NULL",
        "x::regnamespace IS NOT NULL",
        "x::regrole IS NOT NULL",
        "x::jsonpath IS NOT NULL",
        "('+' || x)::regoperator IS NOT NULL",
        "pg_get_serial_sequence(x, 'k') IS NOT NULL",
        "has_database_privilege(x, 'CONNECT')",
        "x::json IS NOT NULL",
        "'a' ~ ('(' || x)",
        "to_date(x, 'YYYY') IS NOT NULL",
        "set_config(x, '', true) = ''",
    ],
)
def test_value_in_an_error_of_a_constraint_is_not_repeated(postgres_database, condition, key):
    """The server's text contains the value, whatever the class of the error is."""
    create_table(postgres_database, further=f", CONSTRAINT valid CHECK ({condition})")
    expect_no_secret(postgres_database, key=key)


@pytest.mark.parametrize(
    "setup",
    [
        "CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT UNIQUE); INSERT INTO t VALUES ('0', '{0}')",
        "CREATE TABLE u (x TEXT PRIMARY KEY); CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT REFERENCES u)",
        "CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT NOT NULL, y TEXT NOT NULL)",
        "CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, EXCLUDE (x WITH =)); INSERT INTO t VALUES ('0', '{0}')",
        "CREATE TYPE e AS ENUM ('a'); CREATE TABLE t (k TEXT PRIMARY KEY, x e)",
        "CREATE DOMAIN d AS text CHECK (VALUE <> '{0}'); CREATE TABLE t (k TEXT PRIMARY KEY, x d)",
        "CREATE TABLE t (k TEXT, x TEXT, PRIMARY KEY (k)) PARTITION BY LIST (k)",
        "CREATE TABLE t (k TEXT PRIMARY KEY, x VARCHAR(3))",
        "CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, y INT GENERATED ALWAYS AS (x::int) STORED)",
        "CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, y INT DEFAULT 1/0)",
        "CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT); CREATE INDEX ON t ((1 / (length(x) - 8)))",
        "CREATE TABLE t (k TEXT PRIMARY KEY, x TIMESTAMPTZ)",
    ],
)
def test_value_in_an_error_of_the_server_is_not_repeated(postgres_database, setup):
    postgres_database.ask(setup.format(SECRET))
    expect_no_secret(postgres_database, key=["k"])


@pytest.mark.parametrize(
    "body",
    [
        f"SELECT RAISE(ABORT, '{SECRET}')",
        f"SELECT RAISE(FAIL, '{SECRET}')",
        f"SELECT RAISE(ROLLBACK, '{SECRET}')",
        "SELECT json_extract('{}', NEW.x)",
        "SELECT json(NEW.x)",
        "UPDATE missing SET x = 1",
        "UPDATE t SET x = 'other'",
        "DELETE FROM t",
    ],
)
@KEYS
def test_text_of_a_trigger_of_sqlite_is_not_repeated(tmp_path, body, key):
    database = SqliteDatabase(tmp_path / "a.db")
    create_table(database)
    database.ask(f"CREATE TRIGGER c AFTER INSERT ON t BEGIN {body}; END")
    expect_no_secret(database, key=key)


def test_value_in_an_error_of_a_constraint_of_sqlite_is_not_repeated(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    create_table(database, further=", CHECK (json_extract('{}', x) IS NULL)")
    expect_no_secret(database, key=["k"])


@pytest.mark.parametrize(
    ("content", "name", "options"),
    [
        (f"k,{SECRET}\n1,2\n", "a.csv", {}),
        (f"{SECRET},{SECRET}1\n1,2\n", "a.csv", {}),
        (f"k,{SECRET},{SECRET}\n1,2,3\n", "a.csv", {}),
        (f"k,{SECRET}{'n' * 60}\n1,2\n", "a.csv", {"key": ["z"]}),
        (f"k,{SECRET}\x01\n1,2\n", "a.csv", {}),
        (f"k,{SECRET}\n1,2\0\n", "a.csv", {"create": True, "table": "u"}),
        (json.dumps([{"k": 1, SECRET: 2}]), "a.json", {}),
        (json.dumps([{"k": 1, SECRET: "\0"}]), "a.json", {"create": True, "table": "u"}),
        (json.dumps([{"k": 1, f"{SECRET}\0": 2}]), "a.json", {"create": True, "table": "u"}),
        (json.dumps([{"k": 1, SECRET: 2, SECRET.lower(): 2}]), "a.json", {"create": True, "table": "u"}),
        (json.dumps([{"k": 1, f"{SECRET}{n}": 2} for n in range(2000)]), "a.json", {"create": True, "table": "u"}),
        (f'[{{"k": 1, "{SECRET}": 2, "{SECRET}": 3}}]', "a.json", {}),
        (f'[{{"k": 1, "{SECRET}": NaN}}]', "a.json", {}),
        (f'{{"k": 1, "{SECRET}', "a.json", {}),
        (f'k,x\n1,"{SECRET}\n', "a.csv", {}),
        (f"k,x\n1,{SECRET},{SECRET}\n", "a.csv", {}),
        (f"k,x\n,{SECRET}\n", "a.csv", {}),
    ],
)
def test_name_that_only_the_file_contains_is_not_repeated(database, content, name, options):
    """A file without a header has data in the place of names."""
    create_table(database)
    if name == "a.json" and SECRET.lower() in content and "postgres" in database.url:
        pytest.skip("PostgreSQL distinguishes these names")
    expect_no_secret(database, content, name=name, **{"key": ["k"]} | options)
