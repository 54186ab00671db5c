"""``aluma-async help``: the reference pages in the terminal."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aluma_async.cli.markdown import render
from tests.support.markdown import PAGES, page
from tests.support.processes import MAX_SECONDS

BIN = str(Path(sys.executable).parent)


def help_output(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [f"{BIN}/aluma-async", *arguments]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=MAX_SECONDS)


def test_help_lists_every_page():
    listed = [line.split()[0] for line in help_output("help").stdout.split("\n\n")[0].splitlines()]
    assert sorted(listed) == [path.stem for path in PAGES]
    assert "help" in help_output("--help").stdout


def test_help_prints_a_page_as_markdown_when_it_is_piped():
    done = help_output("help", "operations")
    assert (done.returncode, done.stdout) == (0, page("operations"))


def test_help_names_the_nearest_page_for_an_unknown_one():
    done = help_output("help", "operation")
    assert done.returncode == 2
    assert "Did you mean 'operations'?" in done.stderr


def test_help_completes_pages():
    done = help_output(COMP_WORDS="aluma-async help d", COMP_CWORD="2", _ALUMA_ASYNC_COMPLETE="bash_complete")
    assert done.stdout.split() == ["plain,destinations", "plain,design"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_help_renders_a_page_without_cutting_words(path):
    """A narrow terminal shows every word; a link between pages becomes the command that shows the other page."""
    text = re.sub(r"\x1b\[[\d;]*m", "", render(path.read_text("utf-8"), 80))
    assert max(map(len, text.splitlines())) <= 80
    assert not [other for other in PAGES if other.name in text]
    assert text.count("…") <= path.read_text("utf-8").count("…")


@pytest.mark.parametrize(
    "arguments", [["help", "--color", "always", "design"], ["--color", "always", "help", "design"]]
)
def test_help_has_styles_in_a_pipe_when_they_are_chosen(arguments):
    done = help_output(*arguments, NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert "\x1b[" in done.stdout
    assert "# Design" not in done.stdout


@pytest.mark.parametrize(("color", "has_styles"), [("auto", True), ("never", False)])
def test_help_is_rendered_and_paged_on_a_terminal(color, has_styles, tmp_path):
    pty = pytest.importorskip("pty")
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\ncat > {tmp_path}/paged\n")
    pager.chmod(0o755)
    controller, terminal = pty.openpty()
    command = [f"{BIN}/aluma-async", "help", "--color", color, "operations"]
    environ = {**os.environ, "PAGER": str(pager), "TERM": "xterm"}
    done = subprocess.run(
        command, env=environ, stdin=terminal, stdout=terminal, stderr=subprocess.PIPE, timeout=MAX_SECONDS
    )
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 0, done.stderr
    paged = (tmp_path / "paged").read_text()
    assert ("\x1b[" in paged) is has_styles
    assert "# Operations" not in paged
