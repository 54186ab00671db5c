"""A real PostgreSQL for tests, with a password, to be stopped and started again."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks import postgres as of_wheel

PASSWORD = "canary-password-5d"


class Postgres(of_wheel.Postgres):
    def ask(self, database, statement):
        """Return all rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def postgres():
    """Yield a server that syncs nothing, as nobody pulls the plug."""
    with tempfile.TemporaryDirectory(prefix="aluma-postgres-") as folder:
        server = Postgres(Path(folder), PASSWORD, "-c fsync=off")
        try:
            yield server
        finally:
            server.stop()
