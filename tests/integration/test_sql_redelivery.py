"""Deliveries to tables that must not replace anything, because their rows may be older than those that are there."""

import anyio
import pytest
from msgspec.structs import replace

from aluma_async.exceptions import AlreadyExported
from tests.support.clock import real_time
from tests.support.databases import open_sql
from tests.support.tasks import deliver, make_claim

CLAIM = make_claim("t1", "a.csv", "b.csv")
OLDER = replace(CLAIM, may_replace=False)
A, B = "n,m\n1,x\n2,y\n", "n,m\n3,z\n"
COLUMN_TYPES = {"n": "integer", "m": "text"}


def first_file(claim):
    """Return the claim of a copy that lacks the second file."""
    return replace(claim, spec=replace(claim.spec, files=claim.spec.files[:1]))


@pytest.mark.parametrize(
    ("claim", "contents"),
    [
        (OLDER, (A, "n,m\n3,older\n")),
        (OLDER, (A, "n,m\n3,z\n4,more\n")),
        (OLDER, ("n,m\n1,x\n", B)),
        (first_file(OLDER), (A,)),
        (replace(OLDER, spec=replace(OLDER.spec, files=OLDER.spec.files[1:])), (B,)),
    ],
    ids=["changed row", "more rows", "fewer rows", "no second file", "no first file"],
)
@real_time
async def test_rows_of_an_earlier_export_are_not_replaced(database, claim, contents):
    async with open_sql(database, create=True, column_types=COLUMN_TYPES) as destination:
        await deliver(destination, make_claim("t2", "a.csv"), "n,m\n9,other\n")
        await deliver(destination, CLAIM, A, B)
        before = database.ask("SELECT * FROM t ORDER BY n")
        with pytest.raises(AlreadyExported, match="an earlier export has stored another version"):
            await deliver(destination, claim, *contents)
        assert database.ask("SELECT * FROM t ORDER BY n") == before
        assert len(before) == 4
        await deliver(destination, replace(claim, may_replace=True), *contents)
        assert database.ask("SELECT * FROM t ORDER BY n") != before


@real_time
async def test_rows_that_are_the_same_are_no_obstacle(database):
    """Neither are columns that the database fills, nor files that were not there before."""
    serial = "BIGSERIAL" if "postgres" in database.url else "INTEGER PRIMARY KEY AUTOINCREMENT"
    key = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
    unique = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"
    database.ask(f"CREATE TABLE t (id {serial}, {key}, n BIGINT, m TEXT, data TEXT, {unique})")
    async with open_sql(database) as destination:
        await deliver(destination, first_file(OLDER), A)
        for _ in range(2):
            await deliver(destination, OLDER, A, B)
        assert database.ask("SELECT n, m FROM t ORDER BY n") == [(1, "x"), (2, "y"), (3, "z")]
        with pytest.raises(AlreadyExported):
            await deliver(destination, OLDER, "n,m,data\n1,x,changed\n2,y,changed\n", B)


@real_time
async def test_rows_with_a_key_are_not_replaced_by_older_ones(database):
    """The same ones are no obstacle, and new ones are added. The key decides, whatever task a row comes from."""
    key = ["n", "day", "amount", "name"]
    types = {"n": "integer", "day": "date", "amount": "number"}
    header = "n,day,amount,name,m\n"
    rows = [f"{number},2026-12-31,{number}.50,name {number},x\n" for number in range(250)]
    async with open_sql(database, create=True, key=key, column_types=types) as destination:
        await deliver(destination, make_claim("t2", "a.csv"), header + "".join(rows))
        for task in ("t1", "t2"):
            older = replace(make_claim(task, "a.csv"), may_replace=False)
            await deliver(destination, older, header + "".join(rows[:200]) + f"999,2026-12-31,9.50,{task},new\n")
            changed = header + "".join(rows[:200]) + rows[200].replace(",x", ",older")
            with pytest.raises(AlreadyExported, match="a row with the same key"):
                await deliver(destination, older, changed)
    assert database.ask("SELECT count(*) FROM t") == [(252,)]
    assert database.ask("SELECT m, count(*) FROM t GROUP BY m ORDER BY m") == [("new", 2), ("x", 250)]


@real_time
async def test_key_of_a_type_with_its_own_values_is_compared(database):
    if "postgres" not in database.url:
        pytest.skip("SQLite has no such types")
    database.ask("CREATE TABLE t (a UUID, b BOOLEAN, c TIMESTAMPTZ, m JSON, PRIMARY KEY (a, b, c))")
    text = 'a,b,c,m\n5e6b1e1c-0000-4000-8000-000000000001,true,2026-12-31T23:59:58+01:00,"{""k"": 1}"\n'
    older = replace(make_claim("t1", "a.csv"), may_replace=False)
    async with open_sql(database, key=["a", "b", "c"]) as destination:
        for _ in range(2):
            await deliver(destination, older, text)
        with pytest.raises(AlreadyExported):
            await deliver(destination, older, text.replace("1}", "2}"))
    assert database.ask("SELECT m FROM t") == [({"k": 1},)]


@real_time
async def test_row_that_is_written_meanwhile_is_not_replaced(postgres_database):
    """The comparison and the insertion see the same rows, or the transaction is repeated."""
    psycopg = pytest.importorskip("psycopg")
    postgres_database.ask("CREATE TABLE t (n BIGINT PRIMARY KEY, m TEXT)")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with open_sql(postgres_database, key=["n"]) as destination:
        with psycopg.connect(postgres_database.url) as other:
            other.execute("INSERT INTO t VALUES (1, 'newer')")
            async with anyio.create_task_group() as group:

                async def redeliver():
                    with pytest.raises(AlreadyExported):
                        await deliver(destination, first_file(OLDER), A)

                group.start_soon(redeliver)
                with anyio.fail_after(60):
                    while postgres_database.ask(waiting) == [(0,)]:  # noqa: ASYNC110
                        await anyio.sleep(0.05)
                other.commit()
    assert postgres_database.ask("SELECT * FROM t") == [(1, "newer")]
