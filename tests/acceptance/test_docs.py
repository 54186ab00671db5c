"""README and reference pages: every sample works, every link leads somewhere, and nothing is missing."""

import ast
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import anyio
import click
import pytest
import yaml
from msgspec import structs

import aluma_async
from aluma_async.cli import exit_codes
from aluma_async.cli.main import cli
from aluma_async.config import Config, Credentials
from aluma_async.config.destinations import DESTINATION_TYPES, PluginConfig
from aluma_async.config.sections import RouteConfig
from aluma_async.deploy.monitoring import alerts
from aluma_async.models import ExportTask
from aluma_async.quarantine.records import QuarantineRecord
from aluma_async.service.metrics import OUTCOMES, REASONS, Metrics
from aluma_async.service.notifications import KINDS, Notification
from aluma_async.service.stats import RunStats
from aluma_async.supervisor.metrics import MergedMetrics
from aluma_async.testing import SimulatedAluma
from aluma_async.wiring import open_client
from tests.support.files import ROOT
from tests.support.markdown import (
    DOCUMENTS,
    Block,
    anchors,
    blocks,
    code,
    languages,
    links,
    page,
    quoted,
    rows,
    section,
)
from tests.support.processes import MAX_SECONDS, environment, simulator
from tests.support.quarantine import make_copy, specification

BIN = str(Path(sys.executable).parent)
BENCHMARKS = ROOT / "benchmarks" / "README.md"
NOT_RUN = {"export", "podman", "python3", "sudo"}
"""First words of the lines in `sh` blocks that change more than the current folder."""
CONFIG = """
aluma.base_url = "{url}"
exporter.state = "state"
destinations.default = {{ type = "folder", path = "out" }}
"""
SECTIONS = {f.name: f.type for f in structs.fields(Config) if f.name not in ("destinations", "routes")}
DESTINATION_HEADINGS = {"folder": "Folder", "sql": "Database", "object-store": "Object store", "webdav": "WebDAV"}


# -- samples


def shell_lines() -> Iterator[Block]:
    for block in blocks("sh"):
        for number, line in enumerate(block.text.replace("\\\n", "  ").splitlines()):
            yield Block(block.page, block.line + number, line)


def commands() -> list[Block]:
    """Return the lines to run, without the repetitions of a command."""
    lines = [line for line in shell_lines() if line.text.split()[0] not in NOT_RUN]
    return list({line.text.partition("#")[0].strip(): line for line in lines}.values())


@pytest.fixture
def environ(tmp_path):
    """The environment of a shell in a folder with a configuration file."""
    (tmp_path / "config.toml").write_text(CONFIG.format(url="http://127.0.0.1:1"))
    return environment(tmp_path, SimulatedAluma.client_secret, {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"})


@pytest.fixture
def aluma(environ, tmp_path):
    """A simulated Aluma with 30 tasks, to which the configuration file leads."""
    with simulator("--tasks", "30", "--profile", "small") as running:
        (tmp_path / "config.toml").write_text(CONFIG.format(url=running.base_url))
        yield running


def claim_one(folder: Path) -> str:
    """Claim a task as an exporter would that then disappears."""
    config = Config.load(folder / "config.toml")
    credentials = Credentials(SimulatedAluma.client_id, SimulatedAluma.client_secret)

    async def claim() -> str:
        async with open_client(config, credentials) as client:
            tasks = [task async for listed in client.list_pending() for task in listed if task.id[0] != "-"]
            return (await client.start(tasks[0])).task.id

    return anyio.run(claim)


def copy_one(folder: Path) -> str:
    """Store a copy of a task in the quarantine."""
    record = QuarantineRecord(ExportTask("t1"), "DestinationError", "the column is too narrow")
    make_copy(folder / "state" / "quarantine" / "t1", record, spec=specification(("", "a.csv", "x,y")))
    return "t1"


def test_code_blocks_have_a_language_that_is_tested():
    assert languages() <= {"sh", "python", "toml", "json", "yaml", "text"}


def test_shell_samples_that_are_not_run_are_known():
    """A line is run unless it begins with one of a few programs, so no command can hide behind another one."""
    for line in shell_lines():
        words = shlex.split(line.text, comments=True)
        if words[0] in NOT_RUN and words[0] != "python3":
            assert "aluma-async" not in words[1:2], line


@pytest.mark.parametrize("line", commands(), ids=lambda line: f"{line}: {line.text.partition('#')[0].strip()}")
def test_command_works(line, environ, tmp_path, request):
    """Commands that run until stopped are stopped, and must then exit with code 0."""
    text = line.text
    if re.search("aluma-async (--|check|doctor|list|cancel)", text):
        request.getfixturevalue("aluma")
    if "TASK_ID" in text:
        text = text.replace(
            "TASK_ID", copy_one(tmp_path) if re.search("redeliver|quarantine", text) else claim_one(tmp_path)
        )
    if re.search("aluma-async (status|history|retry|redeliver|quarantine)", text):
        (tmp_path / "state" / "quarantine").mkdir(parents=True, exist_ok=True)  # as an exporter does
    words = shlex.split(text, comments=True)
    single_run = {"--once", "--dry-run", "--limit", "--task"} & set(words)
    endless = "simulate" in words or (not single_run and words[0] == "aluma-async" and words[1][0] == "-")
    if not endless:
        done = subprocess.run(
            ["bash", "-c", text], env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=MAX_SECONDS
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return
    more = ["--port", "0"] if "simulate" in words else []
    with subprocess.Popen(
        [*words, *more],
        executable=f"{BIN}/aluma-async",
        env=environ,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        wanted = "Simulated" if "simulate" in words else "exported"
        assert any(wanted in output for output in running.stdout)  # it runs
        running.send_signal(signal.SIGINT)
        assert running.wait(MAX_SECONDS) == 0


@pytest.mark.parametrize("block", [block for block in blocks("python") if "asyncio.run(" in block.text], ids=str)
def test_python_sample_runs(block, environ, aluma, tmp_path):
    command = [sys.executable, "-c", block.text]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=MAX_SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "a sample shows that it does something"
    if "open_exporter" in block.text:
        assert len(list((tmp_path / "out").glob("*.pdf"))) == 30


def test_python_samples_that_do_not_run_alone_are_the_plugin_and_its_test():
    """`test_plugin` installs and runs these two."""
    others = [block.text for block in blocks("python") if "asyncio.run(" not in block.text]
    assert others == code(section(page("embedding"), "Your own destination"), "python")


@pytest.mark.parametrize("block", [block for block in blocks("toml") if "[project." not in block.text], ids=str)
def test_toml_sample_is_a_configuration(block):
    config = Config.from_toml(block.text, str(block))
    config.routing()


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_json_sample_has_the_fields_of_the_program(block):
    sample = json.loads(block.text)
    if "event" in sample:
        assert sample.keys() <= set(Notification.__struct_fields__)
        assert sample["event"] in KINDS
    else:
        assert manifest_shape(sample) == manifest_shape(rendered_manifest())


def rendered_manifest() -> dict:
    from aluma_async.destinations.common.manifest import StoredFile, render_manifest
    from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask

    file = ExportFile(0, 0, "as", "specified.pdf", "content")
    claim = Claim(ExportTask("id"), ExportSpec((file,)), 0.0)
    return json.loads(render_manifest(claim, [StoredFile(file, "as/stored.pdf", 3, "…")], 0.0))


def manifest_shape(manifest: dict) -> tuple:
    return manifest["version"], list(manifest), list(manifest["task"]), [list(file) for file in manifest["files"]]


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_sample_is_yaml(block):
    assert yaml.safe_load(block.text)


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, ROOT / "benchmarks" / "README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_link_leads_to_a_file_and_a_heading(path):
    for link in links(path):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


# -- completeness


def check_table(text: str, kind: type) -> None:
    """Check that a table names exactly the keys of a section, each with its default."""
    table = {key: row for row in rows(text) for key in quoted(row[0])}
    assert set(table) == set(kind.__struct_fields__)
    for field in structs.fields(kind):
        shown = table[field.name][1].strip("`")
        if "required" in shown:
            continue
        default = field.default_factory() if field.default is structs.NODEFAULT else field.default
        value = None if shown == "none" else tomllib.loads(f"value = {shown}")["value"]
        assert value == (list(default) if isinstance(default, tuple) else default) or not (value or default)


@pytest.mark.parametrize("name", SECTIONS)
def test_configuration_page_lists_every_key_with_its_default(name):
    check_table(section(page("configuration"), f"`[{name}]`"), SECTIONS[name])


@pytest.mark.parametrize("name", DESTINATION_TYPES)
def test_destinations_page_lists_every_key_with_its_default(name):
    check_table(section(page("destinations"), DESTINATION_HEADINGS[name]), DESTINATION_TYPES[name])


def test_embedding_page_lists_every_argument_of_open_exporter():
    listed = {name for row in rows(section(page("embedding"), "Run an exporter")) for name in quoted(row[0])}
    assert listed | {"config", "credentials"} == set(inspect.signature(aluma_async.open_exporter).parameters)


def test_embedding_page_names_every_class_of_the_configuration():
    """The public module has all of them, so that no program has to import an inner one."""
    text = section(page("embedding"), "Configuration in code")
    classes = {*SECTIONS.values(), *DESTINATION_TYPES.values(), RouteConfig, PluginConfig}
    assert {kind.__name__ for kind in classes} <= set(aluma_async.config.__all__) & set(quoted(text))


def test_destinations_page_lists_every_key_of_a_route():
    keys = {key for row in rows(section(page("destinations"), "Routes")) for key in quoted(row[0])}
    assert keys == set(RouteConfig.__struct_fields__)


def test_operations_page_lists_every_exit_code():
    codes = {value for name, value in vars(exit_codes).items() if name.isupper() and isinstance(value, int)}
    listed = {int(row[0]) for row in rows(section(page("operations"), "Signals and exit codes"))}
    assert listed == codes | {click.UsageError.exit_code}


def test_operations_page_lists_every_command():
    def names(command: click.Command, path: str = "") -> Iterator[str]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from names(inner, f"{path} {name}".strip())
        if not getattr(command, "commands", {}):
            yield path

    listed = [name for row in rows(section(page("operations"), "Commands")) for name in quoted(row[0])]
    assert set(listed) == {*names(cli), "aluma-async"}


def test_monitoring_page_lists_every_metric_outcome_and_reason():
    text = section(page("monitoring"), "Metrics")
    listed = {re.sub(r"\{.*", "", name) for row in rows(text) for name in quoted(row[0])}
    metrics = [*Metrics(RunStats(), limit=1).collect(), *MergedMetrics([], []).collect()]
    exposed = {metric.name + ("_total" if metric.type == "counter" else "") for metric in metrics}
    assert listed == exposed
    assert {*OUTCOMES.values(), *REASONS} <= set(quoted(text))


def test_monitoring_page_has_a_section_for_every_alert():
    rules = yaml.safe_load(alerts())["groups"][0]["rules"]
    headings = re.findall(r"^### (\w+)$", section(page("monitoring"), "Dashboard and alerts"), re.MULTILINE)
    assert headings == [rule["alert"] for rule in rules]


def test_monitoring_page_lists_every_notification():
    assert set(KINDS) <= set(quoted(section(page("monitoring"), "Notifications")))


def program_texts() -> Iterator[str]:
    """Yield all string literals of the program, with a line break in place of each variable part."""
    for path in Path(aluma_async.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\n" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"\{.*?\}", "\n", node.value)


def test_troubleshooting_page_quotes_messages_of_the_program():
    """The fixed parts of each message stand in one string of the program, in this order."""
    texts = list(program_texts())
    messages = re.findall(r"^\*\*`(.+?)`\*\*", page("troubleshooting"), re.MULTILINE)
    assert len(messages) > 40
    for message in messages:
        parts = [re.escape(part) for part in message.split("…") if part.strip()]
        pattern = re.compile(r"\s[^`]*?".join(parts) if len(parts) > 1 else parts[0])
        assert any(pattern.search(text) for text in texts), f"{message}: not a message of the program"


def test_pages_are_part_of_the_package():
    """The build takes everything below the package."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build == {"packages": ["aluma_async"]}
