"""A Grafana dashboard and Prometheus alert rules for the metrics that ``--listen`` serves.

The age of the oldest pending task comes first in both, because Aluma deletes overdue tasks.
"""

import re
from collections.abc import Iterator
from importlib.resources import files
from string import Template
from typing import Any

import msgspec
from msgspec import structs

from aluma_async.deploy.panels import Panel, figures, graphs
from aluma_async.deploy.thresholds import Thresholds

_COLUMNS = 24
_FIGURE_HEIGHT = 4
_GRAPH_WIDTH, _GRAPH_HEIGHT = 12, 8
_METRIC = re.compile(r"((?:aluma_export|process)_\w+)(?:\{(.*?)\})?")
_SELECTION = 'job=~"$job", instance=~"$instance"'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def alerts(thresholds: Thresholds = Thresholds()) -> str:  # noqa: B008 - frozen
    """Return the alert rules (YAML)."""
    text = (files("aluma_async.deploy") / "alerts.yaml").read_text("utf-8")
    values = {**structs.asdict(thresholds), "aging_seconds": thresholds.aging_seconds}
    return Template(text).safe_substitute(values)  # leaves $value and $labels to Prometheus


def dashboard(thresholds: Thresholds = Thresholds()) -> str:  # noqa: B008 - frozen
    """Return the dashboard (JSON to import into Grafana)."""
    document = {
        "title": "aluma-async",
        "uid": "aluma-async",
        "tags": ["aluma"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("job", "Job", "label_values(aluma_export_ready, job)"),
                _variable("instance", "Instance", 'label_values(aluma_export_ready{job=~"$job"}, instance)'),
            ]
        },
        "panels": list(_panels(thresholds)),
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,  # when the time range changes, so that new instances appear
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(thresholds: Thresholds) -> Iterator[dict[str, Any]]:
    single = figures(thresholds)
    width = _COLUMNS // len(single)
    for number, panel in enumerate(single):
        position = {"x": number * width, "y": 0, "w": width, "h": _FIGURE_HEIGHT}
        yield {"id": number + 1, "gridPos": position, **_figure(panel)}
    for number, panel in enumerate(graphs(thresholds)):
        x, y = number * _GRAPH_WIDTH % _COLUMNS, number * _GRAPH_WIDTH // _COLUMNS * _GRAPH_HEIGHT
        position = {"x": x, "y": _FIGURE_HEIGHT + y, "w": _GRAPH_WIDTH, "h": _GRAPH_HEIGHT}
        yield {"id": len(single) + number + 1, "gridPos": position, **_graph(panel)}


def _figure(panel: Panel) -> dict[str, Any]:
    options: dict[str, Any] = {
        "reduceOptions": {"calcs": ["lastNotNull"]},
        "colorMode": "background" if panel.words or _has_thresholds(panel) else "value",
        "graphMode": "none",
        "textMode": "name" if panel.shows_name else "auto",
    }
    words = {value: {"text": text, "color": colour} for value, text, colour in panel.words}
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel)}
    if panel.unit == "short":  # of tasks; ``increase`` returns fractions
        defaults["decimals"] = 0
    if words:
        defaults["mappings"] = [{"type": "value", "options": words}]
    return {**_common(panel), "type": "stat", "options": options, "fieldConfig": {"defaults": defaults}}


def _graph(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": None if panel.may_be_negative else 0}
    if _has_thresholds(panel):
        defaults |= {"thresholds": _thresholds(panel), "custom": {"thresholdsStyle": {"mode": "line"}}}
    return {**_common(panel), "type": "timeseries", "fieldConfig": {"defaults": defaults}}


def _common(panel: Panel) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": _select(expression), "legendFormat": legend}
        for index, (expression, legend) in enumerate(panel.queries)
    ]
    return {"title": panel.title, "description": panel.description, "datasource": _SOURCE, "targets": targets}


def _select(expression: str) -> str:
    """Return an expression that is limited to the selected jobs and instances."""
    return _METRIC.sub(lambda match: f"{match[1]}{{{', '.join(filter(None, (match[2], _SELECTION)))}}}", expression)


def _has_thresholds(panel: Panel) -> bool:
    return panel.warn_above is not None or panel.alarm_above is not None


def _thresholds(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.warn_above is not None:
        steps.append({"color": "orange", "value": panel.warn_above})
    if panel.alarm_above is not None:
        steps.append({"color": "red", "value": panel.alarm_above})
    return {"mode": "absolute", "steps": steps}
