"""``aluma-async monitoring``: the dashboard and the alert rules use metrics that exist."""

import json
import re

import yaml

from aluma_async.service.metrics import Metrics
from aluma_async.service.stats import RunStats


def series_names():
    """Return the names of all series that an exporter serves."""
    page = Metrics(RunStats(), limit=1).page()[0].decode()
    families = re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE)
    return {name for name, _ in families} | {f"{name}_bucket" for name, kind in families if kind == "histogram"}


def test_dashboard_shows_all_metrics_that_exist_and_no_others(run_cli):
    board = json.loads(run_cli("monitoring", "dashboard").stdout)
    panels = board["panels"]
    assert "Oldest" in panels[0]["title"]
    assert len({panel["id"] for panel in panels}) == len({str(panel["gridPos"]) for panel in panels}) == len(panels)
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    queried = set(re.findall(r"aluma_export_\w+", " ".join(queries)))
    existing = series_names()
    assert queried <= existing
    missing = {name for name in existing if name.startswith("aluma")} - queried
    assert missing <= {"aluma_export_task_duration_seconds"}


def test_alert_rules_are_complete_and_start_with_the_oldest_task(run_cli):
    rules = yaml.safe_load(run_cli("monitoring", "alerts").stdout)["groups"][0]["rules"]
    assert "aluma_export_oldest_pending_task_age_seconds" in rules[0]["expr"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(re.findall(r"aluma_export_\w+", rule["expr"])) <= series_names()
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
