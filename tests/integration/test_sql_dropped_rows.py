"""A trigger or rule that drops rows without an error: the task is not exported, because its rows are nowhere."""

import pytest

from aluma_async.exceptions import SchemaMismatch
from tests.support.databases import SqliteDatabase, deliver_file

ROW_KEY = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
UNIQUE = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"
TEXT = "k,x\n1,a\n2,b\n3,c\n"


@pytest.fixture
def table(postgres_database):
    """A database with a table for rows with and without a key."""
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, {ROW_KEY}, {UNIQUE})")
    return postgres_database


@pytest.fixture
def sqlite_table(tmp_path):
    """A SQLite database with a table for rows with and without a key."""
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, {ROW_KEY}, {UNIQUE})")
    return database


def add_trigger(database, event, body, table="t", kind="TRIGGER c BEFORE", timing=""):
    database.ask(f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    database.ask(f"CREATE {kind} {event} ON {table} {timing} FOR EACH ROW EXECUTE FUNCTION f()")


def refuse(database, missing, content=TEXT, **options):
    with pytest.raises(SchemaMismatch, match=rf"the table has not taken all rows \({missing} missing\)") as caught:
        deliver_file(database, content, **options)
    assert "trigger or rule" in caught.value.hint


@pytest.mark.parametrize("key", [["k"], []])
def test_trigger_that_drops_rows_is_reported(table, key):
    add_trigger(table, "INSERT", "IF NEW.k = '2' THEN RETURN NULL; END IF; RETURN NEW;")
    refuse(table, 1, key=key)
    assert table.ask("SELECT k FROM t") == []
    deliver_file(table, "k,x\n1,a\n", key=key)


@pytest.mark.parametrize("key", [["k"], []])
def test_trigger_that_deletes_rows_afterwards_is_reported(table, key):
    add_trigger(table, "INSERT", "DELETE FROM t WHERE k = '2'; RETURN NULL;", kind="TRIGGER c AFTER")
    refuse(table, 1, key=key)
    assert table.ask("SELECT k FROM t") == []
    deliver_file(table, "k,x\n1,a\n", key=key)


def test_trigger_that_deletes_rows_at_the_commit_is_reported(table):
    """Deferred triggers run before the rows are counted."""
    body = "DELETE FROM t WHERE k = '2'; RETURN NULL;"
    add_trigger(table, "INSERT", body, kind="CONSTRAINT TRIGGER c AFTER", timing="DEFERRABLE INITIALLY DEFERRED")
    refuse(table, 1)
    assert table.ask("SELECT k FROM t") == []
    deliver_file(table, "k,x\n1,a\n")


def test_trigger_that_deletes_a_file_afterwards_is_reported(postgres_database):
    deliver_file(postgres_database, "old", mode="files", create=True)
    add_trigger(postgres_database, "INSERT", "DELETE FROM t; RETURN NULL;", kind="TRIGGER c AFTER")
    refuse(postgres_database, 1, "new", mode="files")
    assert postgres_database.ask("SELECT data FROM t") == [(b"old",)]


def test_trigger_that_drops_an_update_is_reported(table):
    deliver_file(table, TEXT, key=["k"])
    add_trigger(table, "UPDATE", "RETURN NULL;")
    with pytest.raises(SchemaMismatch, match="has changed values in column 'x'"):
        deliver_file(table, "k,x\n1,new\n2,new\n4,new\n", key=["k"])
    assert table.ask("SELECT k, x FROM t ORDER BY k") == [("1", "a"), ("2", "b"), ("3", "c")]
    deliver_file(table, "k,x\n5,e\n", key=["k"])


def test_trigger_that_drops_a_row_of_key_columns_is_reported(table):
    add_trigger(table, "INSERT", "IF NEW.k = '2' THEN RETURN NULL; END IF; RETURN NEW;")
    refuse(table, 1, "k\n1\n2\n3\n", key=["k"])
    for _ in range(2):
        deliver_file(table, "k\n1\n3\n1\n", key=["k"])


def test_trigger_that_drops_a_file_is_reported(postgres_database):
    deliver_file(postgres_database, "old", mode="files", create=True)
    add_trigger(postgres_database, "INSERT", "RETURN NULL;")
    refuse(postgres_database, 1, "new", mode="files")
    assert postgres_database.ask("SELECT data FROM t") == [(b"old",)]


def test_trigger_that_drops_a_manifest_is_reported(table):
    table.ask("CREATE TABLE aluma_manifest (task TEXT, target TEXT, manifest JSON, PRIMARY KEY (task, target))")
    add_trigger(table, "INSERT", "RETURN NULL;", "aluma_manifest")
    refuse(table, 1, key=["k"], manifest=True)
    assert table.ask("SELECT k FROM t") == []


def test_rule_that_drops_rows_is_reported(table):
    table.ask("CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING")
    refuse(table, 3, key=["k"])


def test_rows_that_a_trigger_moves_to_a_child_table_are_stored(table):
    table.ask("CREATE TABLE child () INHERITS (t)")
    add_trigger(table, "INSERT", "INSERT INTO child SELECT NEW.*; RETURN NULL;")
    for _ in range(2):
        deliver_file(table, TEXT)
    assert table.ask("SELECT count(*) FROM t") == [(3,)]


@pytest.mark.parametrize("key", [["k"], []])
def test_trigger_of_sqlite_that_drops_rows_is_reported(sqlite_table, key):
    sqlite_table.ask("CREATE TRIGGER c BEFORE INSERT ON t WHEN NEW.k = '2' BEGIN SELECT RAISE(IGNORE); END")
    refuse(sqlite_table, 1, key=key)
    assert sqlite_table.ask("SELECT k FROM t") == []
    deliver_file(sqlite_table, "k,x\n1,a\n", key=key)


@pytest.mark.parametrize("key", [["k"], []])
def test_trigger_of_sqlite_that_deletes_rows_afterwards_is_reported(sqlite_table, key):
    sqlite_table.ask("CREATE TRIGGER c AFTER INSERT ON t BEGIN DELETE FROM t WHERE k = '2'; END")
    refuse(sqlite_table, 1, key=key)
    assert sqlite_table.ask("SELECT k FROM t") == []
    deliver_file(sqlite_table, "k,x\n1,a\n", key=key)


@pytest.mark.parametrize("action", ["REPLACE", "IGNORE"])
def test_row_never_replaces_that_of_another_task_in_sqlite(tmp_path, action):
    """A UNIQUE constraint of SQLite can replace or drop rows without an error; the exporter overrides that."""
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask(f"CREATE TABLE t (k TEXT UNIQUE ON CONFLICT {action}, x TEXT, {ROW_KEY}, {UNIQUE})")
    deliver_file(database, "k,x\n1,a\n", task="t1")
    with pytest.raises(SchemaMismatch, match="UNIQUE"):
        deliver_file(database, "k,x\n1,b\n", task="t2")
    assert database.ask("SELECT k, x FROM t") == [("1", "a")]


def test_trigger_of_sqlite_that_drops_a_row_of_key_columns_is_reported(sqlite_table):
    sqlite_table.ask("CREATE TRIGGER c BEFORE INSERT ON t WHEN NEW.k = '2' BEGIN SELECT RAISE(IGNORE); END")
    refuse(sqlite_table, 1, "k\n1\n2\n3\n", key=["k"])
    for _ in range(2):
        deliver_file(sqlite_table, "k\n1\n3\n1\n", key=["k"])


def test_dropped_file_of_sqlite_does_not_overwrite_another_one(tmp_path):
    """The content is written to the row that was inserted last, which would be that of another file."""
    database = SqliteDatabase(tmp_path / "a.db")
    deliver_file(database, "old", mode="files", create=True)
    database.ask("CREATE TRIGGER c BEFORE INSERT ON t WHEN NEW.task = 't2' BEGIN SELECT RAISE(IGNORE); END")
    refuse(database, 1, "new", mode="files", task="t2")
    assert database.ask("SELECT task, data FROM t") == [("t1", b"old")]


@pytest.mark.parametrize("content", ["k,x\n1,a\n1,b\n1,c\n", "k\n1\n1\n"])
def test_repeated_keys_are_no_missing_rows(database, content):
    for _ in range(2):
        deliver_file(database, content, key=["k"], create=True)
    assert database.ask("SELECT count(*) FROM t") == [(1,)]


def test_table_named_like_the_new_row_of_an_insert_is_written(database):
    for value in "ab":
        deliver_file(database, f"k,excluded\n1,{value}\n", key=["k"], create=True, table="excluded")
    assert database.ask("SELECT k, excluded FROM excluded") == [("1", "b")]
