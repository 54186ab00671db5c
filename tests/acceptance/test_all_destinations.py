"""A whole run to everywhere: routes to a database, a folder and a bucket, with kills and a server that goes away."""

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
from tests.support.processes import FAST_CONFIG, PROGRAM, environment, simulator, wait_until

TABLES = """
[destinations.ledger]
type = "sql"
url_env = "LEDGER_URL"
table = "rows"
create = true
"""
EVERYWHERE = """
[destinations.here]
type = "folder"
path = "out"
[destinations.bucket]
type = "object-store"
url = "s3://bucket/everywhere"
options = {{ endpoint = "{endpoint}", region = "us-east-1", allow_http = true, access_key_id = "{key}", \
secret_access_key = {{ env = "S3_SECRET" }} }}
[[routes]]
filename = "*.csv"
to = ["ledger", "here"]
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
to = ["ledger"]
[[routes]]
to = ["here"]
"""


@contextmanager
def exporter(folder, aluma, config, *options, **environ):
    """An exporter in a process of its own, killed at the end if it still runs."""
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


@pytest.fixture
def ledger(postgres):
    postgres.ask("postgres", "DROP DATABASE IF EXISTS ledger WITH (FORCE)")
    postgres.ask("postgres", "CREATE DATABASE ledger")
    return postgres.url("ledger")


def files(tasks):
    """What the tasks hold: name and content."""
    aluma = SimulatedAluma(tasks, now=lambda: 0.0, profile="small")
    return [(task, name, content) for task in aluma.ids() for _, name, content in aluma.expected(task)]


def rows(task, content):
    header, *data = csv.reader(io.StringIO(content.decode()))
    return [(task, number, *row) for number, row in enumerate(data, 1)], header


def right(postgres, tasks):
    """Each row is there once, and nothing else."""
    known, columns = Counter(), ()
    for task, name, content in files(tasks):
        if name.endswith(".csv"):
            found, columns = rows(task, content)
            known.update(found)
    names = ", ".join(f'"{column}"' for column in columns)
    seen = postgres.ask("ledger", f"SELECT aluma_task, aluma_row, {names} FROM rows")
    assert Counter(tuple(row) for row in seen) == known


def test_after_five_kills_each_row_file_and_object_is_there_once(postgres, ledger, tmp_path):
    chance, tasks = random.Random(5), 300
    with (
        buckets.moto() as options,
        simulator("--tasks", str(tasks), "--profile", "small") as aluma,
    ):
        config = TABLES + EVERYWHERE.format(endpoint=options["endpoint"], key=buckets.KEY)
        secrets = {"LEDGER_URL": ledger, "S3_SECRET": buckets.SECRET}
        for number in range(1, 6):
            with exporter(tmp_path, aluma, config, **secrets):
                wait_until(lambda: completed(aluma) >= 40 * number, 60)  # noqa: B023 - called at once
                time.sleep(chance.uniform(0, 0.2))
        with exporter(tmp_path, aluma, config, **secrets) as process:
            wait_until(lambda: completed(aluma) == tasks, 60)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
        right(postgres, tasks)
        assert hash_files(tmp_path / "out") == hashed(tasks, ".csv")
        found = buckets.objects(options, "everywhere")
    assert Counter(found.values()) == Counter(content for _, name, content in files(tasks) if name.endswith(".pdf"))


def hashed(tasks, ending):
    return Counter(hashlib.sha256(content).hexdigest() for _, name, content in files(tasks) if name.endswith(ending))


def completed(aluma):
    return aluma.state()["tasks"].get("completed", 0)


def test_a_database_that_goes_away_loses_nothing_and_when_it_is_back_all_goes_on(postgres, ledger, tmp_path):
    with (
        simulator("--tasks", "80", "--profile", "small", "--latency", "0.05") as aluma,
        exporter(tmp_path, aluma, TABLES + CSV_ONLY, "--workers", "4", LEDGER_URL=ledger) as process,
    ):
        wait_until(lambda: completed(aluma) >= 20, 60)
        postgres.stop()
        try:
            wait_until(lambda: aluma.state()["requests"].get("cancel", 0) > 0, 30)
            time.sleep(2)  # long enough for the queue to be churned through, if it were
            seen = aluma.state()
        finally:
            postgres.start()
        assert "failed" not in seen["tasks"]
        assert seen["requests"]["start"] < 80
        wait_until(lambda: completed(aluma) == 80, 60)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 0, said
    assert "claiming paused" in said
    assert PASSWORD not in said
    assert "Traceback" not in said
    right(postgres, 80)


@pytest.mark.parametrize(
    ("change", "says"), [((PASSWORD, "canary-x"), "authentication"), (("/ledger", "/x"), "not exist")]
)
def test_a_database_that_cannot_be_used_is_told_at_the_start_without_its_password(ledger, tmp_path, change, says):
    with simulator("--tasks", "3", "--profile", "small") as aluma:
        with exporter(tmp_path, aluma, TABLES + CSV_ONLY, "--once", LEDGER_URL=ledger.replace(*change)) as process:
            said = process.communicate(timeout=30)[1]
        assert process.returncode == 69, said
        assert "start" not in aluma.state()["requests"]
    assert says in said
    assert len([line for line in said.splitlines() if "cooldown_initial_seconds" not in line]) <= 2
    assert "canary" not in said
