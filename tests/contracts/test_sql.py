"""``SqlDestination`` keeps the contract of a destination, with SQLite and with a real PostgreSQL server."""

import anyio
import pytest

from aluma_async.destinations.sql.destination import SqlDestination
from aluma_async.testing import check_destination, check_memory
from tests.support.clock import real_time
from tests.support.databases import open_sql
from tests.support.tasks import deliver, make_claim

pytestmark = pytest.mark.slow
POSTGRES_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
SQLITE_TABLES = "SELECT name FROM sqlite_master"


@real_time
async def test_sql_files_keep_the_contract(database):
    destinations = [SqlDestination(database.url, "files", mode="files", create=True) for _ in range(5)]
    remaining = iter(destinations)

    def visible():
        names = database.ask(SQLITE_TABLES if "sqlite" in database.url else POSTGRES_TABLES)
        return [bytes(data) for (data,) in database.ask("SELECT data FROM files")] if ("files",) in names else []

    await check_destination(lambda: next(remaining), visible)
    await check_memory(destinations[0])
    for destination in destinations:
        await destination.close()
    columns = "task, project, folder, filename, file, document, size"
    rows = database.ask(f"SELECT {columns} FROM files WHERE task = 'first' ORDER BY file")
    assert rows == [("first", "", "a folder", "a.txt", 0, 0, 7), ("first", "", "a folder", "b.bin", 1, 0, 0)]
    if "postgres" in database.url:
        connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert database.ask(connections) == [(1,)], "only the connection of this query is open"


@real_time
async def test_sql_rows_appear_together_or_not_at_all_when_cancelled(database):
    """The tables are fixed, so that the cancellation hits each await in which rows are written."""
    database.ask("CREATE TABLE t (a TEXT PRIMARY KEY, b TEXT)")
    database.ask("CREATE TABLE u (a TEXT PRIMARY KEY, b TEXT)")
    claim = make_claim("t1", "t.csv", "u.csv")
    async with open_sql(database, "{stem}", key=["a"]) as destination:
        for step in range(400):
            with anyio.CancelScope() as scope:
                contents = [f"a,b\n1,{step}\n2,{step}"] * 2
                await cancel_at(scope, 25 * step, deliver(destination, claim, *contents))
            rows = database.ask("SELECT a, b FROM t UNION ALL SELECT a, b FROM u")
            assert len(rows) in (0, 4)
            assert len({b for _, b in rows}) <= 1, "all rows are of the same attempt"
            if not scope.cancel_called:
                return
        pytest.fail("no delivery finished before its cancellation")


async def cancel_at(scope, turn, delivery):
    """Await a delivery, and cancel it at this turn of the event loop."""

    async def cancel():
        for _ in range(turn):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        await delivery
        group.cancel_scope.cancel()
