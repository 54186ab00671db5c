"""``init``: from nothing to a configuration that exports, in a script and on a terminal."""

import os
import subprocess
import sys

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support.processes import MAX_SECONDS, PENDING, PROGRAM, environment, expect_error, simulator

ID, SECRET = SimulatedAluma.client_id, SimulatedAluma.client_secret
TASKS = 3


@pytest.fixture(scope="module")
def aluma():
    with simulator("--tasks", str(TASKS), "--profile", "small") as running:
        yield running


@pytest.fixture
def init(aluma, tmp_path):
    """Run ``init`` without a terminal, with the environment of a new user."""

    def run(*options, secret=SECRET):
        environ = {**environment(tmp_path, secret, {}), "ALUMA_CLIENT_ID": "", "ALUMA_CLIENT_SECRET": secret}
        command = [*PROGRAM, "init", "--base-url", aluma.base_url, *options]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
        )

    return run


@pytest.fixture
def run_without_credentials(tmp_path):
    def run(*options):
        environ = {**environment(tmp_path, "", {}), "ALUMA_CLIENT_ID": ""}
        return subprocess.run(
            [*PROGRAM, *options], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=MAX_SECONDS
        )

    return run


def test_init_writes_a_configuration_that_exports(init, run_without_credentials, aluma, tmp_path):
    """The secret is in a file of its own that only the user can read. Nothing is claimed before."""
    done = init("--client-id", ID, "--output", "out", "--unit", "aluma-async.service")
    assert done.returncode == 0, done.stdout + done.stderr
    assert aluma.state()["tasks"] == {PENDING: TASKS}
    assert "ok    environment: Aluma at" in done.stdout
    assert SECRET not in done.stdout + done.stderr + (tmp_path / "config.toml").read_text()
    assert (tmp_path / "client-secret").read_text() == f"{SECRET}\n"
    assert (tmp_path / "client-secret").stat().st_mode & 0o777 == 0o600
    unit = (tmp_path / "aluma-async.service").read_text()
    assert str(tmp_path / "config.toml") in unit
    assert f"\nLoadCredential=aluma-client-secret:{tmp_path / 'client-secret'}\n" in unit, "systemd reads it as root"
    assert run_without_credentials("check").returncode == 0
    steps = [
        line.strip().split("#")[0].split() for line in done.stdout.splitlines() if line.startswith("  aluma-async")
    ]
    assert [step[1:] for step in steps] == [["--dry-run"], ["--limit", "1"], []]
    for step in steps[:2]:
        assert run_without_credentials(*step[1:]).returncode == 0
    assert aluma.state()["tasks"] == {PENDING: TASKS - 1, "completed": 1}


def test_init_writes_nothing_when_the_settings_do_not_work(init, tmp_path):
    done = init("--client-id", ID, "--output", "out", secret="wrong")
    assert done.returncode == 77
    assert "FAIL  environment: Aluma at" in done.stdout
    assert not list(tmp_path.glob("c*"))
    assert init("--client-id", ID, "--output", "out", "--no-check", secret="wrong").returncode == 0
    assert (tmp_path / "client-secret").read_text() == "wrong\n"


@pytest.mark.parametrize("name", ["config.toml", "client-secret", "aluma-async.service"])
def test_init_replaces_no_file_without_asking(init, tmp_path, name):
    (tmp_path / name).write_text("mine")
    (tmp_path / name).chmod(0o600)
    done = init("--client-id", ID, "--output", "out", "--unit", "aluma-async.service")
    expect_error(done, 78, name, "exists", "not replaced")
    assert (tmp_path / name).read_text() == "mine"


def test_init_uses_a_secret_that_is_already_stored(init, tmp_path):
    (tmp_path / "client-secret").write_text(SECRET)
    (tmp_path / "client-secret").chmod(0o600)
    done = init("--client-id", ID, "--output", "out", secret="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "client-secret").read_text() == SECRET


def test_init_without_a_terminal_names_what_is_missing(init, tmp_path):
    expect_error(init(secret=""), 2, "--client-id")
    expect_error(init("--client-id", ID, secret=""), 2, "ALUMA_CLIENT_SECRET")
    expect_error(init("--client-id", ID), 2, "--output")
    expect_error(init("--client-id", ID, "--output", "out", "--no-check", "-c", "none/c.toml"), 78, "none", "written")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo terminals")
def test_init_asks_for_what_is_missing_on_a_terminal(aluma, tmp_path):
    """The secret is not shown. An empty answer is the default folder; a name with quotes and a backslash is kept."""
    import pty

    folder = 'a "b" \\c'
    (tmp_path / "config.toml").write_text("old")
    environ = {**environment(tmp_path, "", {}), "ALUMA_CLIENT_ID": "", "PATH": "/nonexistent"}
    terminal, inner = pty.openpty()
    command = [*PROGRAM, "init", "--base-url", aluma.base_url]
    with subprocess.Popen(command, cwd=tmp_path, env=environ, stdin=inner, stdout=inner, stderr=inner) as running:
        os.close(inner)
        shown = b""
        for question, answer in [("Replace", "y"), ("Id of", ID), ("Secret of", SECRET), ("Folder for", folder)]:
            while question.encode() not in shown.splitlines()[-1:][0] if shown else True:
                shown += os.read(terminal, 1024)
            os.write(terminal, f"{answer}\n".encode())
            shown += b"\n"
        try:
            while block := os.read(terminal, 1024):
                shown += block
        except OSError:  # the program has ended
            pass
        assert running.wait(MAX_SECONDS) == 0, shown.decode()
    os.close(terminal)
    assert SECRET.encode() not in shown
    assert (tmp_path / folder).is_dir()
    assert SECRET in (tmp_path / "client-secret").read_text()
    assert list(tmp_path.glob("*.new")) == []
