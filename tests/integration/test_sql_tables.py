"""Which tables ``SqlDestination`` uses and creates, and how it behaves when several tasks use them at once."""

import random

import anyio
import pytest

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.exceptions import DestinationError, SchemaMismatch
from tests.support.clock import real_time
from tests.support.databases import SqliteDatabase, deliver_file, open_sql
from tests.support.tasks import deliver, make_claim


@real_time
async def test_table_name_contains_folder_and_stem_of_the_file(database):
    async with open_sql(database, "{folder}_{stem}", create=True) as destination:
        with pytest.raises(SchemaMismatch, match="file 1: its folder and name do not form a valid table name"):
            await deliver(destination, make_claim("t1", ("in", "a.csv"), ("out", "b.v2.csv")), "x\n1\n", "x\n2\n")
        await deliver(destination, make_claim("t1", ("in", "a.csv"), ("out", "b.csv")), "x\n1\n", "x\n2\n")
    assert database.ask("SELECT x FROM in_a UNION ALL SELECT x FROM out_b") == [("1",), ("2",)]


@pytest.mark.parametrize("name", ["a;b.csv", 'a"b.csv', "ü.csv", "a.b.csv", "", "x" * 64 + ".csv", "1.csv"])
def test_hostile_filename_is_not_a_table_name(database, name):
    with pytest.raises(SchemaMismatch, match="do not form a valid table name") as caught:
        deliver_file(database, "x\n1\n", name=name, table="{stem}", create=True)
    assert not name or name not in str(caught.value)


@pytest.mark.parametrize("table", ["Rechnungen Übersicht", "2024", "select", "a-b;c%s:d", '"a.b ""c"""', "UPPER"])
@pytest.mark.parametrize("options", [{"key": ["k"]}, {}, {"mode": "files"}])
def test_configured_table_name_is_quoted_as_it_is(database, table, options):
    for content in ("k\n1\n", "k\n2\n"):
        deliver_file(database, content, table=table, create=True, manifest=True, **options)
    quoted = table if table.startswith('"') else f'"{table}"'
    rows = 2 if "key" in options else 1
    assert database.ask(f"SELECT count(*) FROM {quoted}") == [(rows,)]
    assert database.ask("SELECT target FROM aluma_manifest") == [(table,)]


def test_table_in_a_schema_is_found_and_created(postgres_database):
    for schema in ("ledger", '"My.Schema ü"'):
        postgres_database.ask(f"CREATE SCHEMA {schema}")
        postgres_database.ask(f"CREATE TABLE {schema}.t (k TEXT PRIMARY KEY)")
        deliver_file(postgres_database, "k\n1\n", table=f"{schema}.t", key=["k"], manifest=True, create=True)
        deliver_file(postgres_database, "k\n1\n", table=f"{schema}.u", create=True)
        counts = ", ".join(f"(SELECT count(*) FROM {schema}.{name})" for name in ("t", "u", "aluma_manifest"))
        assert postgres_database.ask(f"SELECT {counts}") == [(1, 1, 1)]


def test_schema_of_sqlite_is_used(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    for table, options in (("main.t", {"key": ["k"]}), ("main.f", {"mode": "files"})):
        for content in ("k\n1\n", "k\n2\n"):
            deliver_file(database, content, table=table, create=True, **options)
    assert database.ask("SELECT (SELECT count(*) FROM t), data FROM f") == [(2, b"k\n2\n")]


@real_time
async def test_files_of_one_task_whose_names_differ_in_case_are_all_stored(database):
    """In SQLite both go into one table; the second file must not delete the rows of the first."""
    async with open_sql(database, "{stem}", create=True) as destination:
        for _ in range(2):
            await deliver(destination, make_claim("t1", "a.csv", "A.csv"), "x\n1\n", "x\n2\n")
    both = 'SELECT x FROM "a"' if "sqlite" in database.url else 'SELECT x FROM "a" UNION ALL SELECT x FROM "A"'
    assert database.ask(f"{both} ORDER BY x") == [("1",), ("2",)]


@real_time
async def test_rows_are_converted_again_when_the_table_is_altered_meanwhile(postgres_database):
    """The table is altered after its columns were read and before the first row is sent."""
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT)")
    async with open_sql(postgres_database, key=["k"], file_format=FileFormat(decimal=",")) as destination:
        await destination.probe()
        get, altered = destination._tables.get, []

        async def get_and_alter(*arguments):
            layout = await get(*arguments)
            if not altered:
                altered.append(True)
                postgres_database.ask("ALTER TABLE t ALTER x TYPE numeric USING x::numeric")
            return layout

        destination._tables.get = get_and_alter
        await deliver(destination, make_claim("t1", "a.csv"), 'k,x\n1,"1.234"\n')
    assert altered
    assert [int(x) for (x,) in postgres_database.ask("SELECT x FROM t")] == [1234]


def test_table_without_a_unique_key_is_refused(database):
    database.ask("CREATE TABLE t (a INTEGER, b INTEGER)")
    with pytest.raises(DestinationError, match=r"no constraint or index keeps \(a\) unique") as caught:
        deliver_file(database, "a,b\n1,2\n", key=["a"])
    assert "unique index" in caught.value.hint
    assert not isinstance(caught.value, SchemaMismatch)
    database.ask("CREATE UNIQUE INDEX i ON t (a)")
    deliver_file(database, "a,b\n1,2\n", key=["a"])


@real_time
async def test_missing_table_is_reported_until_it_is_created(database):
    async with open_sql(database, key=["a"]) as destination:
        with pytest.raises(DestinationError, match="table t does not exist") as caught:
            await destination.probe()
        assert "create = true" in caught.value.hint
        database.ask("CREATE TABLE t (a TEXT PRIMARY KEY)")
        await destination.probe()
        await deliver(destination, make_claim("t1", "a.csv"), "a\n1\n")
    assert database.ask("SELECT a FROM t") == [("1",)]


@real_time
async def test_altered_table_is_read_again_when_a_file_does_not_fit(database):
    async with open_sql(database, key=["a"]) as destination:
        database.ask("CREATE TABLE t (a TEXT PRIMARY KEY)")
        await deliver(destination, make_claim("t1", "a.csv"), "a\n1\n")
        database.ask("ALTER TABLE t ADD b TEXT")
        await deliver(destination, make_claim("t2", "a.csv"), "a,b\n2,x\n")
    assert database.ask("SELECT a, b FROM t ORDER BY a") == [("1", None), ("2", "x")]


@real_time
async def test_many_concurrent_tasks_write_the_same_keys_and_tables(database):
    """Each task names the tables and keys in another order; without one order for all they would deadlock."""
    chance = random.Random(1)
    async with (
        open_sql(database, "{stem}", key=["k"], create=True) as destination,
        anyio.create_task_group() as group,
    ):
        for number in range(24):
            names = ["a.csv", "b.csv", "c.csv"]
            chance.shuffle(names)
            text = "k,v\n" + "".join(f"{k},{number}\n" for k in chance.sample(range(100), 60))
            group.start_soon(deliver, destination, make_claim(f"t{number}", *names), *[text] * 3)
    for table in "abc":
        rows = database.ask(f"SELECT k FROM {table}")
        assert len(rows) == len(set(rows)) == 100


@real_time
async def test_concurrent_tasks_create_the_same_tables(database):
    """A table that another transaction has created is used only after its commit."""
    for table in "abc":
        async with (
            open_sql(database, table, key=["k"], create=True, manifest=True) as destination,
            anyio.create_task_group() as group,
        ):
            for number in range(16):
                group.start_soon(deliver, destination, make_claim(f"t{number}", "x.csv"), f"k\n{number}\n")
        assert database.ask(f"SELECT count(*) FROM {table}") == [(16,)]


@real_time
async def test_serialization_failure_is_retried(postgres_database):
    name = postgres_database.name
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)")
    postgres_database.ask(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    async with open_sql(postgres_database, key=["k"]) as destination, anyio.create_task_group() as group:
        for number in range(8):
            claim = make_claim(f"t{number}", "a.csv")
            group.start_soon(deliver, destination, claim, f"k,v\n1,{number}\n2,{number}\n")
    assert postgres_database.ask("SELECT k FROM t ORDER BY k") == [("1",), ("2",)]
