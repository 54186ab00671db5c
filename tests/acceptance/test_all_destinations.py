"""The program exports to a database, a folder and a bucket at once, with kills and with a database that stops."""

import csv
import hashlib
import io
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import contextmanager

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support import buckets
from tests.support.files import hash_files
from tests.support.postgres import PASSWORD
from tests.support.processes import FAST_CONFIG, MAX_SECONDS, PROGRAM, environment, simulator, wait_until

TABLES = """
[destinations.database]
type = "sql"
url_env = "DATABASE_URL"
table = "rows"
create = true
"""
ALL_DESTINATIONS = """
[destinations.here]
type = "folder"
path = "out"
[destinations.bucket]
type = "object-store"
url = "s3://bucket/all"
options = {{ endpoint = "{endpoint}", region = "us-east-1", allow_http = true, access_key_id = "{key}", \
secret_access_key = {{ env = "S3_SECRET" }} }}
[[routes]]
filename = "*.csv"
to = ["database", "here"]
[[routes]]
filename = "*.pdf"
to = ["bucket"]
"""
CSV_ONLY = """
[destinations.here]
type = "folder"
path = "out"
[[routes]]
filename = "*.csv"
to = ["database"]
[[routes]]
to = ["here"]
"""


@contextmanager
def run_exporter(folder, aluma, config, *options, **environ):
    """Run an exporter in a separate process; kill it at the end if it still runs."""
    (folder / "config.toml").write_text(FAST_CONFIG + config)
    process = subprocess.Popen(
        [*PROGRAM, "--state", "state", "--base-url", aluma.base_url, "-q", *options],
        cwd=folder,
        env=environment(folder, SimulatedAluma.client_secret, environ),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def stop(process):
    """Send SIGTERM, and return the log of the exporter when it has exited with 0."""
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=MAX_SECONDS)[1]
    assert process.returncode == 0, log
    return log


def completed(aluma):
    return aluma.state()["tasks"].get("completed", 0)


def expected_files(tasks, extension):
    """Return task id and content of all files with this extension that so many simulated tasks contain."""
    aluma = SimulatedAluma(tasks, now=lambda: 0.0, profile="small")
    return [
        (task_id, content)
        for task_id in aluma.ids()
        for _, name, content in aluma.expected(task_id)
        if name.endswith(extension)
    ]


def check_rows(database, tasks):
    """Check that the table contains each row of the CSV files once, and nothing else."""
    expected, columns = Counter(), ()
    for task_id, content in expected_files(tasks, ".csv"):
        columns, *rows = csv.reader(io.StringIO(content.decode()))
        expected.update((task_id, number, *row) for number, row in enumerate(rows, 1))
    names = ", ".join(f'"{column}"' for column in columns)
    rows = database.ask(f"SELECT aluma_task, aluma_row, {names} FROM rows")
    assert Counter(map(tuple, rows)) == expected


def test_each_row_file_and_object_exists_once_after_five_kills(postgres_database, tmp_path):
    """Rows go to the database, their files to the folder, and the others to the bucket."""
    chance, tasks = random.Random(5), 300
    with buckets.run_moto() as options, simulator("--tasks", str(tasks), "--profile", "small") as aluma:
        config = TABLES + ALL_DESTINATIONS.format(endpoint=options["endpoint"], key=buckets.KEY)
        secrets = {"DATABASE_URL": postgres_database.url, "S3_SECRET": buckets.SECRET}
        for number in range(1, 6):
            with run_exporter(tmp_path, aluma, config, **secrets):
                wait_until(lambda: completed(aluma) >= 40 * number)  # noqa: B023 - called before the next round
                time.sleep(chance.uniform(0, 0.2))
        with run_exporter(tmp_path, aluma, config, **secrets) as process:
            wait_until(lambda: completed(aluma) == tasks)
            stop(process)
        check_rows(postgres_database, tasks)
        csv_hashes = Counter(hashlib.sha256(content).hexdigest() for _, content in expected_files(tasks, ".csv"))
        assert hash_files(tmp_path / "out") == csv_hashes
        objects = buckets.read_objects(options, "all")
    assert Counter(objects.values()) == Counter(content for _, content in expected_files(tasks, ".pdf"))


def test_exporter_continues_after_an_outage_of_the_database(postgres, postgres_database, tmp_path):
    """While the database is stopped, tasks whose files go to it are released, and none is failed."""
    with (
        simulator("--tasks", "80", "--profile", "small", "--latency", "0.05") as aluma,
        run_exporter(
            tmp_path, aluma, TABLES + CSV_ONLY, "--workers", "4", DATABASE_URL=postgres_database.url
        ) as process,
    ):
        wait_until(lambda: completed(aluma) >= 20)
        postgres.stop()
        try:
            wait_until(lambda: aluma.state()["requests"].get("cancel", 0) > 0)
            time.sleep(2)
            state = aluma.state()
        finally:
            postgres.start()
        assert "failed" not in state["tasks"]
        wait_until(lambda: completed(aluma) == 80)
        log = stop(process)
    assert "Check that the database is running" in log
    assert PASSWORD not in log
    assert "Traceback" not in log
    check_rows(postgres_database, 80)


@pytest.mark.parametrize("wrong", ["password", "database"])
def test_unusable_database_is_reported_at_the_start(postgres_database, tmp_path, wrong):
    """The message has at most two lines and does not contain the password; no task is claimed."""
    password, database = (PASSWORD, "canary-x"), (f"/{postgres_database.name}", "/x")
    url = postgres_database.url.replace(*(password if wrong == "password" else database))
    with simulator("--tasks", "3", "--profile", "small") as aluma:
        with run_exporter(tmp_path, aluma, TABLES + CSV_ONLY, "--once", DATABASE_URL=url) as process:
            log = process.communicate(timeout=MAX_SECONDS)[1]
        assert process.returncode == 69, log
        assert "start" not in aluma.state()["requests"]
    assert ("authentication" if wrong == "password" else "not exist") in log
    assert len([line for line in log.splitlines() if "cooldown_initial_seconds" not in line]) <= 2
    assert "canary" not in log
