"""Shells complete commands, options and choices: asked as the shells themselves ask."""

import asyncio
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import HoldRecord, Timestamp

BIN = str(Path(sys.executable).parent)


def ran(command, **environ):
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environ}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)


@cache
def script(shell):
    done = ran(["aluma-async", "completion", shell])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def asked(shell, *words):
    """Run what the printed script runs when Tab is pressed."""
    if shell == "bash":
        line = f"""
            {script("bash")}
            COMP_WORDS=({" ".join(words)!s} ''); COMP_CWORD={len(words) - 1}
            _aluma_async_completion aluma-async; printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        return ran(["bash", "--norc", "-c", line])
    if shell == "fish":
        return ran(["fish", "--no-config", "-c", f"{script('fish')}\ncomplete -C '{' '.join(words)}'"])
    if shell == "zsh":  # its own completion needs a terminal; the script hands over the words just so
        env = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        return ran(["zsh", "-f", "-c", "_ALUMA_ASYNC_COMPLETE=zsh_complete aluma-async"], **env)
    env = {"COMP_WORDS": " ".join(words), "COMP_INCOMPLETE": words[-1], "_ALUMA_ASYNC_COMPLETE": "powershell_complete"}
    return ran(["aluma-async"], **env)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_commands_options_and_choices_are_completed(shell):
    if shell != "powershell" and not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    for words, wanted, other in (
        (["aluma-async", "sta"], "status", "retry"),
        (["aluma-async", "--max-at"], "--max-at-once", "--workers"),
        (["aluma-async", "list", "--sort", "pro"], "project", "age"),
        (["aluma-async", "config", "s"], "show", "status"),
    ):
        done = asked(shell, *words)
        proposed = {line.split("\t")[0] for line in done.stdout.splitlines()}
        assert wanted in proposed, done
        assert other not in proposed


def test_each_script_is_one_that_its_shell_can_read(tmp_path):
    for shell in ("bash", "zsh", "fish"):
        if shutil.which(shell):
            file = tmp_path / shell
            file.write_text(script(shell))
            assert ran([shell, "-n", str(file)]).returncode == 0
    assert "Register-ArgumentCompleter -Native -CommandName aluma-async" in script("powershell")


def test_powershell_is_told_what_a_proposal_does():
    lines = asked("powershell", "aluma-async", "").stdout.splitlines()
    told = dict(line.split("\t") for line in lines)
    assert told["retry"].startswith("Retry tasks")


def test_retry_proposes_what_is_held_back(tmp_path):
    async def hold(*ids):
        journal = SqliteJournal(tmp_path)
        await journal.load()
        await journal.write(*(HoldRecord(task_id, Timestamp("boot", 0.0, 0.0), 60.0) for task_id in ids))
        journal.close()

    asyncio.run(hold("abc", "abd", "xyz"))
    proposed = asked("powershell", "aluma-async", "retry", "--state", str(tmp_path), "ab").stdout.splitlines()
    assert proposed == ["abc", "abd"]
    assert asked("powershell", "aluma-async", "retry", "--state", str(tmp_path / "none"), "ab").stdout.split() == []
