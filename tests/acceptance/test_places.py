"""A configuration in which two destinations share a place is refused with exit code 78, before anything is claimed."""

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aluma_async.destinations.common.locations import file_system_of, read_mounts
from tests.support.processes import MAX_SECONDS, PROGRAM, environment, expect_error
from tests.support.server import aluma_server

TWO_FOLDERS = """
[exporter]
state = "state"
[destinations.default]
type = "folder"
path = "{}"
[destinations.second]
type = "folder"
path = "{}"
"""


def test_two_destinations_in_one_folder_are_refused_at_start(run_cli, tmp_path):
    (tmp_path / "config.toml").write_text(TWO_FOLDERS.format("out", "out/csv"))
    done = run_cli("--once", "--base-url", "http://127.0.0.1:9", "--allow-insecure")
    expect_error(done, 78, "[destinations.second]", "[destinations.default]", "whatever the routes are")
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_check_reports_destinations_in_one_place(run_cli, tmp_path):
    (tmp_path / "config.toml").write_text(TWO_FOLDERS.format("out", "./out"))
    done = run_cli("check", "--config-only")
    assert done.returncode == 78
    assert "FAIL  wiring: each destination has a place of its own: config.toml:" in done.stdout
    assert "[destinations.second]" in done.stdout
    (tmp_path / "config.toml").write_text(TWO_FOLDERS.format("out", "csv"))
    assert run_cli("check", "--config-only").returncode == 0


@pytest.mark.parametrize(("output", "state"), [("out", "out/state"), ("state/quarantine", "state"), (".", "state")])
def test_output_and_state_folder_in_one_another_are_refused(output, state, run_cli, tmp_path):
    done = run_cli("--once", "-o", output, "--state", state)
    expect_error(done, 78, "state folder" if output != "state/quarantine" else "quarantine", "--state")
    assert not list(tmp_path.iterdir())


def test_configuration_that_an_exported_file_could_replace_is_refused(run_cli, tmp_path):
    text = '[destinations.default]\ntype = "folder"\npath = "."\non_conflict = "overwrite"\n'
    (tmp_path / "config.toml").write_text(text)
    done = run_cli("--once", "--state", tmp_path.parent / f"{tmp_path.name}-state")
    expect_error(done, 78, "contains the configuration, config.toml")


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_folder_that_is_mounted_a_second_time_is_recognized(tmp_path):
    """The second place is a part of the first one, under another path and without a link."""
    (tmp_path / "config.toml").write_text(TWO_FOLDERS.format("data", "mounted"))
    for name in ("data/inner", "mounted"):
        (tmp_path / name).mkdir(parents=True)
    mounted = ["unshare", "-Urm", "sh", "-c", 'mount --bind data/inner mounted || exit 99; "$@"', "sh"]
    done = subprocess.run(
        [*mounted, *PROGRAM, "check", "--config-only"],
        cwd=tmp_path,
        env=environment(tmp_path, "", {}),
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS,
    )
    if done.returncode in (1, 99):
        pytest.skip("needs the permission to mount")
    assert done.returncode == 78, done.stdout
    assert "is inside that of [destinations.default]" in done.stdout


IN_MEMORY = Path("/dev/shm")


@pytest.mark.skipif(file_system_of(IN_MEMORY, read_mounts()) != "tmpfs", reason="needs a tmpfs")
def test_folders_in_memory_are_a_warning_of_check_and_of_each_start(run_cli, tmp_path):
    """Each is named once, and nothing is refused: a test may use such a folder."""
    with TemporaryDirectory(dir=IN_MEMORY) as folder, aluma_server(1, malformed_row=False) as aluma:
        options = ("--base-url", aluma.base_url, "--allow-insecure")
        for state, output, count in ((folder, "out", 1), ("state", f"{folder}/out", 1), ("state", "out", 0)):
            checked = run_cli("check", *options, "--state", state, "-o", output)
            started = run_cli(*options, "--once", "--state", state, "-o", output)
            assert (checked.returncode, started.returncode) == (0, 0), checked.stdout
            for text in (checked.stdout, started.stderr):
                assert text.count("is on a file system in memory (tmpfs)") == count
                assert text.count("use a folder on a disk") == count
