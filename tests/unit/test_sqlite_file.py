"""Opening SQLite files that other users are busy with."""

import sqlite3
import threading
from contextlib import closing

import pytest

from aluma_async import sqlite_file

READ_THEN_WRITE = ("BEGIN", "SELECT * FROM number", "INSERT INTO number VALUES (2)", "COMMIT")
"""SQLite reports a busy file at once to a user that has read and begins to write, whatever its time-out."""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "numbers.sqlite3"
    with closing(sqlite_file.connect(path, ("CREATE TABLE number (value)",), timeout=0)):
        return path


def test_connect_waits_when_sqlite_itself_does_not(path):
    with closing(sqlite_file.connect(path, ("BEGIN IMMEDIATE", "INSERT INTO number VALUES (1)"), timeout=0)) as other:
        timer = threading.Timer(0.2, other.commit)
        timer.start()
        with closing(sqlite_file.connect(path, READ_THEN_WRITE, timeout=10)) as database:
            assert sorted(database.execute("SELECT value FROM number")) == [(1,), (2,)]
        timer.join()


def test_connect_raises_when_the_file_stays_busy(path):
    with (
        closing(sqlite_file.connect(path, ("BEGIN IMMEDIATE",), timeout=0)),
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        sqlite_file.connect(path, READ_THEN_WRITE, timeout=0.1)
