"""Rights, row-level security and tables that cannot be written: the probe reports them before an export."""

import pytest

from aluma_async.destinations.sql.convert import FileFormat
from aluma_async.exceptions import DestinationError, SchemaMismatch
from tests.support.clock import real_time
from tests.support.databases import SqliteDatabase, deliver_file, open_sql
from tests.support.tasks import deliver, make_claim

ROW_KEY = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
UNIQUE = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"


@real_time
async def probe(database, table="t", **options):
    """Probe a destination; return its warning."""
    async with open_sql(database, table, **options) as destination:
        await destination.probe()
        return destination.warning


def expect_problem(database, message, **options):
    """Check that the probe fails with a message and a hint."""
    with pytest.raises(DestinationError, match=message) as caught:
        probe(database, **options)
    assert caught.value.hint
    assert "canary" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    ("grants", "key", "message"),
    [
        ((), ["k"], "lacks the right to SELECT and INSERT and UPDATE"),
        (("SELECT, INSERT ON t",), ["k"], "lacks the right to UPDATE"),
        (("INSERT, UPDATE ON t",), ["k"], "lacks the right to SELECT"),
        (("SELECT, UPDATE ON t", "INSERT (x) ON t"), ["k"], "lacks the right to INSERT"),
        (("SELECT, INSERT ON t",), [], "lacks the right to DELETE"),
        (("INSERT, DELETE ON t",), [], "lacks the right to SELECT"),
    ],
)
def test_probe_reports_missing_rights(postgres_database, grants, key, message):
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, {ROW_KEY}, {UNIQUE})")
    user = postgres_database.create_user(*grants)
    expect_problem(user, message, key=key)
    with pytest.raises(DestinationError, match=message):
        deliver_file(user, "k,x\n1,2\n", key=key)
    postgres_database.ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON t TO {user.name}")
    probe(user, key=key)
    for value in "ab":
        deliver_file(user, f"k,x\n1,{value}\n", key=key)
    assert postgres_database.ask("SELECT x FROM t") == [("b",)]


def test_rights_on_single_columns_suffice(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, secret TEXT)")
    user = postgres_database.create_user("SELECT (k, x), INSERT (k, x), UPDATE (x) ON t")
    probe(user, key=["k"])
    deliver_file(user, "k,x\n1,2\n", key=["k"])
    with pytest.raises(DestinationError, match="lacks the right to INSERT and SELECT and UPDATE column 'secret'"):
        deliver_file(user, "k,secret\n1,2\n", key=["k"])


def test_probe_reports_a_schema_that_may_not_be_used(postgres_database):
    postgres_database.ask("CREATE SCHEMA s")
    postgres_database.ask("CREATE TABLE s.t (k TEXT PRIMARY KEY)")
    user = postgres_database.create_user("SELECT, INSERT, UPDATE ON s.t")
    expect_problem(user, "table s.t: the database user may not use its schema", table="s.t", key=["k"])


def test_probe_reports_missing_right_to_temporary_tables(postgres_database):
    postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, {ROW_KEY}, {UNIQUE})")
    user = postgres_database.create_user("SELECT, INSERT, UPDATE, DELETE ON t")
    postgres_database.ask(f"REVOKE TEMPORARY ON DATABASE {postgres_database.name} FROM PUBLIC")
    expect_problem(user, "may not create temporary tables", key=["k"])
    deliver_file(user, "k\n1\n")  # without a key, none is needed


def test_sequence_that_may_not_be_used_is_reported(postgres_database):
    postgres_database.ask("CREATE TABLE t (id SERIAL, k TEXT PRIMARY KEY)")
    user = postgres_database.create_user("SELECT, INSERT, UPDATE ON t")
    with pytest.raises(DestinationError, match="may not use the sequence t_id_seq of column 'id'") as caught:
        deliver_file(user, "k\n1\n", key=["k"])
    assert "USAGE" in caught.value.hint
    deliver_file(user, "k,id\n1,5\n", key=["k"])
    postgres_database.ask(f"GRANT USAGE ON SEQUENCE t_id_seq TO {user.name}")
    deliver_file(user, "k\n2\n", key=["k"])


def test_probe_reports_that_the_table_cannot_be_created(postgres_database):
    user = postgres_database.create_user()
    expect_problem(user, "table t does not exist, and the database user may not create tables", create=True)
    expect_problem(user, "does not exist, and the schema does not exist", table="s.t", create=True)
    with pytest.raises(DestinationError, match="permission denied for schema public"):
        deliver_file(user, "k\n1\n", create=True)


def test_probe_checks_an_existing_table_although_it_could_create_it(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT)")
    expect_problem(postgres_database, r"no constraint or index keeps \(k\) unique", key=["k"], create=True)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("CREATE VIEW t AS SELECT 1 AS k", "is a view"),
        ("CREATE MATERIALIZED VIEW t AS SELECT 1 AS k", "is a materialized view"),
    ],
)
def test_probe_reports_a_table_that_is_none(postgres_database, statement, message):
    postgres_database.ask(statement)
    expect_problem(postgres_database, message, key=["k"])


def test_probe_reports_a_view_of_sqlite(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask("CREATE VIEW t AS SELECT 1 AS k")
    expect_problem(database, "is a view", key=["k"])


def test_probe_reports_missing_columns_of_a_fixed_table(database):
    database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT)")
    expect_problem(database, "table t has no column 'n'", key=["n"])
    expect_problem(database, "table t has no column 'aluma_task'")
    expect_problem(database, "table t has no column 'task'", mode="files")
    header = FileFormat(header_names=("k", "y", ""), column_names={"y": "z"})
    expect_problem(database, "table t has no column 'z'", key=["k"], file_format=header)
    names = FileFormat(column_names={"X": "x", "Y": "y", "Z": ""})
    assert probe(database, key=["k"], file_format=names) == "table t has no column 'y', which column_names contains"
    expect_problem(database, "table aluma_manifest does not exist", key=["k"], manifest=True)
    database.ask("CREATE TABLE aluma_manifest (task TEXT, target TEXT, PRIMARY KEY (task, target))")
    expect_problem(database, "table aluma_manifest has no column 'manifest'", key=["k"], manifest=True)
    database.ask("CREATE TABLE f (task TEXT, file INTEGER, PRIMARY KEY (task, file))")
    expect_problem(database, "table f has no column 'project'", table="f", mode="files")


def test_probe_reports_columns_of_the_exporter_with_another_type(postgres_database):
    postgres_database.ask(f"CREATE TABLE t ({ROW_KEY.replace('aluma_row BIGINT', 'aluma_row TEXT')}, {UNIQUE})")
    expect_problem(postgres_database, "table t: column 'aluma_row' is of type text")


def test_probe_writes_and_creates_nothing(database):
    probe(database, create=True, manifest=True)
    tables = "sqlite_master" if "sqlite" in database.url else "pg_tables WHERE schemaname = 'public'"
    assert database.ask(f"SELECT count(*) FROM {tables}") == [(0,)]


def test_probe_warns_of_a_table_that_does_not_survive_a_crash(postgres_database):
    postgres_database.ask("CREATE UNLOGGED TABLE t (k TEXT PRIMARY KEY)")
    assert "unlogged" in probe(postgres_database, key=["k"])


@pytest.mark.parametrize("mode", ["rows", "files"])
@pytest.mark.parametrize("key", [["k"], []])
def test_rows_are_stored_under_row_level_security(postgres_database, mode, key):
    """COPY refuses such tables, so the rows are inserted from a temporary one."""
    if mode == "files":
        deliver_file(postgres_database, "k\n0\n", mode="files", create=True)
    else:
        postgres_database.ask(f"CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT, {ROW_KEY}, {UNIQUE})")
    postgres_database.ask("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    user = postgres_database.create_user("SELECT, INSERT, UPDATE, DELETE ON t")
    expect_problem(user, "row-level security has no policy that lets the database user", key=key, mode=mode)
    postgres_database.ask(f"CREATE POLICY p ON t TO {user.name} USING (true) WITH CHECK (true)")
    probe(user, key=key, mode=mode)
    for value in "ab":
        deliver_file(user, f"k,x\n1,{value}\n2,{value}\n", key=key, mode=mode)
    if mode == "files":
        assert postgres_database.ask("SELECT convert_from(data, 'UTF8') FROM t") == [("k,x\n1,b\n2,b\n",)]
    else:
        assert postgres_database.ask("SELECT k, x FROM t ORDER BY k") == [("1", "b"), ("2", "b")]


def test_row_that_a_policy_forbids_is_reported(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY, x TEXT)")
    postgres_database.ask("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    user = postgres_database.create_user("SELECT, INSERT, UPDATE ON t")
    postgres_database.ask("CREATE POLICY p ON t USING (true) WITH CHECK (x <> 'secret')")
    with pytest.raises(DestinationError, match="row-level security policy for table") as caught:
        deliver_file(user, "k,x\n1,secret\n", key=["k"])
    assert "secret" not in str(caught.value).replace("row-level security", "")
    assert postgres_database.ask("SELECT k FROM t") == []


def test_table_of_the_wrong_case_is_suggested(postgres_database):
    postgres_database.ask("CREATE TABLE invoices (k TEXT PRIMARY KEY)")
    with pytest.raises(DestinationError, match="table Invoices does not exist") as caught:
        probe(postgres_database, "Invoices", key=["k"])
    assert "public.invoices" in caught.value.hint


@real_time
async def test_granted_right_takes_effect_without_a_restart(postgres_database):
    postgres_database.ask("CREATE TABLE t (k TEXT PRIMARY KEY)")
    user = postgres_database.create_user("SELECT, INSERT ON t")
    async with open_sql(user, key=["k"]) as destination:
        with pytest.raises(DestinationError, match="UPDATE"):
            await deliver(destination, make_claim("t1", "a.csv"), "k\n1\n")
        postgres_database.ask(f"GRANT UPDATE ON t TO {user.name}")
        await deliver(destination, make_claim("t1", "a.csv"), "k\n1\n")


def test_temporary_table_of_another_client_does_not_hide_the_real_one(postgres_database):
    """A pool can give a connection with temporary tables of another client; rows in them would be lost."""

    @real_time
    async def main():
        async with open_sql(postgres_database, "aluma_stage", key=["k"], create=True) as destination:
            await deliver(destination, make_claim("t1", "a.csv"), "k\n1\n")
            await deliver(destination, make_claim("t2", "a.csv"), "k\n2\n")

    main()
    assert postgres_database.ask("SELECT k FROM aluma_stage ORDER BY k") == [("1",), ("2",)]


def test_key_in_the_mode_of_files_is_ignored_by_the_table(postgres_database):
    deliver_file(postgres_database, "content", mode="files", create=True)
    postgres_database.ask("ALTER TABLE t ALTER file TYPE smallint, ALTER size TYPE integer")
    deliver_file(postgres_database, "content", mode="files", task="t2")
    assert postgres_database.ask("SELECT task, size, data FROM t ORDER BY task") == [
        ("t1", 7, b"content"),
        ("t2", 7, b"content"),
    ]
    postgres_database.ask("ALTER TABLE t ALTER data TYPE text USING ''")
    with pytest.raises(DestinationError, match="column 'data' is of type text") as caught:
        deliver_file(postgres_database, "content", mode="files")
    assert not isinstance(caught.value, SchemaMismatch)
