"""A table that has other values than those that were written: the task is not exported, because they are nowhere."""

import json

import anyio
import pytest

from aluma_async.exceptions import DestinationError, SchemaMismatch
from tests.integration.test_sql_dropped_rows import ROW_KEY, UNIQUE, add_trigger
from tests.integration.test_sql_kept_values import KEPT, typed_database  # noqa: F401 - a fixture
from tests.support.databases import SqliteDatabase, create_citext, deliver_file, open_sql
from tests.support.tasks import deliver, make_claim

TEXT = "k,x\n1,a\n2,b\n"
KEYS = pytest.mark.parametrize("key", [["k"], []])
CHANGED = "task t1, table t: a trigger, a rule or the type of a column has changed values in column 'x'$"
INSERT_OR_UPDATE = "INSERT OR UPDATE"


@pytest.fixture
def table(database):
    """A database with a table for rows with and without a key, which has a row of another task."""
    database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, y TEXT DEFAULT 'd', {ROW_KEY}, {UNIQUE})")
    database.ask("INSERT INTO t (k, x, y, aluma_task) VALUES ('9', 'nine', 'ny', 't9')")
    return database


def change_rows(database, change):
    """Add a trigger that changes each row of the table t: ``x = upper(x)``."""
    if isinstance(database, SqliteDatabase):
        for event in ("INSERT", "UPDATE"):
            database.ask(f"CREATE TRIGGER c{event} AFTER {event} ON t BEGIN UPDATE t SET {change} WHERE k = NEW.k; END")
    else:
        name, _, value = change.partition(" = ")
        add_trigger(database, INSERT_OR_UPDATE, f"NEW.{name} = {value.replace('(x', '(NEW.x')}; RETURN NEW;")


def refuse(database, content=TEXT, match=CHANGED, **options):
    before = database.ask("SELECT * FROM t ORDER BY 1")
    with pytest.raises(SchemaMismatch, match=match) as caught:
        deliver_file(database, content, **options)
    assert caught.value.hint
    assert database.ask("SELECT * FROM t ORDER BY 1") == before


@KEYS
@pytest.mark.parametrize("change", ["x = ''", "x = upper(x)", "x = NULL"])
def test_value_that_a_trigger_changes_is_reported(table, change, key):
    change_rows(table, change)
    refuse(table, key=key)


@KEYS
def test_value_that_a_trigger_may_change_is_not_compared(table, key):
    """The administrator lists the columns; the others are still compared."""
    change_rows(table, "x = upper(x)")
    deliver_file(table, TEXT, key=key, trigger_columns=["x"])
    assert table.ask("SELECT k, x FROM t ORDER BY k") == [("1", "A"), ("2", "B"), ("9", "nine")]
    refuse(table, key=key, trigger_columns=["y", "k"])


@KEYS
def test_column_that_only_a_trigger_fills_is_not_compared(table, key):
    change_rows(table, "y = 'filled'")
    for _ in range(2):
        deliver_file(table, TEXT, key=key)
    assert table.ask("SELECT k, x, y FROM t WHERE k < '9' ORDER BY k") == [("1", "a", "filled"), ("2", "b", "filled")]


def test_row_that_a_trigger_keeps_as_it_was_is_reported(table):
    deliver_file(table, TEXT, key=["k"])
    if isinstance(table, SqliteDatabase):
        table.ask("CREATE TRIGGER c AFTER UPDATE ON t BEGIN UPDATE t SET x = OLD.x WHERE k = OLD.k; END")
    else:
        add_trigger(table, "UPDATE", "RETURN OLD;")
    deliver_file(table, TEXT, key=["k"])
    refuse(table, "k,x\n1,new\n", key=["k"])


def test_update_that_a_trigger_suppresses_is_none_if_the_row_is_the_same(table):
    """The server's own suppress_redundant_updates_trigger does it; such a task was parked."""
    if isinstance(table, SqliteDatabase):
        table.ask(
            "CREATE TRIGGER c BEFORE UPDATE ON t WHEN OLD.x IS NEW.x BEGIN SELECT RAISE(IGNORE); END",
        )
    else:
        table.ask(
            "CREATE TRIGGER c BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        )
    for _ in range(2):
        deliver_file(table, TEXT, key=["k"])
    deliver_file(table, "k,x\n1,a\n2,new\n", key=["k"])
    assert table.ask("SELECT k, x FROM t ORDER BY k") == [("1", "a"), ("2", "new"), ("9", "nine")]


@KEYS
def test_value_that_a_later_file_of_the_task_changes_through_a_trigger_is_reported(postgres_database, key):
    """Rows are compared at the end of the transaction, after deferred triggers."""
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, {ROW_KEY}, {UNIQUE})")
    body = "UPDATE t SET x = 'lost' WHERE k = '1' AND x <> 'lost'; RETURN NULL;"
    timing = "DEFERRABLE INITIALLY DEFERRED"
    add_trigger(postgres_database, "INSERT", body, kind="CONSTRAINT TRIGGER c AFTER", timing=timing)
    refuse(postgres_database, key=key)


@KEYS
def test_value_that_a_trigger_of_a_partition_changes_is_reported(postgres_database, key):
    unique = "PRIMARY KEY (k)" if key else f"UNIQUE (k, {UNIQUE.partition('(')[2]}"
    postgres_database.ask(f"CREATE TABLE t (k TEXT, x TEXT, {ROW_KEY}, {unique}) PARTITION BY HASH (k)")
    postgres_database.ask("CREATE TABLE part PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    if not key:
        postgres_database.ask(
            "DROP TABLE t; " + f"CREATE TABLE t (k TEXT, x TEXT, {ROW_KEY}, {UNIQUE})"
            " PARTITION BY HASH (aluma_task); CREATE TABLE part PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
        )
    deliver_file(postgres_database, TEXT, key=key)
    add_trigger(postgres_database, INSERT_OR_UPDATE, "NEW.x = 'lost'; RETURN NEW;", table="part")
    refuse(postgres_database, key=key)


def test_trigger_that_is_created_meanwhile_is_noticed(postgres_database):
    """What is known about a table is kept between transactions."""
    postgres_database.ask(f"CREATE TABLE t (k TEXT, x TEXT, {ROW_KEY}, {UNIQUE})")

    async def main():
        async with open_sql(postgres_database) as destination:
            await deliver(destination, make_claim("t1", "a.csv"), TEXT)
            add_trigger(postgres_database, "INSERT", "NEW.x = 'lost'; RETURN NEW;")
            with pytest.raises(SchemaMismatch, match=CHANGED):
                await deliver(destination, make_claim("t1", "a.csv"), TEXT)

    anyio.run(main)
    assert postgres_database.ask("SELECT x FROM t ORDER BY k") == [("a",), ("b",)]


def test_value_that_the_trigger_of_another_table_changes_is_reported(database):
    """A task may write to both tables."""
    for name in "ab":
        database.ask(f"CREATE TABLE {name} (x TEXT, {ROW_KEY}, {UNIQUE})")
    if isinstance(database, SqliteDatabase):
        database.ask("CREATE TRIGGER c AFTER INSERT ON b BEGIN UPDATE a SET x = 'lost'; END")
    else:
        add_trigger(database, "INSERT", "UPDATE a SET x = 'lost'; RETURN NULL;", table="b", kind="TRIGGER c AFTER")

    async def main():
        async with open_sql(database, "{stem}") as destination:
            with pytest.raises(SchemaMismatch, match="table a: a trigger, a rule or the type of a column"):
                await deliver(destination, make_claim("t1", "a.csv", "b.csv"), "x\n1\n", "x\n2\n")
            await deliver(destination, make_claim("t1", "a.csv"), "x\n1\n")

    anyio.run(main)
    assert database.ask("SELECT x FROM a") == [("1",)]
    assert database.ask("SELECT x FROM b") == []


def test_table_with_a_rule_and_a_key_is_reported(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT); CREATE TABLE u (k TEXT)")
    postgres_database.ask("CREATE RULE r AS ON INSERT TO t DO INSTEAD INSERT INTO u VALUES (NEW.k)")
    with pytest.raises(DestinationError) as caught:
        deliver_file(postgres_database, TEXT, key=["k"])
    assert "Use triggers instead of rules" in caught.value.hint


def test_value_of_each_type_is_the_same_after_a_trigger(typed_database):  # noqa: F811
    """A value that the type keeps is never reported, whatever its operators regard as equal."""
    body = "NEW.y = 'seen'; RETURN NEW;"
    typed_database.ask(f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$")
    more = [
        ("float8", "0.1"),
        ("float4", "-0.0"),
        ("float8", "1e300"),
        ("numeric", "1.10"),
        ("numeric", "-0.00"),
        ("timestamptz", "2026-10-25T02:30:00+01:00"),
        ("timetz", "12:30+05:30"),
        ("bool", "yes"),
        ("int8", "-9"),
        ("text", "x" * 100_000),
        ("text[]", ["y" * 100_000, "é"]),
        ("jsonb", '{"b": 1, "a": "é"}'),
        ("text", None),
    ]
    kinds = [*KEPT, *more]
    columns = ", ".join(f"c{number} {declared}" for number, (declared, _) in enumerate(kinds))
    typed_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, y TEXT, {columns}, {ROW_KEY}, {UNIQUE})")
    typed_database.ask(f"CREATE TRIGGER c BEFORE {INSERT_OR_UPDATE} ON t FOR EACH ROW EXECUTE FUNCTION f()")
    row = {"k": "1"} | {f"c{number}": cell for number, (_, cell) in enumerate(kinds)}
    for key in (["k"], ["k"], []):
        if not key:
            typed_database.ask("DELETE FROM t")
        deliver_file(typed_database, json.dumps([row, row | {"k": "2"}]), name="a.json", key=key)
        assert typed_database.ask("SELECT count(*) FROM t WHERE y = 'seen'") == [(2,)]


def test_value_of_each_type_of_sqlite_is_the_same_after_a_trigger(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    cells = {
        "TEXT": "007",
        "VARCHAR(9)": "é ",
        "INTEGER": "7",
        "REAL": "0.1",
        "NUMERIC(9,2)": "1.50",
        "DATE": "2026-12-31",
        "TIMESTAMP": "2026-12-31T23:59:58.5",
        "TIME": "12:30",
        "BOOLEAN": "yes",
        "JSON": '{"a": 1.0}',
        "STRING": "7",
        "UUID": "0f8fad5b-d9cb-469f-a165-70867728950e",
        "BLOB": "b",
        "TEXT COLLATE NOCASE": "Ab",
        "BIGINT": "1" * 18,
    }
    columns = ", ".join(f"c{number} {declared}" for number, declared in enumerate(cells))
    database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, y TEXT, {columns}, {ROW_KEY}, {UNIQUE})")
    database.ask("CREATE TRIGGER c AFTER INSERT ON t BEGIN UPDATE t SET y = 'seen' WHERE k = NEW.k; END")
    row = {"k": "1"} | {f"c{number}": cell for number, cell in enumerate(cells.values())}
    for key in (["k"], ["k"], []):
        if not key:
            database.ask("DELETE FROM t")
        deliver_file(database, json.dumps([row, row | {"k": "2"}]), name="a.json", key=key)
        assert database.ask("SELECT count(*) FROM t WHERE y = 'seen'") == [(2,)]


@pytest.mark.parametrize("column", ["data", "filename", "sha256", "size"])
def test_file_that_a_trigger_changes_is_reported(database, column):
    deliver_file(database, "old", mode="files", create=True)
    changed = {"size": "7", "data": "'lost'" if isinstance(database, SqliteDatabase) else "'lost'::bytea"}
    value = changed.get(column, "'lost'")
    if isinstance(database, SqliteDatabase):
        database.ask(f"CREATE TRIGGER c AFTER INSERT ON t BEGIN UPDATE t SET {column} = {value}; END")
    else:
        add_trigger(database, "INSERT", f"NEW.{column} = {value}; RETURN NEW;")
    if not isinstance(database, SqliteDatabase) or column != "data":  # its content is written after the trigger ran
        refuse(database, "new", rf"task t1, file 0, table t: .* changed values in column '{column}'$", mode="files")
    deliver_file(database, "new", mode="files", trigger_columns=[column])
    assert database.ask("SELECT count(*) FROM t") == [(1,)]


def test_keys_that_the_table_regards_as_equal_are_reported(database):
    """One of two rows would replace the other one, although their keys differ."""
    if isinstance(database, SqliteDatabase):
        declared, message = "TEXT COLLATE NOCASE", r"\(1 missing\)"
    else:
        create_citext(database)
        declared, message = "citext", "has a key that differs from the one of the file in column 'k'"
    database.ask(f"CREATE TABLE t (k {declared} PRIMARY KEY, x TEXT)")
    refuse(database, "k,x\na,1\nA,2\n", message, key=["k"])
    deliver_file(database, "k,x\na,1\na,2\nb,3\n", key=["k"])
    refuse(database, "k,x\nA,2\n", message, key=["k"])
    assert database.ask("SELECT k, x FROM t ORDER BY x") == [("a", "2"), ("b", "3")]


def test_numbers_that_are_equal_are_the_same_key(postgres_database):
    postgres_database.ask("CREATE TABLE t (k NUMERIC PRIMARY KEY, x TEXT)")
    for content in ("k,x\n1.0,a\n", "k,x\n1.00,b\n", "k,x\n1,c\n1.0,d\n"):
        deliver_file(postgres_database, content, key=["k"])
    assert postgres_database.ask("SELECT x FROM t") == [("d",)]
