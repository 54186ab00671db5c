"""``aluma-async monitoring``: the dashboard and the alert rules use metrics and paragraphs that exist."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from aluma_async.deploy.monitoring import alerts, dashboard
from aluma_async.deploy.thresholds import Thresholds, thresholds_for
from aluma_async.service.metrics import Metrics
from aluma_async.service.stats import RunStats
from aluma_async.supervisor.metrics import MergedMetrics
from tests.support.files import ROOT
from tests.support.markdown import anchors

METRIC = re.compile(r"(?:aluma_export|process)_\w+")
NOT_SHOWN = {"aluma_export_task_duration_seconds"}
"""Metrics of which only the buckets are shown."""
PROMTOOL = shutil.which("promtool")
with_promtool = pytest.mark.skipif(not PROMTOOL, reason="promtool (Debian package prometheus) is not installed")


def series_names():
    """Return the names of all series that an exporter serves, with one or several processes."""
    pages = [metrics.page()[0].decode() for metrics in (Metrics(RunStats(), limit=1), MergedMetrics([], []))]
    families = re.findall(r"^# TYPE (\w+) (\w+)$", "".join(pages), re.MULTILINE)
    return {name for name, _ in families} | {f"{name}_bucket" for name, kind in families if kind == "histogram"}


def panels():
    return json.loads(dashboard())["panels"]


def queries():
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def rules():
    return yaml.safe_load(alerts())["groups"][0]["rules"]


def promtool(folder, *arguments, **files):
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    done = subprocess.run([PROMTOOL, *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


# -- dashboard


def test_dashboard_shows_all_metrics_that_exist_and_no_others():
    queried = set(METRIC.findall(" ".join(queries())))
    existing = series_names()
    assert queried <= existing
    assert {name for name in existing if name.startswith("aluma")} - queried <= NOT_SHOWN


def test_dashboard_begins_with_a_row_of_single_figures():
    """The oldest pending task comes first; the figures fill the width, and the graphs are below them."""
    figures = [panel for panel in panels() if panel["type"] == "stat"]
    graphs = [panel for panel in panels() if panel["type"] == "timeseries"]
    assert panels() == figures + graphs
    assert "Oldest" in figures[0]["title"]
    assert sum(panel["gridPos"]["w"] for panel in figures) == 24
    assert {panel["gridPos"]["y"] for panel in figures} == {0}
    assert min(panel["gridPos"]["y"] for panel in graphs) == figures[0]["gridPos"]["h"]


def test_dashboard_panels_do_not_overlap():
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels())
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_dashboard_panels_have_a_description_and_a_unit():
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_dashboard_selects_job_and_instance_in_every_query():
    """A dashboard that shows another job's exporters, too, would hide that one of them stands still."""
    names = [variable["name"] for variable in json.loads(dashboard())["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]
    for query in queries():
        selections = re.findall(r"(?:aluma_export|process)_\w+\{([^}]*)\}", query)
        assert len(selections) == len(METRIC.findall(query)), query
        assert all('job=~"$job", instance=~"$instance"' in selection for selection in selections), query


def test_dashboard_and_alerts_take_thresholds_from_the_configuration(run_cli):
    (run_cli.folder / "config.toml").write_text(
        "service.notify_task_age_seconds = 7200\nexporter.poll_wait_max_seconds = 600\n"
    )
    thresholds = thresholds_for(7200, 600)
    assert (thresholds.overdue_seconds, thresholds.aging_seconds, thresholds.silence_seconds) == (7200, 1200, 1800)
    assert run_cli("monitoring", "dashboard", "-c", "config.toml").stdout == dashboard(thresholds)
    assert run_cli("-c", "config.toml", "monitoring", "alerts").stdout == alerts(thresholds)
    assert "> 7200" in alerts(thresholds)
    assert "7200" in dashboard(thresholds)


def test_dashboard_and_alerts_need_no_configuration(run_cli):
    assert run_cli("monitoring", "dashboard").stdout == dashboard()
    assert run_cli("monitoring", "alerts").stdout == alerts()


def test_thresholds_ignore_a_notification_that_is_switched_off():
    assert thresholds_for(0, 60) == Thresholds()


@with_promtool
def test_dashboard_queries_are_accepted_by_promtool(tmp_path):
    """Each query is checked as a recording rule."""
    recorded = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries())]
    groups = {"groups": [{"name": "dashboard", "rules": recorded}]}
    promtool(tmp_path, "check", "rules", "rules.yaml", rules=yaml.safe_dump(groups))


# -- alerts


def test_alert_rules_are_complete_and_start_with_the_oldest_task():
    assert "aluma_export_oldest_pending_task_age_seconds" in rules()[0]["expr"]
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert set(METRIC.findall(rule["expr"])) <= series_names()
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_alert_rules_name_a_paragraph_that_exists():
    for rule in rules():
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert anchor == rule["alert"].lower()
        assert anchor in anchors(ROOT / path)


def test_alert_rules_have_no_unset_threshold():
    assert not re.search(r"\$(?!value|labels)", alerts())


SITUATIONS = {
    "AlumaTasksOverdue": {"aluma_export_oldest_pending_task_age_seconds": "86401+60x240"},
    "AlumaTasksAging": {"aluma_export_oldest_pending_task_age_seconds": "14401+60x240"},
    "AlumaExporterDown": {"up": "0x240"},
    "AlumaPollingStopped": {
        "aluma_export_last_poll_success_timestamp_seconds": "60x240",
        'aluma_export_tasks_total{outcome="exported"}': "7x240",
    },
    "AlumaExportPaused": {"aluma_export_paused": "1x240"},
    "AlumaCredentialsRefused": {"aluma_export_credentials_refused": "1x240"},
    "AlumaExporterNotReady": {"aluma_export_ready": "0x240"},
    "AlumaBacklogGrows": {"aluma_export_listed_tasks": "0+20x240"},
    "AlumaTasksFailed": {'aluma_export_tasks_total{outcome="failed"}': "0x200 5x40"},
    "AlumaTasksParked": {"aluma_export_parked_tasks": "1x240"},
    "AlumaParkedTaskOverdueSoon": {"aluma_export_parked_task_seconds_left": "80000-60x240"},
    "AlumaCopiesOfDeletedTasks": {"aluma_export_quarantined_tasks": "3x240", "aluma_export_parked_tasks": "0x240"},
    "AlumaSafetyCopyFailed": {"aluma_export_failed_copies_total": "0x200 2x40"},
    "AlumaQuarantineNearlyFull": {
        "aluma_export_quarantine_bytes": "95x240",
        "aluma_export_quarantine_max_bytes": "100x240",
    },
    "AlumaManyRetries": {'aluma_export_http_retries_total{reason="Unavailable"}': "0+120x240"},
    "AlumaProcessRestarts": {'aluma_export_process_restarts_total{process="1"}': "0x200 6x40"},
}
"""Alert -> series, one value a minute, after four hours of which it fires."""
HEALTHY = {
    "up": "1x240",
    "aluma_export_oldest_pending_task_age_seconds": "0x240",
    "aluma_export_last_poll_success_timestamp_seconds": "0+60x240",
    'aluma_export_tasks_total{outcome="exported"}': "0+100x240",
    'aluma_export_tasks_total{outcome="failed"}': "3x240",
    "aluma_export_paused": "0x240",
    "aluma_export_ready": "1x240",
    "aluma_export_credentials_refused": "0x240",
    "aluma_export_listed_tasks": "50x180 900x60",
    "aluma_export_parked_tasks": "0x240",
    "aluma_export_quarantined_tasks": "0x240",
    "aluma_export_failed_copies_total": "2x240",
    "aluma_export_quarantine_bytes": "95x240",
    "aluma_export_quarantine_max_bytes": "0x240",
    'aluma_export_http_retries_total{reason="Unavailable"}': "0+6x240",
    'aluma_export_process_restarts_total{process="1"}': "0x200 2x40",
}


def labelled(series):
    name, _, labels = series.partition("{")
    return f'{name}{{job="aluma-async",{labels or "}"}'


def situation(series, names, *, firing):
    """Return a test of promtool: whether each of the alerts ``names`` fires after four hours of the series."""
    return {
        "interval": "1m",
        "input_series": [{"series": labelled(name), "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                "eval_time": "230m",
                "exp_samples": [{"labels": "{}", "value": 1}] if firing else [],
            }
            for name in names
        ],
    }


def test_alert_situations_cover_every_alert():
    assert list(SITUATIONS) == [rule["alert"] for rule in rules()]


@with_promtool
def test_alerts_fire_in_their_situation_and_not_in_normal_operation(tmp_path):
    """Prometheus itself evaluates the rules: each fires, and none of them while all is well."""
    tests = [situation({**HEALTHY, **series}, [name], firing=True) for name, series in SITUATIONS.items()]
    tests.append(situation(HEALTHY, list(SITUATIONS), firing=False))
    suite = yaml.safe_dump({"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests})
    promtool(tmp_path, "check", "rules", "rules.yaml", rules=alerts())
    promtool(tmp_path, "test", "rules", "suite.yaml", suite=suite)
