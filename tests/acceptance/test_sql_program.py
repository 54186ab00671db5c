"""The program and a database whose tables do not fit: reported by ``check``, and nothing is deleted at Aluma."""

import pytest

from tests.support.databases import SqliteDatabase
from tests.support.processes import FAST_CONFIG, PENDING, simulator
from tests.support.server import aluma_server

DATABASE = """
[destinations.database]
type = "sql"
url_env = "DATABASE_URL"
table = "rows"
{keys}
[destinations.here]
type = "folder"
path = "out"
[[routes]]
filename = "*.{extension}"
to = ["database"]
[[routes]]
to = ["here"]
"""
ROW_KEY = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
UNIQUE = "UNIQUE (aluma_task, aluma_document, aluma_file, aluma_row)"
TASKS = 5


def write_config(folder, keys="", *, extension="csv"):
    (folder / "config.toml").write_text(FAST_CONFIG + DATABASE.format(keys=keys, extension=extension))


@pytest.mark.parametrize(
    ("setup", "keys", "message"),
    [
        ("", "", "table rows does not exist"),
        ("CREATE TABLE rows (k TEXT)", 'key = ["k"]', "no constraint or index keeps (k) unique"),
        (
            "CREATE TABLE rows (k TEXT); CREATE UNIQUE INDEX i ON rows (k) WHERE k > ''",
            'key = ["k"]',
            "because i has a condition (WHERE)",
        ),
        ("CREATE TABLE rows (k TEXT PRIMARY KEY)", 'key = ["n"]', "table rows has no column 'n'"),
        ("CREATE TABLE rows (k TEXT PRIMARY KEY)", 'key = ["k"]\nheader_names = ["z"]', "has no column 'z'"),
        (
            "CREATE TABLE rows (k TEXT PRIMARY KEY); REVOKE ALL ON rows FROM current_user",
            'key = ["k"]',
            "lacks the right to SELECT and INSERT and UPDATE",
        ),
        (
            "CREATE TABLE rows (k INT GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
            'key = ["k"]',
            "column 'k' is numbered by the database",
        ),
    ],
)
def test_check_reports_a_table_that_cannot_be_used(
    run_cli, postgres_database, tmp_path, aluma_with_50_tasks, setup, keys, message
):
    postgres_database.ask(f"GRANT CREATE ON SCHEMA public TO PUBLIC; {setup}")
    user = postgres_database.create_user()
    if setup:
        postgres_database.ask(f"ALTER TABLE rows OWNER TO {user.name}")
    if "REVOKE" in setup:
        postgres_database.ask(f"REVOKE ALL ON rows FROM {user.name}")
    write_config(tmp_path, keys)
    done = run_cli("check", "--base-url", aluma_with_50_tasks.base_url, DATABASE_URL=user.url)
    assert done.returncode == 69, done.stdout
    (failed, hint) = done.stdout[done.stdout.index("FAIL") :].splitlines()[:2]
    assert failed.startswith("FAIL  environment: database: ")
    assert message in failed
    assert hint.strip()
    assert "unexpected" not in done.stdout + done.stderr


COLUMNS = '"PatientNumber" TEXT, "PatientName" TEXT, "Amount" TEXT'
CREATE = f"CREATE TABLE rows ({COLUMNS}, {ROW_KEY}, {UNIQUE})"
RAISE = "BEGIN RAISE EXCEPTION 'canary %', NEW.\"PatientName\" USING ERRCODE = '22000'; END"


@pytest.mark.parametrize(
    ("extension", "mistake", "repair"),
    [
        (
            "csv",
            f'{CREATE}; ALTER TABLE rows ALTER "PatientName" TYPE varchar(1)',
            'ALTER TABLE rows ALTER "PatientName" TYPE text',
        ),
        (
            "csv",
            f"{CREATE} PARTITION BY LIST (aluma_task)",
            "CREATE TABLE others PARTITION OF rows DEFAULT",
        ),
        (
            "csv",
            f"{CREATE}; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ {RAISE} $$; "
            "CREATE TRIGGER c BEFORE INSERT ON rows FOR EACH ROW EXECUTE FUNCTION f()",
            "DROP TRIGGER c ON rows",
        ),
        (
            "csv",
            f"{CREATE}; CREATE TABLE tasks (id TEXT PRIMARY KEY); "
            "ALTER TABLE rows ADD FOREIGN KEY (aluma_task) REFERENCES tasks (id)",
            "ALTER TABLE rows DROP CONSTRAINT rows_aluma_task_fkey",
        ),
        ("pdf", CREATE, "SELECT"),
    ],
    ids=["narrow column", "missing partition", "trigger", "foreign key", "PDF files"],
)
def test_no_task_is_deleted_for_a_mistake_of_the_table(
    run_cli, postgres_database, tmp_path, extension, mistake, repair
):
    """After the table or the route is corrected, all tasks are exported."""
    postgres_database.ask(mistake)
    write_config(tmp_path, extension=extension)
    with simulator("--tasks", str(TASKS), "--profile", "small") as aluma:
        options = ("--once", "--base-url", aluma.base_url)
        done = run_cli(*options, DATABASE_URL=postgres_database.url)
        assert done.returncode == 1, done.stderr
        state = aluma.state()
        assert not {"fail", "complete"} & set(state["requests"])
        assert state["tasks"] == {PENDING: TASKS}
        assert "canary" not in done.stdout + done.stderr
        assert "unexpected" not in done.stdout + done.stderr
        postgres_database.ask(repair)
        write_config(tmp_path)
        run_cli("retry", "--all")
        done = run_cli(*options, DATABASE_URL=postgres_database.url)
        assert done.returncode == 0, done.stderr
        assert aluma.state()["tasks"] == {"completed": TASKS}
    assert postgres_database.ask("SELECT count(DISTINCT aluma_task) FROM rows") == [(TASKS,)]


FOREIGN_KEY = "ALTER TABLE rows ADD FOREIGN KEY (aluma_task) REFERENCES tasks (id)"
FOREIGN_KEY_TRIGGER = """
CREATE TRIGGER c BEFORE INSERT ON rows WHEN NOT EXISTS (SELECT 1 FROM tasks WHERE id = NEW.aluma_task)
BEGIN SELECT RAISE(ABORT, 'FOREIGN KEY constraint failed'); END
"""
"""The same for SQLite, which checks foreign keys only in connections that have asked for it."""


def test_tasks_are_kept_until_the_rows_that_they_refer_to_exist(run_cli, database, tmp_path):
    """Another program adds these rows later."""
    database.ask(CREATE)
    database.ask("CREATE TABLE tasks (id TEXT PRIMARY KEY)")
    database.ask(FOREIGN_KEY_TRIGGER if isinstance(database, SqliteDatabase) else FOREIGN_KEY)
    write_config(tmp_path)
    with aluma_server(TASKS) as aluma:
        options = ("--once", "--base-url", aluma.base_url)
        done = run_cli(*options, DATABASE_URL=database.url)
        assert done.returncode == 1, done.stderr
        assert aluma.simulated.count_by_state() == {PENDING: TASKS}
        assert not database.ask("SELECT * FROM rows")
        for task_id in aluma.simulated.ids():
            database.ask(f"INSERT INTO tasks VALUES ('{task_id}')")
        run_cli("retry", "--all")
        done = run_cli(*options, DATABASE_URL=database.url)
        assert aluma.simulated.count_by_state() == {"completed": TASKS}, done.stderr
    assert database.ask("SELECT count(DISTINCT aluma_task) FROM rows") == [(TASKS,)]


def test_pdf_files_that_a_route_sends_to_sqlite_delete_no_task(run_cli, tmp_path):
    database = SqliteDatabase(tmp_path / "data.db")
    database.ask(CREATE)
    write_config(tmp_path, extension="pdf")
    with aluma_server(TASKS) as aluma:
        done = run_cli("--once", "--base-url", aluma.base_url, DATABASE_URL=database.url)
        assert done.returncode == 1, done.stderr
        assert aluma.simulated.count_by_state() == {PENDING: TASKS}
    assert not database.ask("SELECT * FROM rows")
