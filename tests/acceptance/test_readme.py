"""The README: its two set-up commands, its length, and the way of a new user."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from aluma_async.testing import SimulatedAluma
from tests.support.files import ROOT
from tests.support.markdown import README, code, section
from tests.support.processes import MAX_SECONDS, simulator

TEXT = README.read_text("utf-8")
ALUMA_ASYNC = str(Path(sys.executable).parent / "aluma-async")


def test_readme_set_up_commands_are_single_lines_that_begin_sections():
    demo, tests = (code(section(TEXT, heading), "sh")[0] for heading in ("Quick start", "Development"))
    assert demo.count("\n") == tests.count("\n") == 1
    assert demo.strip().endswith("aluma-async demo")
    assert tests.strip().endswith("-m pytest")


def test_ci_runs_the_test_command_of_the_readme():
    ci = (ROOT / ".ci" / "run").read_text()
    script = re.search(r"command=\$\((awk .*)\)$", ci, re.MULTILINE)[1]
    command = subprocess.run(script, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert command == code(section(TEXT, "Development"), "sh")[0]


def test_readme_has_at_most_180_lines():
    assert len(TEXT.splitlines()) <= 180


def test_quick_start_exports_files_that_open(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    arguments = code(section(TEXT, "Quick start"), "sh")[0].split("&&")[-1].split()[1:]
    done = subprocess.run([ALUMA_ASYNC, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert done.returncode == 0, done.stderr
    assert "Exported  200 tasks" in done.stderr
    assert "all are identical to the originals" in done.stderr
    pdfs = list((tmp_path / "aluma-export").rglob("*.pdf"))
    assert len(pdfs) > 200
    for path in pdfs[::10]:
        assert pypdf.PdfReader(path, strict=True).pages[0].extract_text()


def test_every_command_after_the_quick_start_finds_the_program():
    """The quick start installs into `.venv`; the line that puts it on the path precedes all other commands."""
    quick_start, rest = section(TEXT, "Quick start"), TEXT[TEXT.index("## With an account") :]
    assert code(quick_start, "sh")[-1].strip() == 'export PATH="$PWD/.venv/bin:$PATH"'
    assert "aluma-async" in "".join(code(rest, "sh"))


def test_configuration_of_the_readme_works(run_cli, tmp_path):
    """With the secret in the file that it names, and another folder for the files."""
    text = code(section(TEXT, "Configure it"), "toml")[0]
    (tmp_path / "config.toml").write_text(text.replace("/srv/aluma-export", "export").replace("9464", "0"))
    secret = tmp_path / ".config" / "aluma-async" / "secret"
    secret.parent.mkdir(parents=True)
    secret.write_text(SimulatedAluma.client_secret + "\n")
    secret.chmod(0o600)
    with simulator("--tasks", "20", "--profile", "small") as aluma:
        checked = run_cli("check", "--base-url", aluma.base_url, secret="")
        assert checked.returncode == 0, checked.stdout
        exported = run_cli("--once", "--base-url", aluma.base_url, secret="")
        assert exported.returncode == 0, exported.stderr
    assert len(list((tmp_path / "export").glob("*.pdf"))) == 20
