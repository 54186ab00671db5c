"""The house keeps its own rules: floors, types, style, and no trace of where it was built."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import aluma_async
from tests.support.files import ROOT

BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["lint-imports", "--no-cache"],
        ["ruff", "check", "--no-cache", "."],
        ["ruff", "format", "--no-cache", "--check", "."],
        ["mypy", "--no-incremental"],
    ],
    ids=lambda command: command[0] + ("-format" if "format" in command else ""),
)
def test_the_linters_agree(command):
    tool = BIN / command[0]
    done = subprocess.run([tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_users_may_import_is_there():
    names = (
        "Exporter open_exporter Config AlumaClient FolderDestination TaskSource Destination Delivery events exceptions"
    )
    assert set(names.split()) <= set(aluma_async.__all__)
    assert all(hasattr(aluma_async, name) for name in aluma_async.__all__)
    assert (Path(aluma_async.__file__).parent / "py.typed").exists()


def test_the_version_has_one_source_and_a_place_in_the_changelog():
    assert f"## [{aluma_async.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"] == ["version"]


def test_no_clock_no_chance_and_no_print_outside_their_rooms():
    """Time comes from the event loop and chance is handed in, so that runs can be repeated in virtual time."""
    for path in (ROOT / "aluma_async").rglob("*.py"):
        room = path.relative_to(ROOT / "aluma_async").parts[0]
        if room in ("cli", "service", "testing") or path.name == "clock.py":
            continue
        text = path.read_text()
        for word in (
            r"\btime\.(time|monotonic|sleep)\(",
            r"\brandom\.random\(",
            r"datetime\.now\(",
            r"\bprint\(",
            "uuid4",
        ):
            assert not re.search(word, text), f"{path}: {word}"
