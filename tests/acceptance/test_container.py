"""The Containerfile, as far as it can be checked without building an image."""

import json
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.files import ROOT

FOLDER = ROOT / ".container"
TEXT = (FOLDER / "Containerfile").read_text()
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


@pytest.mark.skipif(not HADOLINT, reason="hadolint has no wheel for this machine")
def test_containerfile_passes_hadolint():
    done = subprocess.run([HADOLINT, FOLDER / "Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_container_is_built_in_stages_and_runs_without_root():
    stages = TEXT.split("\nFROM ")[1:]
    assert len(stages) == 2
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", stages[-1], re.MULTILINE)
    assert "RUN pip" not in stages[-1]
    assert "SECRET=" not in TEXT


def test_copied_files_exist_and_are_not_ignored():
    included = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", TEXT, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in included
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.search(r"'\.\[(.*)\]'", TEXT)[1].split(",")) <= set(extras)


@pytest.mark.parametrize("status", [200, 503])
def test_health_check_requests_healthz(status):
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    words = json.loads(re.search(r"^\s+CMD (\[.*\])$", TEXT, re.MULTILINE)[1])
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        code = words[-1].replace("9464", str(server.server_port))
        done = subprocess.run([sys.executable, *words[1:-1], code], capture_output=True)
        thread.join()
    assert requests == ["/healthz"]
    assert (done.returncode == 0) == (status == 200)
