"""A name that an object of a JSON file lacks keeps the stored value; null replaces it."""

import json
import random

import pytest

from tests.integration.test_sql_dropped_rows import ROW_KEY, UNIQUE
from tests.support.clock import real_time
from tests.support.databases import deliver_file, open_sql
from tests.support.tasks import deliver, make_claim


def deliver_json(database, *rows, **options):
    deliver_file(database, json.dumps(rows), name="a.json", **options)


def test_absent_name_keeps_the_stored_value(database):
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, y TEXT DEFAULT 'new')")
    database.ask("INSERT INTO t VALUES ('1', 'x1', 'y1'), ('2', 'x2', 'y2'), ('3', 'x3', 'y3')")
    rows = [{"k": "1", "x": "a"}, {"k": "2", "y": "b"}, {"k": "3", "x": None}, {"k": "4", "x": "c"}, {"k": "5"}]
    deliver_json(database, *rows, key=["k"])
    assert database.ask("SELECT k, x, y FROM t ORDER BY k") == [
        ("1", "a", "y1"),
        ("2", "x2", "b"),
        ("3", None, "y3"),
        ("4", "c", "new"),
        ("5", None, "new"),
    ]


def test_absent_name_of_a_row_without_a_key_gets_the_default(database):
    database.ask(f"CREATE TABLE t (k TEXT, x TEXT DEFAULT 'new', {ROW_KEY}, {UNIQUE})")
    for _ in range(2):
        deliver_json(database, {"k": "1"}, {"k": "2", "x": None}, {"k": "3", "x": "a"})
    assert database.ask("SELECT k, x, aluma_row FROM t ORDER BY k") == [("1", "new", 1), ("2", None, 2), ("3", "a", 3)]


def test_absent_name_of_a_column_that_is_required_does_not_delete_it(database):
    """The row of the file has no value for it, but the stored one has."""
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT NOT NULL DEFAULT '', y TEXT)")
    deliver_json(database, {"k": "1", "x": "a"}, key=["k"])
    deliver_json(database, {"k": "1", "y": "b"}, {"k": "2", "x": "c"}, key=["k"])
    assert database.ask("SELECT k, x, y FROM t ORDER BY k") == [("1", "a", "b"), ("2", "c", None)]


def test_many_sets_of_names_do_not_read_the_rows_of_each_other(postgres_database):
    """The time would be quadratic: here, each row has other names than the one before."""
    rows = 3000
    read = "SELECT coalesce(sum(seq_tup_read), 0)::text FROM pg_stat_xact_all_tables WHERE relname LIKE 'aluma_stage%'"
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, y TEXT)")
    postgres_database.ask("CREATE TABLE s (text TEXT)")
    postgres_database.ask(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN DELETE FROM s; INSERT INTO s {read}; RETURN NULL; END $$"
    )
    postgres_database.ask(
        "CREATE CONSTRAINT TRIGGER g AFTER INSERT OR UPDATE ON t DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION f()"
    )
    deliver_json(postgres_database, *({"k": "1", "xy"[number % 2]: "a"} for number in range(rows)), key=["k"])
    ((count,),) = postgres_database.ask("SELECT text FROM s")
    assert int(count) <= 10 * rows, "9 million without an index"


@pytest.mark.parametrize("seed", range(3))
@real_time
async def test_rows_with_any_names_are_as_the_model_says(database, seed):
    """Also if the same key occurs several times, in rows and files with other names."""
    chance = random.Random(seed)
    database.ask("CREATE TABLE t (k INTEGER PRIMARY KEY, x TEXT, y TEXT, z TEXT)")
    database.ask("CREATE TABLE log (k INTEGER)")
    if "sqlite" in database.url and seed:  # rows are compared if the database has a trigger
        database.ask("CREATE TRIGGER c AFTER INSERT ON t BEGIN INSERT INTO log VALUES (NEW.k); END")
    model = {}
    async with open_sql(database, key=["k"]) as destination:
        for _ in range(15):
            texts = []
            for _ in range(chance.randint(1, 3)):
                rows = []
                for _ in range(chance.randint(1, 8)):
                    names = chance.sample("xyz", chance.randint(0, 3))
                    row = {"k": chance.randint(1, 5)} | {name: chance.choice(["a", "b", None]) for name in names}
                    model[row["k"]] = model.get(row["k"], dict.fromkeys("xyz")) | row
                    rows.append(row)
                texts.append(json.dumps(rows))
            await deliver(destination, make_claim("t1", *[f"{n}.json" for n in range(len(texts))]), *texts)
            stored = database.ask("SELECT k, x, y, z FROM t")
            assert {row[0]: dict(zip("kxyz", row, strict=True)) for row in stored} == model, texts


def test_rows_without_a_name_are_no_statements_of_their_own(postgres_database):
    """A statement a row would take minutes for a big file."""
    postgres_database.ask("CREATE TABLE t (k INTEGER PRIMARY KEY, x TEXT, y TEXT)")
    postgres_database.ask("CREATE TABLE log (k INTEGER)")
    body = "BEGIN INSERT INTO log VALUES (1); RETURN NULL; END"
    postgres_database.ask(f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
    postgres_database.ask("CREATE TRIGGER c AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION f()")
    rows = [{"k": number, "xy"[number % 2]: "a"} for number in range(5000)]
    deliver_json(postgres_database, *rows, key=["k"])
    assert postgres_database.ask("SELECT count(*) FROM log") == [(2,)]
    assert postgres_database.ask("SELECT count(x), count(y) FROM t") == [(2500, 2500)]
