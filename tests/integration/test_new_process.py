"""Rules that need a Python process of their own: another locale, and no OpenTelemetry that was set up."""

import os
import subprocess
import sys

from tests.support.files import ROOT
from tests.support.folders import exported_files

PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.support.folders import claim_of, deliver, open_folder

async def main():
    assert sys.getfilesystemencoding() != "utf-8"
    async with open_folder(Path(sys.argv[1])) as destination:
        for _ in range(2):
            for task in ("t1", "t2"):
                await deliver(destination, claim_of(task, "\\xfc/\\u65e5\\u672c.pdf"), task.encode())

asyncio.run(main())
"""


def test_names_are_utf_8_in_any_locale(tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    exported = exported_files(tmp_path)
    assert exported["ü/日本.pdf"] == b"t1"
    assert sorted(exported.values()) == [b"t1", b"t2"]


def test_tracing_adds_no_listener_when_opentelemetry_is_not_set_up():
    """With its API alone, or without it."""
    code = "from aluma_async.cli.observers import open_tracer; print(open_tracer())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "None\n"
