"""What the README shows works: its commands as processes, its code as it stands."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.files import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
ALUMA_ASYNC = str(Path(sys.executable).parent / "aluma-async")


def blocks(language: str, section: str = "") -> list[str]:
    text = README[README.index(f"## {section}") :] if section else README
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("aluma-async")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def aluma(tmp_path):
    """A simulated Aluma in a process of its own; the environment that leads an exporter to it."""
    with subprocess.Popen(
        [ALUMA_ASYNC, "simulate", "--port", "0", "--tasks", "30", "--profile", "small"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        url = re.search(r"http://\S+", server.stdout.readline())[0]
        yield {
            **os.environ,
            "ALUMA_ASYNC_BASE_URL": url,
            "ALUMA_CLIENT_ID": "simulated-client",
            "ALUMA_CLIENT_SECRET": "simulated-secret",
            "ALUMA_ASYNC_STATE": str(tmp_path / "state"),
        }
        server.kill()


def test_the_two_set_up_commands_are_one_line_each_and_first_in_their_sections():
    demo, tests = blocks("sh", "Quick start")[0], blocks("sh", "Development")[0]
    assert demo.count("\n") == tests.count("\n") == 1
    assert demo.strip().endswith("aluma-async demo")
    assert tests.strip().endswith("-m pytest")
    ci = (ROOT / ".ci" / "run").read_text()
    assert "## Development" in ci


def test_the_quick_start_ends_well_with_files_that_open(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    last = blocks("sh", "Quick start")[0].split("&&")[-1].split()
    done = subprocess.run([ALUMA_ASYNC, *last[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Exported  200 tasks" in done.stderr
    assert "every byte is as it was there" in done.stderr
    pdfs = list((tmp_path / "aluma-export").rglob("*.pdf"))
    assert len(pdfs) > 200
    for path in pdfs[::10]:
        assert pypdf.PdfReader(path, strict=True).pages[0].extract_text()


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_each_command_does_what_it_says(command, aluma, tmp_path):
    """Those that go on until stopped are stopped, and end well, too."""
    endless = "simulate" in command or ("--once" not in command and command[0].startswith("-"))
    if not endless:
        done = subprocess.run(
            [ALUMA_ASYNC, *command], env=aluma, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return
    with subprocess.Popen(
        [ALUMA_ASYNC, *command, *(["--port", "0"] if "simulate" in command else [])],
        env=aluma,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        wanted = "Simulated" if "simulate" in command else "exported"
        assert any(wanted in line for line in running.stdout)  # it is up
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0


def test_the_code_runs_as_it_stands(aluma, tmp_path):
    configured, own, *_ = blocks("python", "Embedding")
    config = 'aluma.base_url = "{}"\ndestinations.default = {{ type = "folder", path = "out" }}\nexporter.state = "s"\n'
    (tmp_path / "config.toml").write_text(config.format(aluma["ALUMA_ASYNC_BASE_URL"]))
    for code in (configured, "import asyncio\n" + own + textwrap.dedent("\nasyncio.run(main())\n")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=aluma, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.pdf"))) == 30


def test_every_benchmark_runs(tmp_path):
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--tiny", "--json", figures],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert {"floor", "aluma-async", "aiohttp + aiofiles", "requests", "httpx"} <= {one["contender"] for one in found}
    kinds = {"small", "bulk", "50 ms", "stragglers", "memory", "rows into PostgreSQL"}
    assert {one["scenario"].partition(",")[0] for one in found} == kinds
    assert all(value > 0 for one in found for value in one["values"])
