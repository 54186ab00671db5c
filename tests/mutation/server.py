"""A process that has imported all but the tested code, and runs pytest in forks of itself to save time.

It reads a command from each line of standard input: ``{"arguments": [...], "environ": {...}}``. It answers with the
identifier of the process that runs pytest, and then with its exit status, each in a line.
"""

import gc
import importlib
import json
import os
import sys
import warnings
from contextlib import suppress

import pytest
from _pytest.config import get_config

PRELOADED = ("hypothesis", "aiosqlite", "sqlalchemy.ext.asyncio", "aluma_async.testing", "tests.conftest")
TESTED = ("aluma_async", "tests")
IGNORED = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # pytest warns about plug-ins that are imported already


def preload():
    """Import the libraries of the tests, but forget the modules that a mutation changes or that import one of those."""
    get_config()
    for name in PRELOADED:
        with suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in TESTED]:
        del sys.modules[name]
    importlib.invalidate_caches()
    gc.collect()
    gc.freeze()


def run(command):
    """Run pytest in a process group of its own, and never return."""
    os.setsid()
    os.environ.update(command["environ"])
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    status = 70
    try:
        status = int(pytest.main([*IGNORED, *command["arguments"]]))
    finally:
        os._exit(status)


def answer(number):
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main():
    sys.dont_write_bytecode = False
    preload()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        answer(child)
        answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
