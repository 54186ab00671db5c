"""The lines of ``doctor`` about files and folders."""

import os
import threading

import pytest

from aluma_async.cli.doctor_paths import describe_path, limited_line, path_lines
from aluma_async.concurrency.daemon_threads import DaemonThreads
from aluma_async.config import Config


def test_path_line_names_kind_mode_access_and_free_space(tmp_path):
    tmp_path.chmod(0o750)
    text = describe_path(tmp_path)
    assert text.startswith("folder, mode 0750, owner ")
    assert "readable and writable" in text
    assert "free of" in text
    file = tmp_path / "file"
    file.write_text("12345")
    file.chmod(0o600)
    assert describe_path(file).startswith("file, mode 0600")
    link = tmp_path / "link"
    link.symlink_to(file)
    assert describe_path(link).startswith("link to a file")


def test_path_line_describes_the_folder_of_a_missing_path(tmp_path):
    assert describe_path(tmp_path / "a" / "b").startswith(f"does not exist; in {tmp_path}: folder, mode ")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may do everything")
def test_path_line_names_missing_rights(tmp_path):
    tmp_path.chmod(0o000)
    assert "neither readable nor writable" in describe_path(tmp_path)
    tmp_path.chmod(0o700)


def test_path_line_ends_when_a_file_server_does_not_respond(tmp_path):
    released = threading.Event()
    threads = DaemonThreads(1, "test")
    line = limited_line("state folder", tmp_path, threads, lambda _: str(released.wait()), 0.05)
    assert line == f"state folder: {tmp_path}: no response within 0.05 s"
    released.set()
    threads.shutdown()


def test_path_lines_name_every_destination(tmp_path):
    text = f"""
    exporter.state = "{tmp_path / "state"}"
    [destinations.a]
    type = "folder"
    path = "{tmp_path}"
    [destinations.b]
    type = "sql"
    url = "sqlite:///{tmp_path}/b.db"
    table = "t"
    [destinations.c]
    type = "object-store"
    url = "s3://bucket/prefix"
    """
    lines = list(path_lines(Config.from_toml(text, "c.toml"), None, {}))
    starts = [": ".join(line.split(": ")[:2]) for line in lines]
    assert starts == [
        f"state folder: {tmp_path / 'state'}",
        f"quarantine: {tmp_path / 'state' / 'quarantine'}",
        f"destination a: {tmp_path}",
        f"destination b: {tmp_path}/b.db",
        "destination c: s3://bucket/prefix",
    ]
