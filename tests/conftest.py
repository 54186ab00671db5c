"""Fixtures that several test modules share, and the marker ``slow``."""

import gc
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from aluma_async.destinations.common.locations import file_system_of, read_mounts
from aluma_async.testing import SimulatedAluma
from tests.support.databases import PostgresDatabase, SqliteDatabase
from tests.support.postgres import run_postgres
from tests.support.processes import MAX_SECONDS, PENDING, PROGRAM, environment, simulator
from tests.support.proxy import proxy_for

TESTS = Path(__file__).parent

# No example has a time limit, because the machine may be busy.
settings.register_profile("any machine", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_configure():
    """Let the processes that tests start cache their bytecode, and collect the tests faster.

    Garbage collections would take a fifth of the time until the first test begins. The folders of tests are on a disk,
    because the program warns of folders in memory.
    """
    if file_system_of(Path(tempfile.gettempdir()), read_mounts()) == "tmpfs" and os.access("/var/tmp", os.W_OK):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/var/tmp")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    gc.disable()


def pytest_collection_finish():
    """Exclude the imported modules from garbage collection, because full collections dominate otherwise."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items):
    """Mark the tests that start processes and servers, or run thousands of schedules."""
    for item in items:
        if Path(item.path).relative_to(TESTS).parts[0] in ("integration", "acceptance", "simulation"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def aluma_with_50_tasks():
    """A simulated Aluma with 50 pending tasks that no test may export."""
    with simulator("--tasks", "50", "--profile", "small") as aluma:
        yield aluma
        assert aluma.state()["tasks"] == {PENDING: 50}


@pytest.fixture
def proxy(aluma):
    """A proxy in front of the simulated Aluma of the test module."""
    with proxy_for(aluma.base_url) as running:
        yield running


@pytest.fixture
def run_cli(tmp_path):
    """Run the program in an empty folder without a config file; check that its output does not contain the secret."""

    def run(*arguments, secret=SimulatedAluma.client_secret, **environ):
        done = subprocess.run(
            [*PROGRAM, *map(str, arguments)],
            cwd=tmp_path,
            env=environment(tmp_path, secret, environ),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=MAX_SECONDS,
        )
        assert "Traceback" not in done.stderr
        assert not secret or secret not in done.stdout + done.stderr
        return done

    run.folder = tmp_path
    return run


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server."""
    with run_postgres() as server:
        yield server


@pytest.fixture
def postgres_database(postgres):
    """A new database of the PostgreSQL server."""
    return PostgresDatabase(postgres)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """A new database of each kind."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "data.db")
    return request.getfixturevalue("postgres_database")


@pytest.fixture(scope="session")
def s3_servers(tmp_path_factory):
    """Options for S3 servers by name: ``moto`` honours conditional writes, ``rclone`` does not."""
    from tests.support.buckets import run_moto, run_rclone_s3  # slow to import, and needed by few tests

    with run_moto() as moto, run_rclone_s3(tmp_path_factory.mktemp("s3")) as rclone:
        yield {"moto": moto, "rclone": rclone}


@pytest.fixture
def moto(s3_servers):
    """Options for an S3 server that honours conditional writes."""
    return s3_servers["moto"]


@pytest.fixture
def prefix(request):
    """A prefix that no other test uses."""
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def webdav_folder(tmp_path):
    """The folder in which the WebDAV server stores its files."""
    folder = tmp_path / "webdav"
    folder.mkdir()
    return folder


@pytest.fixture
def webdav_url(webdav_folder):
    """The URL of a folder on a WebDAV server that does not exist yet."""
    from tests.support.buckets import run_rclone

    with run_rclone("webdav", webdav_folder) as url:
        yield f"{url}/export"
