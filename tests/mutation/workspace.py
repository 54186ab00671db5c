"""A temporary copy of the repository in which mutations are tried one after another; the original never changes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from tests.mutation.mutations import Mutation

COPIED = ("aluma_async", "tests", "benchmarks", "pyproject.toml", "README.md", "CHANGELOG.md", "config.example.toml")
OPTIONS = ("-q", "-n", "0", "-p", "no:cacheprovider", "-p", "mutation_recorder")
RECORDING = ("-W", "ignore::pytest.PytestUnraisableExceptionWarning")  # tracing delays the end of generators
PYTEST = (sys.executable, "-m", "pytest", "-x", *OPTIONS)
SIMULATION = (sys.executable, "-m", "aluma_async.testing.simulation", "--jobs", "1")
PIPELINE_TESTS = (
    "exporter",
    "journal",
    "plugin_defects",
    "reload",
)
FULL = (
    (*SIMULATION, "--count", "300"),
    (*SIMULATION, "--full", "--count", "60"),
    (*PYTEST, *(f"tests/integration/test_{name}.py" for name in PIPELINE_TESTS)),
    (*PYTEST, "tests/contracts/test_memory.py", "tests/contracts/test_folder.py", "tests/contracts/test_router.py"),
)
FULL_SECONDS = 600.0
FIRST_FILES = 3
"""Number of test files that are tried first, because importing all that reach a mutation takes longer than a test."""


class Workspace:
    """One copy of the repository."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self._modified_at = 1_000_000_000
        folder.mkdir()
        self._server: subprocess.Popen[str] | None = None
        for name in ("recorder", "server"):
            shutil.copy(Path(__file__).with_name(f"{name}.py"), folder / f"mutation_{name}.py")
        for name in COPIED:
            if (source := root / name).is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, folder / name)

    def record(self, file: str, record: Path, packages: Iterable[str]) -> None:
        """Record the lines of some packages that each test of a file runs."""
        self._pytest((*RECORDING, file), 1800.0, MUTATION_RECORD=str(record), MUTATION_PACKAGES=",".join(packages))

    def survives(self, mutation: Mutation, tests: dict[str, float], *, full: bool) -> bool:
        """Return whether no test notices the mutation. A time-out counts as noticed."""
        original = (self.folder / mutation.file).read_text("utf-8")
        self._write(mutation.file, mutation.source)
        try:
            if not self._passes(tests, Path(mutation.file).stem):
                return False
            return not full or all(self._run(command, FULL_SECONDS) for command in FULL)
        finally:
            self._write(mutation.file, original)

    def _passes(self, tests: dict[str, float], module: str) -> bool:
        """Run the tests of a few files first, those of the module if there are any; most mutations need no more."""
        files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        files.sort(key=lambda file: not Path(file).stem.startswith(f"test_{module}"))
        for part in (files[:FIRST_FILES], files[FIRST_FILES:]):
            selected = {test: seconds for test, seconds in tests.items() if test.partition("::")[0] in part}
            selection = self.folder / "selection.json"
            selection.write_text(json.dumps(selected), "utf-8")
            seconds = 60.0 + 4 * sum(selected.values())
            if selected and not self._pytest(("-x", *part), seconds, MUTATION_SELECT=str(selection)):
                return False
        return True

    def _write(self, file: str, source: str) -> None:
        """Write a file with a new time of change, because cached bytecode of an equal time and size would be used."""
        path = self.folder / file
        path.write_text(source, "utf-8")
        self._modified_at += 10
        os.utime(path, (self._modified_at, self._modified_at))

    def _pytest(self, arguments: tuple[str, ...], seconds: float, **environ: str) -> bool:
        """Run pytest in a fork of the server."""
        environ["TMPDIR"] = self._empty_folder()
        if self._server is None:
            self._server = self._start((sys.executable, "mutation_server.py"), stdin=subprocess.PIPE)
        print(
            json.dumps({"arguments": [*OPTIONS, *arguments], "environ": environ}), file=self._server.stdin, flush=True
        )
        process = int(self._server.stdout.readline())
        timer = threading.Timer(seconds, _kill, (process,))
        timer.start()
        try:
            return int(self._server.stdout.readline()) == 0
        finally:
            timer.cancel()
            _kill(process)

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.communicate()

    def _run(self, command: tuple[str, ...], seconds: float) -> bool:
        process = self._start(command, stdin=subprocess.DEVNULL, TMPDIR=self._empty_folder())
        try:
            return process.communicate(timeout=seconds) is not None and process.returncode == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            _kill(process.pid)
            process.communicate()

    def _start(self, command: tuple[str, ...], *, stdin: int, **environ: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), **environ},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def _empty_folder(self) -> str:
        folder = self.folder / "tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return str(folder)


def _kill(process_group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process_group, signal.SIGKILL)
