"""``Metrics``: presents the state of a run to Prometheus. Everything is computed when it is scraped.

No task id is a label.
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from aluma_async import __version__, events
from aluma_async.config import Config
from aluma_async.events import AttemptEnded
from aluma_async.policy.adaptive_limit import AdaptiveLimit
from aluma_async.policy.deadline import seconds_left
from aluma_async.service.stats import DURATION_BOUNDS, RunStats

OUTCOMES: Mapping[type[AttemptEnded], str] = {
    events.TaskCompleted: "exported",
    events.TaskFailed: "failed",
    events.TaskCancelled: "cancelled",
    events.TaskParked: "parked",
    events.TaskReleased: "released",
    events.ClaimRefused: "refused",
    events.ClaimLost: "lost",
}
"""Label of each outcome of an attempt."""
REASONS = ("Unavailable", "Unreachable", "RateLimited", "InvalidResponse", "Ambiguous")
"""Errors after which a request may be retried; exported from the start, because a rate needs a first value."""


def metrics_of(config: Config, stats: RunStats, is_ready: Callable[[], bool]) -> "Metrics":
    """Return the metrics of an exporter with a configuration."""
    maximum = config.max_at_once
    return Metrics(
        stats,
        limit=AdaptiveLimit(maximum).value if config.limits.adaptive else maximum,
        task_deadline_seconds=config.aluma.task_deadline_seconds,
        is_ready=is_ready,
    )


class Metrics:
    """A page of metrics, and a collector for prometheus-client.

    Args:
        stats: The state of the run.
        limit: Requests that may be in flight, until an event changes it.
        task_deadline_seconds: How long projects keep a task from its creation; 0: not known.
        is_ready: Returns whether the exporter can work (``/readyz``).
        now: Returns seconds since 1970.
    """

    def __init__(
        self,
        stats: RunStats,
        *,
        limit: int,
        task_deadline_seconds: float = 0,
        is_ready: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._stats = stats
        self._limit = limit
        self._task_deadline_seconds = task_deadline_seconds
        self._is_ready = is_ready
        self._now = now
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def refresh(self) -> None:
        """Do nothing: everything is computed by ``page``."""

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type, in the best accepted format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield the current values (prometheus-client's protocol)."""
        stats = self._stats
        tasks = CounterMetricFamily("aluma_export_tasks", "Attempts to export a task, by outcome", labels=["outcome"])
        for kind, outcome in OUTCOMES.items():
            tasks.add_metric([outcome], stats.outcomes[kind])
        yield tasks
        bounds = [*map(str, DURATION_BOUNDS), "+Inf"]
        yield HistogramMetricFamily(
            "aluma_export_task_duration_seconds",
            "Time from Start to Complete of exported tasks",
            buckets=list(zip(bounds, accumulate(stats.durations), strict=True)),
            sum_value=stats.duration_seconds,
        )
        yield CounterMetricFamily("aluma_export_files", "Files of exported tasks", value=stats.files)
        yield CounterMetricFamily("aluma_export_bytes", "Bytes of exported tasks", value=stats.bytes)
        retries = CounterMetricFamily("aluma_export_http_retries", "Retried requests, by error", labels=["reason"])
        for reason in dict.fromkeys([*REASONS, *stats.retries]):
            retries.add_metric([reason], stats.retries[reason])
        yield retries
        text = "Copies in the quarantine that could not be stored or removed"
        yield CounterMetricFamily("aluma_export_failed_copies", text, value=stats.failed_copies)
        # Without a sample if it is not known, so that no alert takes it for a deadline.
        left = seconds_left(stats.oldest_parked_created_at, self._task_deadline_seconds, self._now())
        text = "Time until Aluma deletes the oldest parked task"
        yield GaugeMetricFamily("aluma_export_parked_task_seconds_left", text, value=left)
        build = GaugeMetricFamily(
            "aluma_export_build_info", "Always 1; the labels are the versions", labels=["version", "python"]
        )
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        for name, text, value in self._gauges():
            yield GaugeMetricFamily(f"aluma_export_{name}", text, value=value)

    def _gauges(self) -> Iterator[tuple[str, str, float]]:
        stats = self._stats
        oldest = stats.oldest_created_at
        age = 0.0 if oldest is None else max(0.0, self._now() - oldest)
        yield "listed_tasks", "Pending tasks of the last listing", stats.listed_tasks
        yield "in_flight", "Claimed tasks", len(stats.active)
        yield "queue_depth", "Listed tasks that wait, unclaimed, for a worker", stats.queued
        yield "cooldown_tasks", "Tasks that cool down after an error", stats.cooling
        yield "parked_tasks", "Tasks that are parked", stats.parked
        yield (
            "quarantined_tasks",
            "Tasks with a copy in the quarantine",
            stats.quarantined_tasks,
        )
        yield "quarantine_bytes", "Size of the quarantine", stats.quarantine_bytes
        yield "quarantine_max_bytes", "Limit of the size of the quarantine; 0: none", stats.quarantine_max_bytes
        yield "oldest_pending_task_age_seconds", "Age of the oldest task of the last listing; 0: none", age
        yield "last_poll_success_timestamp_seconds", "Time of the last successful listing; 0: never", stats.polled_at
        yield "concurrency_limit", "Requests that may be in flight", stats.limit or self._limit
        yield "left_out_tasks", "Pending tasks of projects that are not configured", stats.left_out
        yield "ready", "1 while /readyz reports that tasks can be exported", self._is_ready()
        refused = stats.authentication_error is not None
        yield "credentials_refused", "1 while Aluma refuses the client id and secret", refused
        yield "paused", "1 while claiming is paused, because saving, recording or requests fail", bool(stats.paused)
