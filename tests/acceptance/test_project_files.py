"""``.github``: workflows with few rights and pinned actions, and documents whose links and commands exist."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from aluma_async.cli.main import cli
from tests.support.files import ROOT
from tests.support.markdown import anchors, links, quoted

FOLDER = ROOT / ".github"
WORKFLOWS = sorted((FOLDER / "workflows").glob("*.yml"))
FORMS = [FOLDER / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]
DOCUMENTS = sorted(FOLDER.glob("*.md"))
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
ACTIONLINT = shutil.which("actionlint", path=str(Path(sys.executable).parent)) or shutil.which("actionlint")
REGISTRY_HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))]


def name_of(path):
    return str(path.relative_to(FOLDER))


def load(name):
    """Return a workflow; YAML 1.1 reads its key ``on`` as True."""
    return yaml.safe_load((FOLDER / "workflows" / name).read_text("utf-8"))


def jobs(path):
    return yaml.safe_load(path.read_text("utf-8"))["jobs"]


def steps(path):
    return [step for job in jobs(path).values() for step in job.get("steps", ())]


# -- workflows


@pytest.mark.skipif(not ACTIONLINT, reason="actionlint has no wheel without a download from elsewhere")
def test_workflows_pass_actionlint():
    done = subprocess.run([ACTIONLINT, *WORKFLOWS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflow_pins_every_action_to_a_commit(path):
    """A tag can be moved to other code; the comment names the version of the commit."""
    used = re.findall(r"uses: (.+)", path.read_text("utf-8"))
    assert used
    for action in used:
        assert action.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflow_may_only_read_but_where_it_publishes(path):
    assert yaml.safe_load(path.read_text("utf-8"))["permissions"] == {"contents": "read"}
    for name, job in jobs(path).items():
        if name == "publish":
            assert (job["permissions"], job["environment"]) == ({"id-token": "write"}, "release")
        else:
            assert "permissions" not in job


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflow_uses_no_secret_and_no_text_of_others(path):
    """A title or branch name that is inserted into a script would be executed."""
    assert "secrets." not in path.read_text("utf-8")
    for step in steps(path):
        assert "${{" not in step.get("run", ""), step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_workflow_limits_the_time_of_every_job(path):
    for job in jobs(path).values():
        assert "uses" in job or job["timeout-minutes"] <= 90


def test_tests_run_on_all_systems_and_supported_versions_of_python():
    matrix = load("tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["classifiers"]
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)", " ".join(classifiers))


def test_release_publishes_only_what_was_tested_and_built():
    workflow = load("release.yml")
    assert workflow[True] == {"push": {"tags": ["v[0-9]*"]}}
    needs = {name: job.get("needs") for name, job in workflow["jobs"].items()}
    assert needs == {"tests": None, "build": "tests", "publish": "build"}


@pytest.mark.parametrize(("tag", "accepted"), [("v{}", True), ("{}", False), ("v9.9.9", False)])
def test_release_refuses_a_tag_that_is_not_the_version(tag, accepted, tmp_path):
    (script,) = [
        step["run"] for step in steps(FOLDER / "workflows" / "release.yml") if "Compare" in step.get("name", "")
    ]
    (tmp_path / "aluma_async").mkdir()
    (tmp_path / "aluma_async" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.2.3] - 2026-12-01\n")
    environ = {"GITHUB_REF_NAME": tag.format("1.2.3"), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    (tmp_path / "python").symlink_to(sys.executable)
    done = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode == 0) is accepted, done.stderr
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")
    assert subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environ, capture_output=True).returncode != 0


# -- documents and forms


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_project_file_names_no_host_of_a_package_registry(path):
    """Where packages come from is decided by the configuration of pip and of the release environment."""
    text = path.read_text("utf-8")
    assert not [host for host in REGISTRY_HOSTS if host in text]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_document_has_links_that_lead_to_a_file_and_a_heading(path):
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", [*DOCUMENTS, *FORMS], ids=name_of)
def test_document_names_commands_and_files_that_exist(path):
    text = path.read_text("utf-8")
    for command in re.findall(r"[`']aluma-async ([\w-]+)(?: ([a-z]+))?", text):
        if command[0].startswith("-"):
            assert command[0] == "--version"
            continue
        inner = cli.commands[command[0]]
        assert not command[1] or command[1] in getattr(inner, "commands", {command[1]: None}), command
    for name in quoted(text):
        if re.fullmatch(r"(aluma_async|tests|benchmarks|\.github)/[\w./-]+", name):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("path", FORMS, ids=name_of)
def test_issue_form_is_complete(path):
    form = yaml.safe_load(path.read_text("utf-8"))
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)
    for field in fields:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
        assert ("options" in field["attributes"]) is (field["type"] in ("dropdown", "checkboxes"))


def test_issue_form_asks_not_to_paste_secrets():
    assert "Do not paste secrets" in (FOLDER / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8")
