"""A task never touches the rows of another one, whose id a collation or type regards as the same text."""

import pytest

from aluma_async.exceptions import DestinationError, SchemaMismatch
from tests.support.clock import real_time
from tests.support.databases import SqliteDatabase, create_citext, deliver_file, open_sql

NAMES = {
    "rows": ("aluma_task", "aluma_document, aluma_file, aluma_row", "x"),
    "files": ("task", "file", "document, project, folder, filename, size, sha256, data"),
}
MESSAGE = "has a type or collation by which different texts are equal"


def create_collation(database):
    """Create a collation that is marked as not deterministic, because the server may be built without ICU."""
    database.ask("CREATE COLLATION no_case (provider = libc, locale = 'C')")
    database.ask("UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'no_case'")


def create_table(database, declared, mode="rows", *, index=""):
    """Create a table whose task column is declared like that; ``index`` is the collation of its unique index."""
    task, key, others = NAMES[mode]
    integers = ", ".join(f"{name} BIGINT" for name in key.split(", "))
    kinds = {"document": "BIGINT", "size": "BIGINT", "data": "BYTEA" if "postgres" in database.url else "BLOB"}
    columns = ", ".join(f"{name} {kinds.get(name, 'TEXT')}" for name in others.split(", "))
    database.ask(f"CREATE TABLE t ({task} {declared}, {integers}, {columns})")
    database.ask(f"CREATE UNIQUE INDEX i ON t ({task} {index}, {key})")


@real_time
async def probe(database, **options):
    async with open_sql(database, **options) as destination:
        await destination.probe()


def expect_refusal(database, mode="rows", column=None):
    for action in (probe, lambda *_, **options: deliver_file(database, "x\n1\n", **options)):
        with pytest.raises(DestinationError, match=f"column '{column or NAMES[mode][0]}' {MESSAGE}") as caught:
            action(database, mode=mode)
        assert not isinstance(caught.value, SchemaMismatch)
        assert 'COLLATE "C"' in caught.value.hint


@pytest.mark.parametrize("mode", ["rows", "files"])
@pytest.mark.parametrize("declared", ["TEXT COLLATE no_case", "CHAR(40)", "folded", "citext"])
def test_task_column_that_merges_texts_is_refused(postgres_database, declared, mode):
    """The rows of task A1 were deleted together with those of task a1."""
    create_collation(postgres_database)
    create_citext(postgres_database)
    postgres_database.ask("CREATE DOMAIN folded AS text COLLATE no_case")
    create_table(postgres_database, declared, mode)
    expect_refusal(postgres_database, mode)


@pytest.mark.parametrize("mode", ["rows", "files"])
@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM"])
def test_task_column_of_sqlite_with_a_loose_index_is_refused(tmp_path, collation, mode):
    database = SqliteDatabase(tmp_path / "a.db")
    create_table(database, f"TEXT COLLATE {collation}", mode)
    expect_refusal(database, mode)


@pytest.mark.parametrize("mode", ["rows", "files"])
def test_tasks_of_similar_ids_keep_their_rows_in_sqlite(tmp_path, mode):
    """The collation of the column does not matter if its unique index distinguishes all texts."""
    database = SqliteDatabase(tmp_path / "a.db")
    create_table(database, "TEXT COLLATE NOCASE", mode, index="COLLATE BINARY")
    for task in ("a1", "A1", "a1"):
        deliver_file(database, "x\n1\n", task=task, mode=mode)
    name = NAMES[mode][0]
    assert sorted(database.ask(f"SELECT {name} FROM t")) == [("A1",), ("a1",)]


def test_manifest_table_that_merges_texts_is_refused(postgres_database):
    create_table(postgres_database, "TEXT")
    create_collation(postgres_database)
    columns = "task TEXT, target TEXT COLLATE no_case, manifest JSON"
    postgres_database.ask(f"CREATE TABLE aluma_manifest ({columns}, PRIMARY KEY (task, target))")
    with pytest.raises(DestinationError, match=f"table aluma_manifest: column 'target' {MESSAGE}"):
        probe(postgres_database, manifest=True)


def test_task_id_that_its_column_would_cut_is_reported(postgres_database):
    create_table(postgres_database, "VARCHAR(4)")
    with pytest.raises(SchemaMismatch, match=r"a value is too long for its column.*, column aluma_task") as caught:
        deliver_file(postgres_database, "x\n1\n", task="task-1")
    assert caught.value.hint == "Widen the column."
    assert postgres_database.ask("SELECT * FROM t") == []
