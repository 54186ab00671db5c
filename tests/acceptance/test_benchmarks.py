"""The benchmarks run."""

import json
import subprocess
import sys

from tests.support.files import ROOT


def test_every_benchmark_runs(tmp_path):
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--tiny", "--json", figures],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(figures.read_text())
    contenders = {result["contender"] for result in results}
    assert {"floor", "aluma-async", "aiohttp + aiofiles", "requests", "httpx"} <= contenders
    scenarios = {result["scenario"].partition(",")[0] for result in results}
    assert scenarios == {"small", "bulk", "50 ms", "stragglers", "memory", "rows into PostgreSQL"}
    assert all(value > 0 for result in results for value in result["values"])
