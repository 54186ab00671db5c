"""A destination of your own, as the page on embedding has it, installed in a folder: one file, one line, a test."""

import sqlite3
import subprocess
import sys
import textwrap
import tomllib
from contextlib import closing

import anyio
import pytest

from aluma_async import Config, open_exporter
from aluma_async.destinations.registry import open_destinations
from aluma_async.exceptions import ConfigError
from aluma_async.testing import MemoryDestination, SimulatedAluma
from tests.support.markdown import code, page, section
from tests.support.processes import PROGRAM, environment, simulator

PAGE = section(page("embedding"), "Your own destination")
THE_FILE, THE_TEST = code(PAGE, "python")
(THE_LINE,) = code(PAGE, "toml")
BROKEN = """
def no_destination():
    return object()


def refuses(path):
    raise ValueError(f"{path} is no place for files")


class Closing:
    probe = open = None

    async def close(self):
        raise EOFError("closed")
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What ``pip install --target`` makes of such a package."""
    site = tmp_path / "site"
    info = site / "blobs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "blobs.py").write_text(THE_FILE)
    (site / "broken.py").write_text(BROKEN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blobs\nVersion: 1.0\n")
    points = tomllib.loads(THE_LINE)["project"]["entry-points"]["aluma_async.destinations"] | {
        "missing": "blobs:Gone",
        "nothing": "broken:no_destination",
        "refuses": "broken:refuses",
        "closing": "broken:Closing",
    }
    lines = [f"{name} = {where}\n" for name, where in points.items()]
    (info / "entry_points.txt").write_text("[aluma_async.destinations]\n" + "".join(lines))
    monkeypatch.syspath_prepend(site)
    return site


def config(text):
    return Config.from_toml("[destinations.mine]\n" + text, "my.toml")


def opened(text, tmp_path, *, probe=True):
    async def main():
        async with open_destinations(config(text).destinations, tmp_path / "state") as destinations:
            if probe:
                await destinations["mine"].probe()

    anyio.run(main)


def test_an_installed_package_is_a_type_that_the_program_exports_to(installed, tmp_path):
    (tmp_path / "c.toml").write_text('[destinations.mine]\ntype = "blobs"\npath = "blobs.db"\n')

    def run(*arguments):
        env = environment(tmp_path, SimulatedAluma.client_secret, {"PYTHONPATH": str(installed)})
        return subprocess.run(
            [*PROGRAM, *arguments, "-c", "c.toml"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60
        )

    with simulator("--tasks", "20", "--profile", "small") as aluma:
        shown = run("config", "show")
        assert 'path = "blobs.db"' in shown.stdout, shown.stderr
        checked = run("check", "--base-url", aluma.base_url)
        assert "ok    environment: mine: plug-in blobs" in checked.stdout, checked.stdout
        done = run("--once", "--base-url", aluma.base_url)
        assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(tmp_path / "blobs.db")) as database:
        assert database.execute("SELECT count(DISTINCT task) FROM file").fetchone() == (20,)


def test_its_own_test_passes(installed):
    (installed / "test_blobs.py").write_text(THE_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_blobs.py"]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_its_keys_are_checked_by_what_it_takes(installed, tmp_path):
    for text, says, hint in (
        ("pth = 'x'", "unknown key 'pth'", "Did you mean 'path'?"),
        ("", "the key 'path' is missing", "Add that key."),
    ):
        with pytest.raises(ConfigError) as caught:
            opened(f"type = 'blobs'\n{text}", tmp_path)
        assert str(caught.value) == f"[destinations.mine] type = 'blobs': {says}"
        assert caught.value.hint == hint


def test_it_is_closed_at_the_end(installed, tmp_path):
    with pytest.raises(EOFError, match="closed"):
        opened("type = 'closing'", tmp_path, probe=False)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "cannot be loaded: AttributeError"),
        ("nothing", "is not a destination"),
        ("refuses", "/canary is no place for files"),
    ],
)
def test_one_that_cannot_be_used_says_why(installed, tmp_path, kind, says):
    path = "path = '/canary'" if kind == "refuses" else ""
    with pytest.raises(ConfigError, match=rf"\[destinations.mine\] type = '{kind}': {says}"):
        opened(f"type = '{kind}'\n{path}", tmp_path)


def test_a_type_that_is_not_known_is_told_with_the_nearest_that_is(installed):
    for kind, near in (("blob", "blobs"), ("foldr", "folder"), ("object-stor", "object-store")):
        with pytest.raises(
            ConfigError, match=rf"my.toml: \[destinations.mine\] type = '{kind}': unknown type"
        ) as caught:
            config(f"type = '{kind}'")
        assert caught.value.hint == f"Did you mean '{near}'?"


def test_an_object_can_be_handed_in_beside_what_the_config_names(tmp_path, monkeypatch):
    """Alone it takes everything; beside others, what routes send there."""
    monkeypatch.setenv("ALUMA_CLIENT_ID", SimulatedAluma.client_id)
    monkeypatch.setenv("ALUMA_CLIENT_SECRET", SimulatedAluma.client_secret)
    with simulator("--tasks", "20", "--profile", "small") as aluma:

        async def main():
            mine = MemoryDestination()
            base = {"aluma": {"base_url": aluma.base_url}, "exporter": {"state": str(tmp_path / "state")}}
            text = textwrap.dedent(f"""
                [destinations.default]
                type = "folder"
                path = "{tmp_path / "out"}"
                [[routes]]
                to = ["mine"]
                source = "url"
            """)
            with pytest.raises(ConfigError, match="unknown destination"):
                Config.from_toml(text, "c.toml").routing()
            async with open_exporter(Config.from_toml(text, "c.toml", base), destinations={"mine": mine}) as exporter:
                assert (await exporter.run_until_drained()).exported == 20
            assert mine.tasks
            async with open_exporter(Config.from_toml("", "c.toml", base), destinations={"mine": mine}) as exporter:
                assert (await exporter.run_until_drained()).exported == 0

        anyio.run(main)
