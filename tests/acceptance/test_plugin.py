"""Destination plug-ins: the example of the documentation, installed as a package, is a type of destination."""

import sqlite3
import subprocess
import sys
import textwrap
import tomllib
from contextlib import closing

import pytest

from aluma_async import Config, open_exporter
from aluma_async.destinations.registry import open_destinations
from aluma_async.exceptions import ConfigError
from aluma_async.testing import MemoryDestination, SimulatedAluma
from tests.support.clock import real_time
from tests.support.markdown import code, page, section
from tests.support.processes import MAX_SECONDS, PROGRAM, environment, simulator

PAGE = section(page("embedding"), "Your own destination")
PLUGIN, PLUGIN_TEST = code(PAGE, "python")
(ENTRY_POINT,) = code(PAGE, "toml")
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
    """Install the plug-in, and some broken ones, as ``pip install --target`` does; return the folder."""
    site = tmp_path / "site"
    info = site / "blobs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "blobs.py").write_text(PLUGIN)
    (site / "broken.py").write_text(BROKEN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blobs\nVersion: 1.0\n")
    entry_points = tomllib.loads(ENTRY_POINT)["project"]["entry-points"]["aluma_async.destinations"] | {
        "missing": "blobs:Gone",
        "nothing": "broken:no_destination",
        "refuses": "broken:refuses",
        "closing": "broken:Closing",
    }
    lines = [f"{name} = {target}\n" for name, target in entry_points.items()]
    (info / "entry_points.txt").write_text("[aluma_async.destinations]\n" + "".join(lines))
    monkeypatch.syspath_prepend(site)
    return site


def parse_config(text):
    return Config.from_toml("[destinations.mine]\n" + text, "my.toml")


async def open_destination(text, tmp_path, *, probe=True):
    async with open_destinations(parse_config(text).destinations, tmp_path / "state") as destinations:
        if probe:
            await destinations["mine"].probe()


def test_program_exports_to_an_installed_plugin(installed, tmp_path):
    (tmp_path / "c.toml").write_text('[destinations.mine]\ntype = "blobs"\npath = "blobs.db"\n')

    def run(*arguments):
        env = environment(tmp_path, SimulatedAluma.client_secret, {"PYTHONPATH": str(installed)})
        return subprocess.run(
            [*PROGRAM, *arguments, "-c", "c.toml"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
        )

    with simulator("--tasks", "20", "--profile", "small") as aluma:
        config = run("config", "show")
        assert 'path = "blobs.db"' in config.stdout, config.stderr
        check = run("check", "--base-url", aluma.base_url)
        assert "ok    environment: mine: plug-in blobs" in check.stdout, check.stdout
        export = run("--once", "--base-url", aluma.base_url)
        assert export.returncode == 0, export.stderr
    with closing(sqlite3.connect(tmp_path / "blobs.db")) as database:
        assert database.execute("SELECT count(DISTINCT task) FROM file").fetchone() == (20,)


def test_documented_test_of_the_plugin_passes(installed):
    (installed / "test_blobs.py").write_text(PLUGIN_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_blobs.py"]
    result = subprocess.run(command, cwd=installed, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("keys", "problem", "hint"),
    [
        ("pth = 'x'", "unknown key 'pth'", "Did you mean 'path'?"),
        ("", "the key 'path' is missing", "Add that key."),
    ],
)
@real_time
async def test_keys_are_compared_with_the_parameters_of_the_plugin(installed, tmp_path, keys, problem, hint):
    with pytest.raises(ConfigError) as caught:
        await open_destination(f"type = 'blobs'\n{keys}", tmp_path)
    assert str(caught.value) == f"[destinations.mine] type = 'blobs': {problem}"
    assert caught.value.hint == hint


@real_time
async def test_plugin_is_closed_at_the_end(installed, tmp_path):
    with pytest.raises(EOFError, match="closed"):
        await open_destination("type = 'closing'", tmp_path, probe=False)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("missing", "cannot be loaded: AttributeError"),
        ("nothing", "is not a destination"),
        ("refuses", "/canary is no place for files"),
    ],
)
@real_time
async def test_unusable_plugin_is_reported_with_its_reason(installed, tmp_path, kind, problem):
    path = "path = '/canary'" if kind == "refuses" else ""
    with pytest.raises(ConfigError, match=rf"\[destinations.mine\] type = '{kind}': {problem}"):
        await open_destination(f"type = '{kind}'\n{path}", tmp_path)


@pytest.mark.parametrize(("kind", "nearest"), [("blob", "blobs"), ("foldr", "folder"), ("object-stor", "object-store")])
def test_unknown_type_is_reported_with_the_nearest_one(installed, kind, nearest):
    with pytest.raises(ConfigError, match=rf"my.toml:2: \[destinations.mine\] type = '{kind}': unknown type") as caught:
        parse_config(f"type = '{kind}'")
    assert caught.value.hint == f"Did you mean '{nearest}'?"


@real_time
async def test_destination_object_is_used_next_to_the_configured_ones(tmp_path, monkeypatch):
    """Routes may name it. If it is the only destination, it gets all files."""
    monkeypatch.setenv("ALUMA_CLIENT_ID", SimulatedAluma.client_id)
    monkeypatch.setenv("ALUMA_CLIENT_SECRET", SimulatedAluma.client_secret)
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
    with simulator("--tasks", "20", "--profile", "small") as aluma:
        base = {"aluma": {"base_url": aluma.base_url}, "exporter": {"state": str(tmp_path / "state")}}
        destinations = {"mine": MemoryDestination()}
        async with open_exporter(Config.from_toml(text, "c.toml", base), destinations=destinations) as exporter:
            assert (await exporter.run_until_drained()).exported == 20
        assert destinations["mine"].tasks
        async with open_exporter(Config.from_toml("", "c.toml", base), destinations=destinations) as exporter:
            assert (await exporter.run_until_drained()).exported == 0
