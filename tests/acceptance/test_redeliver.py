"""Tasks that were parked, and then deleted at Aluma as overdue, are delivered from their safety copies."""

import csv
import io
import json
import shutil
import subprocess
from collections import Counter

import pytest

from aluma_async.journal.lock import lock_folder
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.testing import SimulatedAluma
from tests.support.databases import PostgresDatabase, SqliteDatabase
from tests.support.holds import end_holds
from tests.support.processes import FAST_CONFIG, MAX_SECONDS, PROGRAM, environment, expect_error
from tests.support.proxy import proxy_for
from tests.support.quarantine import make_copy
from tests.support.server import aluma_server

TASKS = 10
CONFIG = FAST_CONFIG.replace("[retry]", "[retry]\npark_after = 1").replace("[exporter]", '[exporter]\nstate = "state"')
CONFIG += """
[destinations.database]
type = "sql"
url_env = "DATABASE_URL"
table = "rows"
[destinations.here]
type = "folder"
path = "out"
[[routes]]
filename = "*.csv"
to = ["database"]
[[routes]]
to = ["here"]
"""
ROW_KEY = "aluma_task TEXT, aluma_document BIGINT, aluma_file BIGINT, aluma_row BIGINT"
PRIMARY_KEY = "PRIMARY KEY (aluma_task, aluma_document, aluma_file, aluma_row)"
TABLE = f'CREATE TABLE rows ({ROW_KEY}, "PatientNumber" TEXT, "PatientName" {{}}, "Amount" TEXT, {PRIMARY_KEY})'


def expected(aluma, extension):
    """Return task id and content of all files of the tasks with this extension."""
    files = [(task_id, *file) for task_id in aluma.simulated.ids() for file in aluma.simulated.expected(task_id)]
    return [(task_id, content) for task_id, _, name, content in files if name.endswith(extension)]


def check_delivered(folder, database, aluma):
    """Check that every byte and every row is there once, and nothing else."""
    stored = Counter(path.read_bytes() for path in (folder / "out").glob("*.pdf"))
    assert stored == Counter(content for _, content in expected(aluma, ".pdf"))
    rows = database.ask('SELECT aluma_task, aluma_row, "PatientNumber", "PatientName", "Amount" FROM rows')
    wanted = []
    for task_id, content in expected(aluma, ".csv"):
        _, *lines = csv.reader(io.StringIO(content.decode()))
        wanted += [(task_id, number, *line) for number, line in enumerate(lines, 1)]
    assert Counter(rows) in (Counter(wanted), Counter((t, n - 1, *line) for t, n, *line in wanted))


MORE_ROWS = "PatientNumber,PatientName,Amount\n1,Ann,more\n"


def with_newer_rows(specification):
    """Change the last column of all rows."""
    for document in specification["documents"]:
        for file in document["files"]:
            if file["filename"].endswith(".csv"):
                header, *lines = file["content"].splitlines()
                rows = [line.rpartition(",")[0] + ",newer" for line in lines]
                file["content"] = "\n".join([header, *rows]) + "\n"
    return specification


def with_rows_in_each_file(specification):
    """Let each download have rows."""
    for document in specification["documents"]:
        for file in document["files"]:
            if file["source"] == "url":
                file["filename"] = "more.csv"
    return specification


class Narrow:
    """A database whose column is too narrow for every name, until it is widened."""

    def __init__(self, database):
        self.database = database
        postgres = isinstance(database, PostgresDatabase)
        self._check = "VARCHAR(3)" if postgres else 'TEXT CHECK (length("PatientName") <= 3)'
        database.ask(TABLE.format(self._check))

    def widen(self):
        if isinstance(self.database, SqliteDatabase):  # it cannot change a column
            self.database.ask("DROP TABLE rows")
            self.database.ask(TABLE.format("TEXT"))
        else:
            self.database.ask('ALTER TABLE rows ALTER COLUMN "PatientName" TYPE TEXT')


@pytest.fixture
def run(tmp_path, database):
    """Run the program with the configuration of this module."""
    (tmp_path / "config.toml").write_text(CONFIG)

    def run(*arguments):
        done = subprocess.run(
            [*PROGRAM, *map(str, arguments)],
            cwd=tmp_path,
            env=environment(tmp_path, SimulatedAluma.client_secret, {"DATABASE_URL": database.url}),
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
        )
        assert "Traceback" not in done.stderr
        return done

    return run


def test_ten_parked_and_deleted_tasks_are_delivered_from_their_copies(run, tmp_path, database):
    narrow = Narrow(database)
    with aluma_server(TASKS) as aluma:
        done = run("--once", "--base-url", aluma.base_url, "-q")
        assert done.returncode == 1
        assert aluma.simulated.count_by_state() == {"pending:start_client_action": TASKS}, "no task was failed"
        shown = json.loads(run("status", "--json").stdout)
        assert len(shown["parked"]) == TASKS
        assert all(row["copy"]["complete"] and row["copy"]["state"] == "parked" for row in shown["parked"])
        aluma.time_out()
        assert aluma.simulated.count_by_state() == {"timed-out": TASKS}
        counts = aluma.simulated.counts.copy()

        refused = run("redeliver", "--all", "-q")
        assert refused.returncode == 1, "the column is still too narrow"
        assert refused.stdout == "redelivered 0 tasks: 0 files, 0 B\n"
        assert refused.stderr.count("not redelivered: ") == TASKS

        narrow.widen()
        for again in ((), ("--again",)):
            done = run("redeliver", "--all", *again, "-q")
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith(f"redelivered {TASKS} tasks: {2 * TASKS} files, ")
            check_delivered(tmp_path, database, aluma)
        assert aluma.simulated.counts == counts, "nothing was requested from Aluma"
        task_ids = aluma.simulated.ids()
    listed = json.loads(run("quarantine", "list", "--json").stdout)
    assert {row["task"] for row in listed if row["redelivered_at"]} == set(task_ids)
    assert run("quarantine", "delete", "--yes", "--", *task_ids).returncode == 0
    assert QuarantineFolder(tmp_path / "state/quarantine").copies() == ([], [])
    assert run("redeliver", "--all").returncode == 0


def test_redeliver_all_repeats_only_what_was_not_delivered(run_cli, tmp_path):
    """A consumer may have taken the files of the others away, and would process them twice."""
    (tmp_path / "out").mkdir()
    names = [f"{number}.txt" for number in range(3)]
    for name in names:
        (tmp_path / "out" / name).write_text("of another program")
    config = CONFIG[: CONFIG.index("[destinations.database]")]
    (tmp_path / "config.toml").write_text(
        config + '[destinations.default]\ntype = "folder"\npath = "out"\non_conflict = "fail"\n'
    )
    unused = iter(names)

    def with_one_text(_):
        file = {"folder": "", "filename": next(unused), "source": "content", "content": "text", "url": None}
        return {"documents": [{"files": [file]}]}

    with aluma_server(3) as aluma, proxy_for(aluma.base_url) as proxy:
        proxy.change = with_one_text
        run_cli("--once", "-q", "--base-url", proxy.base_url)
    assert run_cli("redeliver", "--all", "-q").stdout.startswith("redelivered 0 tasks")
    for number, name in enumerate(names):
        (tmp_path / "out" / name).unlink()
        done = run_cli("redeliver", "--all", "-q")
        assert done.stdout.startswith("redelivered 1 task"), done.stderr
        assert done.returncode == (0 if name == names[-1] else 1)
        assert done.stderr.count("already redelivered at ") == number
        (tmp_path / "out" / name).unlink()  # as a consumer does
    assert not list((tmp_path / "out").glob("*.txt"))


def test_redeliver_refuses_a_task_whose_copies_differ(run, tmp_path, database):
    """One of them may be the answer of a proxy."""
    narrow = Narrow(database)
    with aluma_server(1) as aluma, proxy_for(aluma.base_url) as proxy:
        export = ("--once", "-q", "--base-url", proxy.base_url)
        proxy.answer = lambda verb: (200, "application/pdf", "%PDF-1.7 wrong\n%%EOF\n") if verb == "file" else None
        run(*export)
        end_holds(tmp_path / "state")
        proxy.answer = lambda verb: None
        done = run(*export)
        assert "was fetched twice with different content" in done.stderr
        narrow.widen()
        for _ in range(2):
            done = run("redeliver", "--all", "-q")
            assert (done.returncode, "is different in" in done.stderr) == (1, True), done.stderr
        assert database.ask("SELECT * FROM rows") == []
        oldest = min(QuarantineFolder(tmp_path / "state/quarantine").copies()[0], key=lambda c: c.record.stored_at)
        shutil.rmtree(oldest.folder)
        assert run("redeliver", "--all", "-q").returncode == 0
        check_delivered(tmp_path, database, aluma)


def test_redeliver_replaces_a_newer_export_only_if_told_to(run, tmp_path, database):
    """Another exporter has exported another version of the tasks since their safety copies were stored."""
    narrow = Narrow(database)
    with aluma_server(3) as aluma, proxy_for(aluma.base_url) as proxy:
        export = ("--once", "-q", "--base-url", proxy.base_url)
        assert run(*export).returncode == 1
        narrow.widen()
        proxy.change = with_newer_rows
        run(*export, "--state", "other")
        assert len(aluma.simulated.ids("completed")) == 3
        newer = sorted(database.ask("SELECT * FROM rows"))
        assert all(row[-1] == "newer" for row in newer)
        done = run("redeliver", "--all", "-q")
        assert (done.returncode, done.stderr.count("not redelivered: AlreadyExported: ")) == (1, 3), done.stderr
        assert "--replace" in done.stderr
        assert sorted(database.ask("SELECT * FROM rows")) == newer
        assert run("redeliver", "--all", "--replace", "-q").returncode == 0
        check_delivered(tmp_path, database, aluma)


@pytest.mark.parametrize("options", [(), ("--replace",)])
def test_redeliver_removes_no_row_of_a_file_that_the_copy_lacks(run, options, database):
    """Another exporter has exported the whole task meanwhile."""
    Narrow(database).widen()
    with aluma_server(3) as aluma, proxy_for(aluma.base_url) as proxy:
        export = ("--once", "-q", "--base-url", proxy.base_url)
        proxy.change = with_rows_in_each_file
        proxy.answer = lambda verb: (404, "text/plain", "default backend - 404") if verb == "file" else None
        assert run(*export).returncode == 1
        proxy.answer = lambda verb: (200, "text/csv", MORE_ROWS) if verb == "file" else None
        run(*export, "--state", "other")
        assert len(aluma.simulated.ids("completed")) == 3
        complete = sorted(database.ask("SELECT * FROM rows"))
        assert sum(row[-1] == "more" for row in complete) == 3
        done = run("redeliver", "--all", "--incomplete", *options, "-q")
        assert (done.returncode, done.stderr.count("not redelivered: AlreadyExported: ")) == (1, 3), done.stderr
        assert sorted(database.ask("SELECT * FROM rows")) == complete


def test_redeliver_is_refused_while_an_exporter_uses_the_state_folder(run_cli, tmp_path):
    (tmp_path / "state" / "quarantine").mkdir(parents=True)
    with lock_folder(tmp_path / "state"):
        done = run_cli("redeliver", "--all", "-o", "out", "--state", "state")
    expect_error(done, 75, "state folder state: in use by another exporter", "Stop the exporter, redeliver")


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        (
            '[destinations.default]\ntype = "folder"\npath = "out"\n'
            '[destinations.second]\ntype = "folder"\npath = "out/csv"\n',
            "whatever the routes are",
        ),
        ('[destinations.default]\ntype = "folder"\npath = "state"\n', "the state folder"),
        (
            '[destinations.default]\ntype = "folder"\npath = "."\non_conflict = "overwrite"\n',
            "contains the configuration, config.toml",
        ),
    ],
    ids=["one folder", "state folder", "configuration"],
)
def test_redeliver_refuses_the_places_that_an_exporter_refuses(configuration, message, run_cli, tmp_path):
    """Delivering into them could replace files just the same."""
    state = tmp_path.parent / f"{tmp_path.name}-state" if 'path = "."' in configuration else tmp_path / "state"
    (tmp_path / "config.toml").write_text(configuration)
    copy = make_copy(state / "quarantine" / "t1", b'{"task": {"id": "t1"}, "error": "X", "message": ""}')
    before = sorted(tmp_path.rglob("*"))
    expect_error(run_cli("redeliver", "--all", "--state", state), 78, message)
    assert copy.is_dir()
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "lock") == before


def test_once_reports_parked_tasks_that_were_deleted_as_overdue(run, tmp_path, database):
    """A scheduled run must not end with 0 for tasks that exist only in the quarantine. They are reported once."""
    Narrow(database)
    with aluma_server(2) as aluma:
        export = ("--once", "-q", "--base-url", aluma.base_url)
        assert run(*export).returncode == 1
        aluma.time_out()
        done = run(*export)
        assert (done.returncode, "2 no longer pending, not exported by this exporter" in done.stderr) == (1, True)
        assert "aluma-async redeliver" in done.stderr
        assert "no longer pending" not in run(*export).stderr
        assert run("quarantine", "list").stdout.count("parked") == 2
