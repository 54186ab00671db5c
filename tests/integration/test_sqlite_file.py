"""The file of an SQLite database is removed, moved or replaced while the exporter uses it."""

import sqlite3
from contextlib import closing
from types import SimpleNamespace

import pytest

from aluma_async.exceptions import DestinationUnavailable
from tests.support.clock import real_time
from tests.support.databases import SqliteDatabase, open_sql
from tests.support.tasks import deliver, make_claim


def rows_in(path):
    with closing(sqlite3.connect(path)) as database:
        return sorted(database.execute("SELECT a FROM t").fetchall())


def move_away(path):
    """Move the database with its log, as an archiving script does."""
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.rename(path.with_name(f"old.db{suffix}"))


def remove(path):
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


@pytest.mark.parametrize("lose", [remove, move_away])
@real_time
async def test_rows_are_not_committed_to_a_file_that_is_gone(lose, tmp_path):
    """SQLite would go on writing to the file that has no name any more. The next transaction opens a new one."""
    path = tmp_path / "o.db"
    async with open_sql(SqliteDatabase(path), create=True) as destination:
        await deliver(destination, make_claim("t1", "a.csv"), "a\n1\n")
        lose(path)
        with pytest.raises(DestinationUnavailable, match="was removed or replaced"):
            await deliver(destination, make_claim("t2", "a.csv"), "a\n2\n")
        await destination.probe()
        await deliver(destination, make_claim("t2", "a.csv"), "a\n2\n")
        await deliver(destination, make_claim("t3", "a.csv"), "a\n3\n")
    assert rows_in(path) == [("2",), ("3",)]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///file:/shared?vfs=memdb&uri=true",
        "sqlite:///file:x?vfs=memdb&uri=true",
        "sqlite:///file:?uri=true",
        "sqlite:///file:foo%3Fmode=memory?uri=true",
    ],
)
@real_time
async def test_probe_refuses_a_database_that_exists_in_memory_only(url):
    async with open_sql(SimpleNamespace(url=url), create=True) as destination:
        with pytest.raises(DestinationUnavailable, match="in memory only"):
            await destination.probe()
