"""Shell completion: the printed scripts, run by their shells."""

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
from tests.support.processes import MAX_SECONDS

BIN = str(Path(sys.executable).parent)


def run(command, **environ):
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environ}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=MAX_SECONDS)


@cache
def script(shell):
    done = run(["aluma-async", "completion", shell])
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complete(shell, *words):
    """Run the code of the script that Tab runs in this shell."""
    if shell == "bash":
        line = f"""
            {script("bash")}
            COMP_WORDS=({" ".join(words)!s} ''); COMP_CWORD={len(words) - 1}
            _aluma_async_completion aluma-async; printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        return run(["bash", "--norc", "-c", line])
    if shell == "fish":
        return run(["fish", "--no-config", "-c", f"{script('fish')}\ncomplete -C '{' '.join(words)}'"])
    if shell == "zsh":  # its completion needs a terminal, so pass the words as the script does
        env = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        return run(["zsh", "-f", "-c", "_ALUMA_ASYNC_COMPLETE=zsh_complete aluma-async"], **env)
    env = {"COMP_WORDS": " ".join(words), "COMP_INCOMPLETE": words[-1], "_ALUMA_ASYNC_COMPLETE": "powershell_complete"}
    return run(["aluma-async"], **env)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_shell_completes_commands_options_and_choices(shell):
    if shell != "powershell" and not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    for words, expected, other in (
        (["aluma-async", "sta"], "status", "retry"),
        (["aluma-async", "--max-at"], "--max-at-once", "--workers"),
        (["aluma-async", "list", "--sort", "pro"], "project", "age"),
        (["aluma-async", "config", "s"], "show", "status"),
    ):
        done = complete(shell, *words)
        proposals = {line.split("\t")[0] for line in done.stdout.splitlines()}
        assert expected in proposals, done
        assert other not in proposals


def test_completion_scripts_have_valid_syntax(tmp_path):
    for shell in ("bash", "zsh", "fish"):
        if shutil.which(shell):
            file = tmp_path / shell
            file.write_text(script(shell))
            assert run([shell, "-n", str(file)]).returncode == 0
    assert "Register-ArgumentCompleter -Native -CommandName aluma-async" in script("powershell")


def test_powershell_proposals_contain_help_texts():
    lines = complete("powershell", "aluma-async", "").stdout.splitlines()
    help_texts = dict(line.split("\t") for line in lines)
    assert help_texts["retry"].startswith("Retry tasks")


def test_retry_proposes_tasks_on_hold(tmp_path):
    async def hold(*ids):
        journal = SqliteJournal(tmp_path)
        await journal.load()
        await journal.write(*(HoldRecord(task_id, Timestamp("boot", 0.0, 0.0), 60.0) for task_id in ids))
        journal.close()

    asyncio.run(hold("abc", "abd", "xyz"))
    proposals = complete("powershell", "aluma-async", "retry", "--state", str(tmp_path), "ab").stdout.splitlines()
    assert proposals == ["abc", "abd"]
    assert complete("powershell", "aluma-async", "retry", "--state", str(tmp_path / "none"), "ab").stdout.split() == []
