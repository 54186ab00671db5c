"""Every name that users rely on exists: commands, options, exit codes, config keys, metrics, imports, JSON keys.

The names stand here in full, so that a renamed one fails a test.
"""

import json
import re
from importlib import import_module
from inspect import iscoroutinefunction, signature

import click
import pytest

from aluma_async import Delivery, Exporter, exceptions
from aluma_async.cli import exit_codes
from aluma_async.cli.completion import SHELLS
from aluma_async.cli.main import cli as program
from aluma_async.config import Config
from aluma_async.config.destinations import DESTINATION_TYPES, installed_types
from aluma_async.config.sections import RouteConfig
from aluma_async.service.metrics import Metrics
from aluma_async.service.stats import RunStats
from tests.support.processes import simulator

OPTIONS = {
    "": "-c --config -w --workers --processes -o --output --base-url --allow-insecure --once --dry-run --limit --task"
    " --project --max-at-once --max-per-second --max-bytes-per-second --claim-timeout --drain-timeout --state --listen"
    " --progress --no-progress --color --log-format -v -q --version",
    "demo": "--tasks --color",
    "help": "--color",
    "init": "--client-id --no-check --unit --config --output --base-url",
    "check": "--config-only --workers --once --limit --listen --progress",
    "doctor": "--config --output --state --workers",
    "list": "--json --destinations --sort --older-than",
    "status": "--json",
    "history": "--json --since --task --limit",
    "retry": "--all",
    "redeliver": "--all --incomplete --replace --output --workers --color",
    "fail": "--reason --yes --output",
    "quarantine list": "--json",
    "quarantine show": "--json",
    "quarantine export": "",
    "quarantine delete": "--yes",
    "cancel": "--yes",
    "config show": "--json",
    "config schema": "",
    "simulate": "--max-listed --malformed-row",
    "systemd": "--template",
    "monitoring dashboard": "--config",
    "monitoring alerts": "--config",
    "completion": "",
}
"""Command -> its options."""

EXIT_CODES = {
    "OK": 0,
    "INCOMPLETE": 1,
    "UNAVAILABLE": 69,
    "STATE_IN_USE": 75,
    "AUTH_FAILED": 77,
    "MISCONFIGURED": 78,
    "INTERRUPTED": 130,
}

CONFIG_KEYS = {
    "aluma": "base_url client_id client_secret_file claim_timeout_seconds task_deadline_seconds projects download_hosts"
    " allow_insecure ca_file proxy",
    "exporter": "workers processes queue_size drain_timeout_seconds poll_wait_initial_seconds poll_wait_max_seconds"
    " state quarantine_max_bytes",
    "limits": "max_at_once max_per_second max_bytes_per_second min_bytes_per_second max_file_bytes adaptive"
    " max_files max_specification_bytes",
    "retry": "attempts wait_initial_seconds wait_max_seconds cooldown_initial_seconds cooldown_max_seconds park_after"
    " park_seconds",
    "service": "listen log_format log_level stuck_after_seconds notify_command notify_url notify_task_age_seconds"
    " history_names",
}

DESTINATION_KEYS = {
    "folder": "path newline on_conflict durability manifest",
    "sql": "url url_file url_env table key create mode column_types column_names header_names delimiter encoding"
    " decimal date_format trigger_columns manifest",
    "object-store": "url options on_conflict manifest",
    "webdav": "url username password_file token_file on_conflict manifest allow_insecure ca_file",
}

ROUTE_KEYS = "project folder filename source to"

VALUES = """
[exporter]
workers = 1
[service]
log_format = "json"
[[routes]]
source = "content"
to = ["keep-both", "overwrite", "fail", "rows", "files"]
[[routes]]
source = "url"
to = ["keep-both"]
[destinations.keep-both]
type = "folder"
path = "a"
newline = "keep"
on_conflict = "keep-both"
durability = "full"
[destinations.overwrite]
type = "folder"
path = "b"
newline = "crlf"
on_conflict = "overwrite"
durability = "rename"
[destinations.fail]
type = "object-store"
url = "s3://bucket/prefix"
on_conflict = "fail"
[destinations.rows]
type = "sql"
url = "sqlite:///a.db"
table = "{folder}_{stem}"
mode = "rows"
[destinations.files]
type = "sql"
url_env = "URL"
table = "files"
mode = "files"
"""
"""Every value that is a name."""

METRICS = {
    "aluma_export_tasks_total",
    "aluma_export_task_duration_seconds",
    "aluma_export_files_total",
    "aluma_export_bytes_total",
    "aluma_export_in_flight",
    "aluma_export_queue_depth",
    "aluma_export_cooldown_tasks",
    "aluma_export_parked_tasks",
    "aluma_export_oldest_pending_task_age_seconds",
    "aluma_export_http_retries_total",
    "aluma_export_last_poll_success_timestamp_seconds",
    "aluma_export_concurrency_limit",
    "aluma_export_paused",
    "aluma_export_parked_task_seconds_left",
    "aluma_export_quarantined_tasks",
    "aluma_export_quarantine_bytes",
    "aluma_export_quarantine_max_bytes",
    "aluma_export_failed_copies_total",
}
OUTCOMES = {"exported", "failed", "cancelled", "parked", "released", "refused", "lost"}

PUBLIC = {
    "aluma_async": "Exporter open_exporter Config AlumaClient FolderDestination TaskSource Destination Delivery events"
    " exceptions Credentials Summary Backoff RetryPolicy RequestLimiter Journal OnEvent Clock Claim ExportFile"
    " ExportSpec ExportTask Snapshot Monitor BeforeComplete Timestamp open_client",
    "aluma_async.config": "AlumaConfig Config Credentials ExporterConfig FolderConfig LimitsConfig ObjectStoreConfig"
    " PluginConfig RetryConfig RouteConfig ServiceConfig SqlConfig WebDavConfig",
    "aluma_async.testing": "SimulatedAluma SimulatedSource MemoryDestination check_destination check_task_source",
    "aluma_async.events": "TasksListed ClaimingStillPaused RequestsPaused FailureBreakerOpened ClaimRefused FileStaged"
    " ConcurrencyLimitChanged SettlementUnconfirmed SettlementDeferred TaskStarted TaskCompleted TaskFailed"
    " TaskCancelled TaskParked TaskReleased ClaimLost RowSkipped DrainStarted",
    "aluma_async.exceptions": "ClaimConflict InvalidResponse SchemaMismatch UnexportableTask JournalLocked"
    " AuthenticationFailed Ambiguous Unavailable Unreachable RateLimited FileMissing",
}
"""Module -> names that it exports."""

STATUS_KEYS = (
    "state",
    "exported_in_24_hours",
    "seconds_since_last_export",
    "in_hand",
    "cooling_down",
    "parked",
    "quarantined",
    "failure_limits",
)


def commands(group, name=""):
    """Yield each command below a group with its name, and the group itself."""
    yield name, group
    for command in group.commands.values() if isinstance(group, click.Group) else ():
        yield from commands(command, f"{name} {command.name}".strip())


@pytest.mark.parametrize("name", OPTIONS)
def test_command_has_its_options(name):
    options = {flag for option in dict(commands(program))[name].params for flag in option.opts + option.secondary_opts}
    assert set(OPTIONS[name].split()) <= options


def test_option_values_are_those_of_the_contract():
    options = {option.name: option for option in program.params}
    assert list(options["log_format"].type.choices) == ["text", "json"]
    sort = next(option for option in program.commands["list"].params if option.name == "sort")
    assert set(sort.type.choices) == {"age", "name", "project"}
    assert set(SHELLS) == {"bash", "zsh", "fish", "powershell"}


def test_help_has_two_options(run_cli):
    for option in ("-h", "--help"):
        assert run_cli(option).stdout.startswith("Usage: aluma-async")


def test_exit_codes_have_their_values():
    assert {name: getattr(exit_codes, name) for name in EXIT_CODES} == EXIT_CODES
    assert click.UsageError.exit_code == 2


def test_config_sections_have_their_keys():
    config = Config()
    for section, keys in CONFIG_KEYS.items():
        assert set(keys.split()) <= set(getattr(config, section).__struct_fields__)
    assert set(ROUTE_KEYS.split()) <= set(RouteConfig.__struct_fields__)


def test_destination_types_have_their_keys():
    for kind, keys in DESTINATION_KEYS.items():
        assert set(keys.split()) <= set(DESTINATION_TYPES[kind].__struct_fields__)


def test_config_accepts_every_value_of_the_contract():
    config = Config.from_toml(VALUES, "values.toml")
    assert len(config.destinations) == 5
    assert len(config.routing().routes) == 2


def test_metrics_have_their_names_and_labels():
    page = Metrics(RunStats(), limit=1).page()[0].decode()
    assert set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE)) >= METRICS
    assert set(re.findall(r'^aluma_export_tasks_total\{outcome="(\w+)"\}', page, re.MULTILINE)) == OUTCOMES
    assert re.search(r'^aluma_export_http_retries_total\{reason="\w+"\}', page, re.MULTILINE)


@pytest.mark.parametrize("module", PUBLIC)
def test_module_exports_its_public_names(module):
    for name in PUBLIC[module].split():
        assert getattr(import_module(module), name)


def test_library_has_its_public_members():
    assert iscoroutinefunction(Exporter.run)
    assert iscoroutinefunction(Exporter.run_until_drained)
    assert callable(Exporter.stop)
    assert callable(Delivery.resumable_size)
    parameters = signature(import_module("aluma_async").open_exporter).parameters
    assert {"on_event", "destinations", "select", "before_complete", "source", "session", "retry", "clock"} <= {
        *parameters
    }
    assert callable(Exporter.snapshot)
    assert issubclass(exceptions.ClaimConflict, exceptions.AlumaAsyncError)


def test_entry_point_group_of_plugins_has_its_name(tmp_path, monkeypatch):
    package = tmp_path / "plugin-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[aluma_async.destinations]\nblobs = plugin:Blobs\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "blobs" in installed_types()


def test_json_output_has_its_keys(run_cli):
    assert list(json.loads(run_cli("status", "--json").stdout)) == list(STATUS_KEYS)
    with simulator("--tasks", "3", "--profile", "small") as aluma:
        rows = json.loads(run_cli("list", "--json", "--base-url", aluma.base_url).stdout)
        done = run_cli("--once", "-o", "out", "--log-format", "json", "--base-url", aluma.base_url)
    assert set(rows[0]) >= {"id", "project_id", "project_name", "name", "created_at", "age_seconds"}
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "event", "message"} <= set(line) for line in lines)
    assert "not_exported" in next(line for line in lines if line["event"] == "RunSummary")
    row = json.loads(run_cli("history", "--json").stdout.splitlines()[0])
    assert set(row) >= {"time", "task", "files", "bytes", "seconds", "destinations"}
