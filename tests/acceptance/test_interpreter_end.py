"""The end of the process: its exit code and its output are complete, also while a thread hangs."""

import subprocess
import sys

import pytest

from tests.support.processes import MAX_SECONDS, environment

PROGRAM = """
import atexit, logging, logging.handlers, os, sys, threading, time
from aluma_async.cli.main import cli, main
from aluma_async.concurrency.daemon_threads import DaemonThreads

class Finalized:
    def __del__(self, write=os.write):
        write(2, b"finalized\\n")

last = Finalized()

@cli.command()
def finish():
    threads = DaemonThreads(2, "folder")
    if HANGS:
        threads.submit(threading.Event().wait)
    else:
        threads.submit(int).result()
    threads.shutdown(wait=not HANGS)
    handler = logging.handlers.MemoryHandler(1000, target=logging.StreamHandler(sys.stdout))
    logging.getLogger().addHandler(handler)
    logging.getLogger().warning("from the log")
    atexit.register(print, "from the end of the process")
    threading.Thread(target=lambda: (time.sleep(0.2), print("from another thread"))).start()
    print("x" * 100_000)
    return 7

END_OF_PROGRAM
"""


def run(tmp_path, code):
    return subprocess.run(
        [sys.executable, "-c", code, "finish"],
        cwd=tmp_path,
        env=environment(tmp_path, "", {}),
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS,
    )


@pytest.mark.parametrize("hangs", [True, False])
def test_interpreter_end_keeps_exit_code_and_output(hangs, tmp_path):
    """A hanging daemon thread prevents the finalization of the interpreter, and nothing else."""
    done = run(tmp_path, PROGRAM.replace("HANGS", str(hangs)).replace("END_OF_PROGRAM", "main()"))
    assert done.returncode == 7
    lines = done.stdout.splitlines()
    assert sorted(lines[1:]) == ["from another thread", "from the end of the process", "from the log"]
    assert lines[0] == "x" * 100_000
    assert ("finalized" in done.stderr) is not hangs


def test_interpreter_end_is_the_interpreters_when_embedded(tmp_path):
    """A program that calls the commands itself ends as it wants."""
    embedded = 'code = cli.main(["finish"], standalone_mode=False, obj={})\nsys.exit(code + 1)'
    done = run(tmp_path, PROGRAM.replace("HANGS", "True").replace("END_OF_PROGRAM", embedded))
    assert done.returncode == 8
    assert "from the end of the process" in done.stdout
    assert "finalized" in done.stderr
