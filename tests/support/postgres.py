"""A real PostgreSQL server with a password, which a test can stop and start again."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks import postgres

PASSWORD = "canary-password-5d"


class Postgres(postgres.Postgres):
    def ask(self, database, statement):
        """Return all rows of a statement's result."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def run_postgres():
    """Yield a server without fsync, because no test cuts the power."""
    with tempfile.TemporaryDirectory(prefix="aluma-postgres-") as folder:
        server = Postgres(Path(folder), PASSWORD, "-c fsync=off")
        try:
            yield server
        finally:
            server.stop()
