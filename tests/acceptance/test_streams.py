"""Closed and full standard streams, and the address of ``--listen``, do not change what an export does."""

import json
import socket
import subprocess
import urllib.request

import pytest

from aluma_async.testing import SimulatedAluma
from tests.acceptance.test_run import start_run
from tests.support.files import expected_hashes, hash_files
from tests.support.processes import MAX_SECONDS, PROGRAM, environment, simulator

BROKEN = {
    "closed": "exec {command} >&- 2>&- <&-",
    "closed stderr": "exec {command} 2>&-",
    "full": "exec {command} >/dev/full 2>/dev/full",
    "reader gone": "({command} 2>&1; echo $? > code) | head -1 >/dev/null; exit $(cat code)",
}


def run_in_shell(tmp_path, script, *arguments):
    command = " ".join(f"'{argument}'" for argument in (*PROGRAM, *arguments))
    env = environment(tmp_path, SimulatedAluma.client_secret, {})
    return subprocess.run(
        ["/bin/sh", "-c", script.replace("{command}", command)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS,
    )


@pytest.mark.parametrize("options", [[], ["-v"], ["--log-format", "json"]])
@pytest.mark.parametrize("streams", BROKEN)
def test_export_has_its_exit_code_when_streams_are_broken(tmp_path, streams, options):
    """With ``-v``, thousands of lines are written. No file of the export becomes a standard stream."""
    with simulator("--tasks", "20", "--profile", "small") as aluma:
        arguments = ["--once", "-o", "out", *options, "--base-url", aluma.base_url]
        assert run_in_shell(tmp_path, BROKEN[streams], *arguments).returncode == 0
        assert hash_files(tmp_path / "out") == expected_hashes(20, profile="small")
        assert aluma.state()["tasks"] == {"completed": 20}
    failed = run_in_shell(tmp_path, BROKEN[streams], *arguments)
    assert failed.returncode == 69


def test_command_fails_when_its_output_is_lost(tmp_path):
    """A reader that has read enough is no error."""
    done = run_in_shell(tmp_path, "exec {command} >/dev/full", "config", "show")
    assert (done.returncode, "No space left" in done.stderr) == (1, True)
    done = run_in_shell(tmp_path, BROKEN["reader gone"], "config", "show")
    assert done.returncode == 0


def test_export_runs_while_the_port_of_listen_is_in_use(tmp_path):
    """A warning says so; the port is served as soon as it is free."""
    with (
        simulator("--tasks", "5", "--profile", "small") as aluma,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        port = other.getsockname()[1]
        with start_run(tmp_path, "--listen", str(port), "--base-url", aluma.base_url) as (_, read_to):
            warning = json.loads(read_to("ListenFailed"))
            assert warning["level"] == "warning"
            assert str(port) in warning["error"]
            assert warning["hint"]
            read_to("TaskCompleted")
            other.close()
            url = json.loads(read_to("Listening"))["url"]
            assert urllib.request.urlopen(f"{url}/healthz").status == 200


def test_export_goes_on_when_nobody_reads_its_messages(tmp_path):
    """A log collector that hangs, or a stopped terminal. With ``-v``, more is written than a pipe keeps."""
    with simulator("--tasks", "300", "--profile", "small") as aluma:
        command = [*PROGRAM, "--once", "-v", "-o", "out", "--base-url", aluma.base_url]
        env = environment(tmp_path, SimulatedAluma.client_secret, {})
        with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE) as run:
            try:
                assert run.wait(MAX_SECONDS) == 0
            finally:
                run.kill()
        assert aluma.state()["tasks"] == {"completed": 300}
