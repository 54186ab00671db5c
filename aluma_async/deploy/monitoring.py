"""A Grafana dashboard and Prometheus alert rules for the metrics that ``--listen`` serves.

The age of the oldest pending task comes first in both, because Aluma deletes overdue tasks.
"""

from importlib.resources import files
from typing import Any

import msgspec
from msgspec import Struct

_WIDTH, _HEIGHT = 12, 8
_COLUMNS = 24


class _Panel(Struct, frozen=True):
    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    """Expression and legend of each line."""
    warn_above: float | None = None


_HOUR, _DAY = 3600, 86400
_PANELS = (
    _Panel(
        "Oldest pending task",
        "s",
        (("max by (instance) (aluma_export_oldest_pending_task_age_seconds)", "{{instance}}"),),
        _DAY,
    ),
    _Panel(
        "Tasks per second, by outcome",
        "ops",
        (("sum by (outcome) (rate(aluma_export_tasks_total[5m]))", "{{outcome}}"),),
    ),
    _Panel(
        "Tasks",
        "short",
        (
            ("sum(aluma_export_queue_depth)", "queued"),
            ("sum(aluma_export_in_flight)", "in progress"),
            ("sum(aluma_export_cooldown_tasks)", "cooling down"),
            ("sum(aluma_export_parked_tasks)", "parked"),
            ("sum(max by (instance) (aluma_export_quarantined_tasks))", "in the quarantine"),
            ("sum(max by (instance) (aluma_export_left_out_tasks))", "of other projects"),
        ),
    ),
    _Panel("Bytes per second", "Bps", (("sum by (instance) (rate(aluma_export_bytes_total[5m]))", "{{instance}}"),)),
    _Panel(
        "Duration of a task",
        "s",
        tuple(
            (
                f"histogram_quantile({share}, sum by (le) (rate(aluma_export_task_duration_seconds_bucket[5m])))",
                f"{share:.0%}",
            )
            for share in (0.5, 0.9, 0.99)
        ),
    ),
    _Panel(
        "Retried requests per second",
        "ops",
        (("sum by (reason) (rate(aluma_export_http_retries_total[5m]))", "{{reason}}"),),
    ),
    _Panel("Concurrency limit", "short", (("sum by (instance) (aluma_export_concurrency_limit)", "{{instance}}"),)),
    _Panel(
        "Time since the last listing",
        "s",
        (("time() - min by (instance) (aluma_export_last_poll_success_timestamp_seconds)", "{{instance}}"),),
        _HOUR,
    ),
    _Panel(
        "Paused or not ready",
        "short",
        (
            ("max by (instance) (aluma_export_paused)", "{{instance}} paused"),
            ("1 - min by (instance) (aluma_export_ready)", "{{instance}} not ready"),
        ),
        0.5,
    ),
    _Panel(
        "Time until Aluma deletes the oldest parked task",
        "s",
        (("min by (instance) (aluma_export_parked_task_seconds_left)", "{{instance}}"),),
    ),
    _Panel(
        "Quarantine",
        "bytes",
        (
            ("max by (instance) (aluma_export_quarantine_bytes)", "{{instance}}"),
            ("max by (instance) (aluma_export_quarantine_max_bytes) > 0", "limit of {{instance}}"),
        ),
    ),
    _Panel(
        "Failed copies in the last hour",
        "short",
        (("sum by (instance) (increase(aluma_export_failed_copies_total[1h]))", "{{instance}}"),),
        0.5,
    ),
    _Panel("Files per second", "ops", (("sum by (instance) (rate(aluma_export_files_total[5m]))", "{{instance}}"),)),
)


def alerts() -> str:
    """Return the alert rules (YAML)."""
    return (files("aluma_async.deploy") / "alerts.yaml").read_text("utf-8")


def dashboard() -> str:
    """Return the dashboard (JSON to import into Grafana)."""
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels = [
        {
            "id": number + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": source,
            "gridPos": {
                "x": number * _WIDTH % _COLUMNS,
                "y": number * _WIDTH // _COLUMNS * _HEIGHT,
                "w": _WIDTH,
                "h": _HEIGHT,
            },
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, **_thresholds(panel.warn_above)}},
            "targets": [
                {"refId": chr(ord("A") + index), "datasource": source, "expr": expression, "legendFormat": legend}
                for index, (expression, legend) in enumerate(panel.queries)
            ],
        }
        for number, panel in enumerate(_PANELS)
    ]
    document = {
        "title": "aluma-async",
        "uid": "aluma-async",
        "tags": ["aluma"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }
    return msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"


def _thresholds(warn_above: float | None) -> dict[str, Any]:
    if warn_above is None:
        return {}
    steps = [{"color": "green", "value": None}, {"color": "red", "value": warn_above}]
    line = {"thresholdsStyle": {"mode": "line"}}
    return {"thresholds": {"mode": "absolute", "steps": steps}, "custom": line}
