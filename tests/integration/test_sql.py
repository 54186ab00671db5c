"""What ``SqlDestination`` promises, against SQLite and a real PostgreSQL."""

import itertools
import random
import sqlite3
import threading
from contextlib import asynccontextmanager, closing

import anyio
import pytest

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.destinations.sql.destination import SqlDestination
from aluma_async.exceptions import ConfigError, DestinationError, DestinationUnavailable, SchemaMismatch
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.testing import check_destination, check_memory
from tests.support.postgres import PASSWORD

NAMES = itertools.count()


class Sqlite:
    def __init__(self, path):
        self._path = path
        self.url = f"sqlite:///{path}"

    def ask(self, statement):
        with closing(sqlite3.connect(self._path)) as database, database:
            return database.execute(statement).fetchall()


class Postgres:
    def __init__(self, postgres):
        self._server, self._name = postgres, f"test_{next(NAMES)}"
        postgres.ask("postgres", f"CREATE DATABASE {self._name}")
        self.url = postgres.url(self._name)

    def ask(self, statement):
        return self._server.ask(self._name, statement)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path):
    if request.param == "sqlite":
        return Sqlite(tmp_path / "data.db")
    return Postgres(request.getfixturevalue("postgres"))


@pytest.fixture
def database(postgres):
    return Postgres(postgres)


@asynccontextmanager
async def opened(place, table="t", **options):
    destination = SqlDestination(place.url, table, **options)
    try:
        yield destination
    finally:
        await destination.close()


def claim(task_id, *files):
    files = tuple(
        ExportFile(i, i // 2, *(file if isinstance(file, tuple) else ("in", file)), "url", url="/f")
        for i, file in enumerate(files)
    )
    return Claim(ExportTask(task_id, project_id="p1"), ExportSpec(files), 0.0)


async def chunks(data):
    yield data


async def save(destination, what, *data):
    async with destination.open(what) as delivery:
        for file, content in zip(what.spec.files, data, strict=True):
            await delivery.save(file, chunks(content if isinstance(content, bytes) else content.encode()))


def deliver(place, data, *, task="t1", name="a.csv", table="t", **options):
    """Bring one file with a destination of its own."""

    async def main():
        async with opened(place, table, **options) as destination:
            await save(destination, claim(task, name), data)

    anyio.run(main)


def test_whole_files_keep_the_contract_of_a_destination(place):
    async def main():
        made = [SqlDestination(place.url, "files", mode="files", create=True) for _ in range(3)]
        waiting = iter(made)

        def visible():
            there = place.ask("SELECT name FROM sqlite_master" if "sqlite" in place.url else PUBLIC)
            return [bytes(data) for (data,) in place.ask("SELECT data FROM files")] if ("files",) in there else []

        await check_destination(lambda: next(waiting), visible)
        await check_memory(made[0])
        for destination in made:
            await destination.close()

    anyio.run(main)
    columns = "task, project, folder, filename, file, document, size"
    rows = place.ask(f"SELECT {columns} FROM files WHERE task = 'first' ORDER BY file")
    assert rows == [("first", "", "a folder", "a.txt", 0, 0, 7), ("first", "", "a folder", "b.bin", 1, 0, 0)]
    if "postgres" in place.url:
        assert place.ask("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") == [(1,)]


PUBLIC = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"


def test_rows_are_there_together_or_not_at_all_wherever_a_delivery_is_cancelled(place):
    """The tables are fixed, so that each await in which rows are written is tried."""
    place.ask("CREATE TABLE t (a TEXT PRIMARY KEY, b TEXT)")
    place.ask("CREATE TABLE u (a TEXT PRIMARY KEY, b TEXT)")
    what = claim("t1", "t.csv", "u.csv")

    async def main():
        async with opened(place, "{stem}", key=["a"]) as destination:
            seen = 0
            for turn in range(400):
                with anyio.CancelScope() as scope:
                    await cancelled_at(scope, turn, save(destination, what, *[f"a,b\n1,{turn}\n2,{turn}"] * 2))
                rows = place.ask("SELECT a, b FROM t UNION ALL SELECT a, b FROM u")
                there = {b for _, b in rows}
                assert len(rows) in (0, 4)
                assert len(there) <= 1
                seen += bool(there)
                if not scope.cancel_called:
                    return
            pytest.fail("never to its end")

    anyio.run(main)


async def cancelled_at(scope, number, what):
    """Cancel at the loop's turn of that number."""
    async with anyio.create_task_group() as group:

        async def cancel():
            for _ in range(number * 25):
                await anyio.lowlevel.checkpoint()
            scope.cancel()

        group.start_soon(cancel)
        await what
        group.cancel_scope.cancel()


def test_rows_of_csv_become_rows_of_a_table_that_is_made(place):
    text = "id,name,amount\n1,Müller,3.50\n2,,4\n"
    deliver(place, "\ufeff" + text, create=True, column_types={"id": "integer", "amount": "number"}, key=["id"])
    assert place.ask("SELECT id, name, amount FROM t ORDER BY id") == [(1, "Müller", 3.5), (2, None, 4)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "one.json"])
def test_rows_of_json_become_rows(place, name):
    rows = ['{"id": 1, "ok": true, "more": {"x": [1]}}', '{"id": 2, "ok": null, "new": "n"}']
    text = {"a.json": f"[{','.join(rows)}]", "a.jsonl": "\n".join(rows), "one.json": rows[0]}[name]
    column_types = {"id": "integer", "ok": "boolean", "more": "json"}
    deliver(place, text, name=name, create=True, column_types=column_types, key=["id"])
    found = place.ask("SELECT id, ok FROM t ORDER BY id")
    assert found == ([(1, True)] if name == "one.json" else [(1, True), (2, None)])


def test_a_file_is_read_as_the_config_says(place):
    """Delimiter, header, encoding, decimals, dates, columns under other names and columns left out."""
    file_format = FileFormat(
        column_names={"Betrag": "amount", "Datum": "day", "Notiz": ""},
        header_names=("Betrag", "Datum", "Notiz"),
        delimiter=";",
        encoding="cp1252",
        decimal=",",
        date_format="%d.%m.%Y",
    )
    column_types = {"amount": "number", "day": "date"}
    deliver(
        place,
        "1.234,50;31.12.2026;ä\n".encode("cp1252"),
        create=True,
        column_types=column_types,
        file_format=file_format,
    )
    ((amount, day),) = place.ask("SELECT amount, day FROM t")
    assert (float(amount), str(day)) == (1234.5, "2026-12-31")


def test_each_type_takes_what_it_should(place):
    column_types = {
        "a": "text",
        "b": "integer",
        "c": "float",
        "d": "boolean",
        "e": "timestamp",
        "f": "time",
        "g": "json",
    }
    text = 'a,b,c,d,e,f,g\nx,"1,000",1e3,yes,2026-12-31T23:59:58,12:34,"{""k"": 1}"\n'
    deliver(place, text, create=True, column_types=column_types)
    ((a, b, c, d, e, f, g),) = place.ask("SELECT a, b, c, d, e, f, g FROM t")
    assert (a, b, c, bool(d), str(e)[:19], str(f)[:5]) == ("x", 1000, 1000.0, True, "2026-12-31 23:59:58", "12:34")
    assert g in ({"k": 1}, '{"k": 1}')


def test_a_table_may_be_named_by_folder_and_name_of_a_file(place):
    async def main():
        async with opened(place, "{folder}_{stem}", create=True) as destination:
            await save(destination, claim("t1", ("in", "a.csv"), ("out", "b.v2.csv")), "x\n1\n", "x\n2\n")

    with pytest.raises(SchemaMismatch, match="file 1: its folder and name do not form a valid table name"):
        anyio.run(main)

    async def good():
        async with opened(place, "{folder}_{stem}", create=True) as destination:
            await save(destination, claim("t1", ("in", "a.csv"), ("out", "b.csv")), "x\n1\n", "x\n2\n")

    anyio.run(good)
    assert place.ask("SELECT x FROM in_a UNION ALL SELECT x FROM out_b") == [("1",), ("2",)]


@pytest.mark.parametrize("name", ["a;b.csv", 'a"b.csv', "ü.csv", "a.b.csv", "", "x" * 64 + ".csv", "1.csv"])
def test_a_hostile_name_makes_no_table(place, name):
    with pytest.raises(SchemaMismatch, match="do not form a valid table name") as caught:
        deliver(place, "x\n1\n", name=name, table="{stem}", create=True)
    assert not name or name not in str(caught.value)


def test_hostile_columns_and_values_stay_what_they_are(place):
    name, value = 'x"); DROP TABLE t; --%s:y', "'; DROP TABLE t; --\\\t\\N%(a)s"
    quoted = name.replace('"', '""')
    deliver(place, f'"{quoted}"\n"{value}"\n\\.\n', create=True)
    assert place.ask(f'SELECT "{quoted}" FROM t ORDER BY 1') == [(value,), ("\\.",)]


def test_a_row_replaces_the_one_with_the_same_key_and_the_last_of_a_file_wins(place):
    place.ask("CREATE TABLE t (a INTEGER, b INTEGER, c TEXT, other TEXT, PRIMARY KEY (a, b))")
    place.ask("INSERT INTO t VALUES (1, 1, 'old', 'mine'), (9, 9, 'old', 'mine')")
    deliver(place, "b,a,c\n1,1,first\n2,1,new\n1,1,last\n", key=["a", "b"])
    rows = [(1, 1, "last", "mine"), (1, 2, "new", None), (9, 9, "old", "mine")]
    assert place.ask("SELECT a, b, c, other FROM t ORDER BY a, b") == rows
    deliver(place, "a,b\n1,1\n5,5\n", key=["a", "b"], task="t2")
    assert len(place.ask("SELECT a FROM t")) == 4, "a file with nothing but its key adds what is missing"


def test_without_a_key_the_rows_of_a_task_replace_those_that_it_brought_before(place):
    async def main():
        async with opened(place, create=True) as destination:
            await save(destination, claim("one", "a.csv", "b.csv"), "x\n1\n2\n", "x\n3\n")
            await save(destination, claim("two", "a.csv"), "x\n9\n")
            await save(destination, claim("one", "a.csv"), "x\n7\n")

    anyio.run(main)
    assert place.ask("SELECT aluma_task, aluma_file, aluma_row, x FROM t ORDER BY 1, 2, 3") == [
        ("one", 0, 1, "7"),
        ("two", 0, 1, "9"),
    ]


def test_a_task_is_one_transaction_over_all_its_tables(place):
    async def main():
        async with opened(place, "{stem}", create=True, column_types={"x": "integer"}) as destination:
            await save(destination, claim("one", "a.csv"), "x\n1\n")
            with pytest.raises(SchemaMismatch, match=r"task one, file 1, row 2, column 'x': is not an integer"):
                await save(destination, claim("one", "a.csv", "b.csv"), "x\n5\n", "x\n1\nsecret\n")

    anyio.run(main)
    assert place.ask("SELECT x FROM a") == [(1,)]


@pytest.mark.parametrize(
    ("column", "text", "says"),
    [
        ("x VARCHAR(3)", "x\nabc\nabcd\n", "row 2, column 'x': has 4 characters, more than 3"),
        ("x INTEGER", "x\n99999999999\n", "row 1, column 'x': is too big for the column"),
        ("x INTEGER NOT NULL", 'x\n""\n', "row 1, column 'x': is empty"),
        ("x NUMERIC(4, 2)", "x\n100\n", "row 1, column 'x': has more than 2 digits before the decimal separator"),
        ("x NUMERIC(4, 2)", "x\n99.999\n", "row 1, column 'x'"),
        ("x DATE", "x\n31.12.2026\n", "row 1, column 'x': is not a date"),
        ("x BOOLEAN", "x\nperhaps\n", "row 1, column 'x': is neither true nor false"),
        ("x TEXT", "x\n1,2\n", "row 1: has 2 values for 1 columns"),
        ("x TEXT", "x,y\n1,2\n", "has no column 'y'"),
        ("x TEXT", "x\na\0b\n", "row 1, column 'x': contains a zero character"),
        ("x TEXT", "", "is empty"),
        ("x TEXT", "x,x\n1,2\n", "has two columns with the same name"),
        ("x TEXT", b"x\n\xff\n", "is not valid utf-8-sig text"),
        ("x TEXT", 'x\n"a\n', "line 2"),
    ],
)
def test_a_row_that_does_not_fit_is_told_by_file_row_and_column_and_never_by_its_value(place, column, text, says):
    """It is fatal: the file will not change."""
    ours = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
    key = "PRIMARY KEY (aluma_task, aluma_document, aluma_file, aluma_row)"
    place.ask(f"CREATE TABLE t ({ours}, {column}, {key})")
    with pytest.raises(SchemaMismatch) as caught:
        deliver(place, text)
    assert "task t1, file 0" in str(caught.value)
    assert says in str(caught.value)
    assert caught.value.fatal_after == 1
    assert not any(value in str(caught.value) for value in ("99999", "abcd", "perhaps", "31.12"))
    assert place.ask("SELECT x FROM t") == []


def test_what_only_the_database_knows_is_told_without_a_value(place):
    """A constraint: PostgreSQL tells its name, SQLite too, and both are fatal."""
    place.ask("CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER, CONSTRAINT positive CHECK (x > 0))")
    with pytest.raises(SchemaMismatch, match="positive") as caught:
        deliver(place, "id,x\n1,5\n2,-424242\n", key=["id"])
    assert "-424242" not in str(caught.value) + caught.value.hint
    assert place.ask("SELECT x FROM t") == []


def test_a_table_without_what_keeps_its_key_unique_is_refused(place):
    place.ask("CREATE TABLE t (a INTEGER, b INTEGER)")
    with pytest.raises(DestinationError, match=r"no constraint or index keeps \(a\) unique") as caught:
        deliver(place, "a,b\n1,2\n", key=["a"])
    assert "unique index" in caught.value.hint
    assert caught.value.fatal_after is None
    place.ask("CREATE UNIQUE INDEX i ON t (a)")
    deliver(place, "a,b\n1,2\n", key=["a"])


def test_a_table_that_is_missing_is_told_and_found_once_it_is_made(place):
    async def main():
        async with opened(place, key=["a"]) as destination:
            with pytest.raises(DestinationError, match="table t does not exist") as caught:
                await destination.probe()
            assert "create = true" in caught.value.hint
            place.ask("CREATE TABLE t (a TEXT PRIMARY KEY)")
            await destination.probe()
            await save(destination, claim("t1", "a.csv"), "a\n1\n")

    anyio.run(main)
    assert place.ask("SELECT a FROM t") == [("1",)]


def test_a_table_that_was_changed_is_looked_at_again(place):
    async def main():
        async with opened(place, key=["a"]) as destination:
            place.ask("CREATE TABLE t (a TEXT PRIMARY KEY)")
            await save(destination, claim("t1", "a.csv"), "a\n1\n")
            place.ask("ALTER TABLE t ADD b TEXT")
            await save(destination, claim("t2", "a.csv"), "a,b\n2,x\n")

    anyio.run(main)
    assert place.ask("SELECT a, b FROM t ORDER BY a") == [("1", None), ("2", "x")]


def test_many_tasks_at_once_on_the_same_keys_and_tables_all_arrive(place):
    """Each in an order of its own: without one order for all they would wait for each other in a circle."""
    chance = random.Random(1)

    async def main():
        async with (
            opened(place, "{stem}", key=["k"], create=True) as destination,
            anyio.create_task_group() as group,
        ):
            for number in range(24):
                names = ["a.csv", "b.csv", "c.csv"]
                chance.shuffle(names)
                text = "k,v\n" + "".join(f"{k},{number}\n" for k in chance.sample(range(100), 60))
                group.start_soon(save, destination, claim(f"t{number}", *names), *[text] * 3)

    anyio.run(main)
    for table in "abc":
        rows = place.ask(f"SELECT k FROM {table}")
        assert len(rows) == len(set(rows)) == 100


def test_a_serialization_failure_is_tried_again(database):
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)")
    name = database.url.rpartition("/")[2]
    database.ask(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")

    async def main():
        async with opened(database, key=["k"]) as destination, anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(save, destination, claim(f"t{number}", "a.csv"), f"k,v\n1,{number}\n2,{number}\n")

    anyio.run(main)
    assert database.ask("SELECT k FROM t ORDER BY k") == [("1",), ("2",)]


def test_a_password_that_is_wrong_is_told_without_it(postgres, database):
    wrong = database.url.replace(PASSWORD, "canary-wrong")
    told(wrong, "password authentication failed", "canary-wrong")
    told(postgres.url("nowhere"), 'database "nowhere" does not exist', PASSWORD)
    told(database.url.replace(f":{postgres.port}", ":1"), "refused", PASSWORD)
    told("sqlite:////no/such/folder/data.db", "unable to open database file", "canary")
    with pytest.raises(ConfigError, match="url: oracle is not supported"):
        SqlDestination("oracle://me:canary@db/x", "t")
    with pytest.raises(ConfigError, match="url") as caught:
        SqlDestination("no url canary", "t")
    assert "canary" not in str(caught.value)


def told(url, says, never):
    async def main():
        destination = SqlDestination(url, "t")
        with pytest.raises(DestinationUnavailable) as caught:
            await destination.probe()
        await destination.close()
        while any("connection_worker" in thread.name for thread in threading.enumerate()):  # noqa: ASYNC110
            await anyio.sleep(0.01)  # aiosqlite's thread has a last word for the loop, and tells nobody when
        assert says in str(caught.value)
        assert never not in str(caught.value) + caught.value.hint
        assert len(str(caught.value).splitlines()) == 1

    anyio.run(main)


def test_a_database_that_only_reads_is_told(database):
    name = database.url.rpartition("/")[2]
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY)")
    database.ask(f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    async def main():
        async with opened(database, key=["k"]) as destination:
            with pytest.raises(DestinationUnavailable, match="read-only"):
                await save(destination, claim("t1", "a.csv"), "k\n1\n")

    anyio.run(main)
