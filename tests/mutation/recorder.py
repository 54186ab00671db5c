"""pytest plug-in: records the lines of ``aluma_async`` that each test runs, or runs the selected tests only.

``MUTATION_RECORD`` names the file for the record, and ``MUTATION_PACKAGES`` the packages whose lines it contains.
``MUTATION_SELECT`` names a file with the tests to run, in their order, and the seconds that each takes. Memory and time
are limited because a mutated loop may not end.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest

MAX_MEMORY_BYTES = 4 << 30
RECORD = os.environ.get("MUTATION_RECORD", "")
SELECT = os.environ.get("MUTATION_SELECT", "")
ROOT = str(Path(__file__).parent) + os.sep
PACKAGE = ROOT + "aluma_async" + os.sep
RECORDED = tuple(PACKAGE + name + os.sep for name in os.environ.get("MUTATION_PACKAGES", "").split(","))

records: dict[str, dict] = {}
lines: defaultdict[str, set[int]] = defaultdict(set)
files: set[str] = set()
selected: dict[str, float] = {}


def pytest_configure():
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))


def pytest_collection_modifyitems(items):
    if SELECT:
        selected.update(json.loads(Path(SELECT).read_text("utf-8")))
        order = {test: index for index, test in enumerate(selected)}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])


def trace(frame, event, argument):
    if not frame.f_code.co_filename.startswith(PACKAGE):
        return None
    if not frame.f_code.co_filename.startswith(RECORDED):
        files.add(frame.f_code.co_filename)
        return None
    seen = lines[frame.f_code.co_filename]
    seen.add(frame.f_lineno)

    def trace_line(frame, event, argument):
        seen.add(frame.f_lineno)
        return trace_line

    return trace_line


def limit_time(seconds):
    """End the process if a test takes much longer than without a mutation, because it may never end."""
    signal.setitimer(signal.ITIMER_VIRTUAL, 5 + 2 * seconds)
    signal.setitimer(signal.ITIMER_REAL, 20 + 4 * seconds)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    if not RECORD:
        limit_time(selected.get(item.nodeid, 0.0))
        return (yield)
    lines.clear()
    start = time.monotonic()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        return (yield)
    finally:
        sys.settrace(None)
        threading.settrace(None)
        files.update(lines)
        records[item.nodeid] = {
            "seconds": time.monotonic() - start,
            "lines": {file.removeprefix(ROOT): sorted(seen) for file, seen in lines.copy().items()},
            "passed": True,
        }


def pytest_runtest_logreport(report):
    if RECORD and report.outcome != "passed":
        failed.add(report.nodeid)


failed: set[str] = set()


def pytest_sessionfinish():
    if RECORD:
        for test in failed & records.keys():
            records[test]["passed"] = False
        reached = sorted(file.removeprefix(ROOT) for file in files)
        Path(RECORD).write_text(json.dumps({"tests": records, "files": reached}), "utf-8")
