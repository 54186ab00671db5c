"""A dashboard for Grafana and alert rules for Prometheus, both of the metrics that ``--listen`` serves.

The oldest task's age comes first everywhere: Aluma deletes what is overdue, so it is what must not grow.
"""

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
    _Panel("Oldest task that waits", "s", (("aluma_export_oldest_pending_task_age_seconds", "{{instance}}"),), _DAY),
    _Panel(
        "Tasks a second, by outcome",
        "ops",
        (("sum by (outcome) (rate(aluma_export_tasks_total[5m]))", "{{outcome}}"),),
    ),
    _Panel(
        "Tasks",
        "short",
        (
            ("sum(aluma_export_queue_depth)", "wait for a worker"),
            ("sum(aluma_export_in_flight)", "in hand"),
            ("sum(aluma_export_cooldown_tasks)", "cooling down"),
            ("sum(aluma_export_parked_tasks)", "parked"),
        ),
    ),
    _Panel("Bytes a second", "Bps", (("sum by (instance) (rate(aluma_export_bytes_total[5m]))", "{{instance}}"),)),
    _Panel(
        "Seconds a task takes",
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
        "Requests made again, a second",
        "ops",
        (("sum by (reason) (rate(aluma_export_http_retries_total[5m]))", "{{reason}}"),),
    ),
    _Panel("Requests at once, at most", "short", (("aluma_export_concurrency_limit", "{{instance}}"),)),
    _Panel(
        "Since the last listing",
        "s",
        (("time() - aluma_export_last_poll_success_timestamp_seconds", "{{instance}}"),),
        _HOUR,
    ),
    _Panel("Nothing is claimed", "short", (("aluma_export_paused", "{{instance}}"),), 0.5),
    _Panel("Files a second", "ops", (("sum by (instance) (rate(aluma_export_files_total[5m]))", "{{instance}}"),)),
)


def dashboard() -> str:
    """Make the dashboard (JSON to import into Grafana)."""
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
    whole = {
        "title": "aluma-async",
        "uid": "aluma-async",
        "tags": ["aluma"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }
    return msgspec.json.format(msgspec.json.encode(whole)).decode() + "\n"


def _thresholds(warn_above: float | None) -> dict[str, Any]:
    if warn_above is None:
        return {}
    steps = [{"color": "green", "value": None}, {"color": "red", "value": warn_above}]
    line = {"thresholdsStyle": {"mode": "line"}}
    return {"thresholds": {"mode": "absolute", "steps": steps}, "custom": line}


ALERTS = """\
# Alert rules for Prometheus. "job" is what your scrape config calls the exporters; here: aluma-async.
groups:
  - name: aluma-async
    rules:
      - alert: AlumaTasksOverdue
        expr: max by (instance) (aluma_export_oldest_pending_task_age_seconds) > 86400
        for: 5m
        labels: {severity: critical}
        annotations:
          summary: "A task has waited for export for {{ $value | humanizeDuration }}"
          description: "Aluma deletes what is overdue. See /readyz, and aluma-async status for what is held back."
      - alert: AlumaTasksAging
        expr: max by (instance) (aluma_export_oldest_pending_task_age_seconds) > 14400
        for: 15m
        labels: {severity: warning}
        annotations:
          summary: "A task has waited for export for {{ $value | humanizeDuration }}"
          description: "Is the backlog falling? More workers, or something is held back (aluma-async status)."
      - alert: AlumaExporterDown
        expr: up{job="aluma-async"} == 0
        for: 5m
        labels: {severity: critical}
        annotations:
          summary: "The exporter does not answer"
          description: "systemctl status aluma-async; its log says why it ended."
      - alert: AlumaPollingStopped
        expr: >-
          time() - aluma_export_last_poll_success_timestamp_seconds > 900
          and ignoring (outcome) rate(aluma_export_tasks_total{outcome="exported"}[15m]) == 0
        for: 5m
        labels: {severity: critical}
        annotations:
          summary: "Nothing was listed and nothing exported for 15 minutes"
          description: "Aluma cannot be reached, or the credentials were refused: see /readyz."
      - alert: AlumaExportPaused
        expr: aluma_export_paused == 1
        for: 10m
        labels: {severity: critical}
        annotations:
          summary: "Nothing is claimed, since nothing can be saved"
          description: "A full or read-only disk, or a share or database that is away: see /readyz."
      - alert: AlumaTasksFailed
        expr: increase(aluma_export_tasks_total{outcome="failed"}[1h]) > 0
        labels: {severity: warning}
        annotations:
          summary: "{{ $value | humanize }} tasks were failed in the last hour"
          description: "What they held is in the quarantine: aluma-async status."
      - alert: AlumaTasksParked
        expr: aluma_export_parked_tasks > 0
        for: 15m
        labels: {severity: warning}
        annotations:
          summary: "{{ $value | humanize }} tasks are parked"
          description: "aluma-async status says why, aluma-async retry releases them."
      - alert: AlumaManyRetries
        expr: sum by (instance) (rate(aluma_export_http_retries_total[15m])) > 1
        for: 30m
        labels: {severity: warning}
        annotations:
          summary: "{{ $value | humanize }} requests a second are made again"
          description: "By reason in the dashboard; many RateLimited ones ask for a lower max_at_once."
"""
