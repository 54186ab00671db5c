"""The lines that each unit test runs, so that a mutation is tried with the tests that reach it, fastest first.

The record of a test file is kept in ``.mutation_cache`` until the file, ``tests/support`` or a module that it reaches
changes.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tests.mutation.mutations import Mutation
from tests.mutation.workspace import Workspace

UNIT_TESTS = (
    "tests/unit/test_*.py",
    "tests/unit/*/test_*.py",
    "tests/integration/*/test_*.py",
    "tests/integration/test_journal.py",
    "tests/integration/test_history.py",
)
"""Some tests of one package are among the integration tests because they need files, processes or much time."""
NOT_RECORDED = ("tests/unit/cli/", "tests/unit/config/", "tests/unit/destinations/", "tests/unit/mutation/")


class Baseline:
    """Records of the tests that pass without a mutation, by identifier."""

    def __init__(self, cache: Path, workspace: Workspace, packages: Iterable[str]) -> None:
        self._cache = cache
        self._workspace = workspace
        self._root = root = workspace.folder  # a copy, because files may be edited while it is recorded
        self._packages = sorted(set(packages))
        common = _digest(root, [*root.glob("aluma_async/*.py"), *root.glob("tests/support/*.py")])
        self._common = f"{common}{self._packages}"
        self._tests: dict[str, dict] = {}

    def record(self) -> list[str]:
        """Run the test files that have changed or that reach a changed file, and return the tests that do not pass."""
        self._cache.mkdir(exist_ok=True)
        files = [path.relative_to(self._root).as_posix() for pattern in UNIT_TESTS for path in self._root.glob(pattern)]
        for file in sorted(file for file in files if not file.startswith(NOT_RECORDED)):
            cached = self._cache / f"{_digest(self._root, [self._root / file], self._common)}.json"
            record = json.loads(cached.read_text("utf-8")) if cached.exists() else {}
            if record.get("digest") != self._digest_of(record.get("files", [])):
                self._workspace.record(file, cached, self._packages)
                record = json.loads(cached.read_text("utf-8"))
                cached.write_text(json.dumps({**record, "digest": self._digest_of(record["files"])}), "utf-8")
            self._tests |= record["tests"]
        return [test for test, result in self._tests.items() if not result["passed"]]

    def _digest_of(self, files: list[str]) -> str:
        return _digest(self._root, [path for file in files if (path := self._root / file).exists()])

    def tests_of(self, mutation: Mutation) -> dict[str, float]:
        """Return the tests that run a mutated line or, of lines outside functions, the module; fastest first.

        For lines outside functions, also those that run nothing of the packages, because they may read constants.
        The values are the seconds that they take while they are recorded.
        """
        changed = set(range(mutation.first_line, mutation.last_line + 1))
        folders = tuple(f"tests/unit/{name}/" for name in self._packages)
        reaching = []
        for test, result in self._tests.items():
            seen = result["lines"].get(mutation.file, ())
            reads_constants = not result["lines"] and test.startswith(folders)
            if changed.isdisjoint(seen) if mutation.in_function else not (seen or reads_constants):
                continue
            if result["passed"]:
                reaching.append((result["seconds"], test))
        return {test: seconds for seconds, test in sorted(reaching)}


def _digest(root: Path, paths: list[Path], start: str = "") -> str:
    digest = hashlib.sha256(start.encode())
    for path in sorted(paths):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:24]
