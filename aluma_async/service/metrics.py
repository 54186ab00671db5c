"""``Metrics``: what Prometheus may ask for, made of events.

An event costs a look into a table and an addition; the rest is done when somebody asks. No task id is a label.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from aluma_async import events
from aluma_async.events import Event

OUTCOMES: Mapping[type[Event], str] = {
    events.TaskCompleted: "exported",
    events.TaskFailed: "failed",
    events.TaskCancelled: "cancelled",
    events.TaskParked: "parked",
    events.TaskReleased: "released",
    events.ClaimRefused: "refused",
    events.ClaimLost: "lost",
}
"""What can become of an attempt at a task: its event, and the label."""
REASONS = ("Unavailable", "Unreachable", "RateLimited", "InvalidResponse", "Ambiguous")
"""Errors after which a request may be made again; there from the beginning, so that a rate can be told."""
DURATIONS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the histogram of a task's seconds."""


class Metrics:
    """``limit`` is how many requests may be in flight until an event tells; ``wall`` tells seconds since 1970."""

    def __init__(self, *, limit: int, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._counts: Counter[type[Event]] = Counter()
        self._retries: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._in_hand: set[str] = set()
        self._durations = [0] * (len(DURATIONS) + 1)
        self._seconds = 0.0
        self._files = self._bytes = 0
        self._queued = self._cooling = self._parked = self._paused = 0
        self._oldest: float | None = None
        self._polled_at = 0.0
        self._limit = limit
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        kind = type(event)
        if handler := self._HANDLERS.get(kind):
            self._counts[kind] += 1
            handler(self, event)

    def page(self, accept: str = "") -> tuple[bytes, str]:
        """Make the page and its content type, in the best of the formats that are accepted."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Tell how things stand now (prometheus-client's protocol)."""
        tasks = CounterMetricFamily(
            "aluma_export_tasks", "Attempts at tasks, by what became of them", labels=["outcome"]
        )
        for kind, outcome in OUTCOMES.items():
            tasks.add_metric([outcome], self._counts[kind])
        yield tasks
        bounds = [*map(str, DURATIONS), "+Inf"]
        yield HistogramMetricFamily(
            "aluma_export_task_duration_seconds",
            "From Start to Complete, of exported tasks",
            buckets=list(zip(bounds, accumulate(self._durations), strict=True)),
            sum_value=self._seconds,
        )
        yield CounterMetricFamily("aluma_export_files", "Files of exported tasks", value=self._files)
        yield CounterMetricFamily("aluma_export_bytes", "Bytes of exported tasks", value=self._bytes)
        retries = CounterMetricFamily("aluma_export_http_retries", "Requests made again, by error", labels=["reason"])
        for reason, count in self._retries.items():
            retries.add_metric([reason], count)
        yield retries
        for name, text, value in self._gauges():
            yield GaugeMetricFamily(f"aluma_export_{name}", text, value=value)

    def _gauges(self) -> Iterator[tuple[str, str, float]]:
        age = 0.0 if self._oldest is None else max(0.0, self._now() - self._oldest)
        yield "in_flight", "Tasks that are claimed", len(self._in_hand)
        yield "queue_depth", "Tasks that were listed and wait, unclaimed, for a worker", self._queued
        yield "cooldown_tasks", "Tasks that cool down after an error", self._cooling
        yield "parked_tasks", "Tasks that are held back for long", self._parked
        yield "oldest_pending_task_age_seconds", "Age of the oldest task that was last listed; 0: none", age
        yield "last_poll_success_timestamp_seconds", "When what waits was last listed; 0: never", self._polled_at
        yield "concurrency_limit", "Requests that may be in flight now", self._limit
        yield "paused", "1 while nothing is claimed, since it could not be saved or written down", self._paused

    # -- what events do

    def _on_tasks_listed(self, event: events.TasksListed) -> None:
        self._oldest, self._polled_at = event.oldest_created_at, self._now()
        self._parked, self._cooling = event.parked, event.held_back - event.parked
        # A listing may name a task twice; when nothing is left that has counted for nothing.
        idle = not event.admitted and not self._in_hand
        self._queued = 0 if idle else self._queued + event.admitted

    def _on_task_started(self, event: events.TaskStarted) -> None:
        self._in_hand.add(event.task.id)
        self._queued -= self._queued > 0

    def _on_claim_refused(self, _: events.ClaimRefused) -> None:
        self._queued -= self._queued > 0

    def _on_task_completed(self, event: events.TaskCompleted) -> None:
        self._in_hand.discard(event.task.id)
        self._files += event.files
        self._bytes += event.bytes
        if event.seconds:  # of a claim that an earlier run left it is not known
            self._seconds += event.seconds
            self._durations[bisect_left(DURATIONS, event.seconds)] += 1

    def _on_attempt_ended(self, event: Any) -> None:
        self._in_hand.discard(event.task.id)

    def _on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self._in_hand.discard(event.task.id)
        self._cooling += 1

    def _on_task_parked(self, event: events.TaskParked) -> None:
        self._in_hand.discard(event.task.id)
        self._parked += 1

    def _on_request_retried(self, event: events.RequestRetried) -> None:
        self._retries[type(event.error).__name__] += 1

    def _on_concurrency_limit_changed(self, event: events.ConcurrencyLimitChanged) -> None:
        self._limit = event.limit

    def _on_claiming_paused(self, _: Event) -> None:
        self._paused, self._queued = 1, 0  # what was listed is forgotten, and listed anew

    def _on_claiming_resumed(self, _: Event) -> None:
        self._paused = 0

    _HANDLERS: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        events.TasksListed: _on_tasks_listed,
        events.TaskStarted: _on_task_started,
        events.TaskCompleted: _on_task_completed,
        events.TaskCancelled: _on_task_cancelled,
        events.TaskParked: _on_task_parked,
        events.TaskReleased: _on_attempt_ended,
        events.TaskFailed: _on_attempt_ended,
        events.ClaimRefused: _on_claim_refused,
        events.ClaimLost: _on_attempt_ended,
        events.SettlementUnconfirmed: _on_attempt_ended,
        events.SettlementDeferred: _on_attempt_ended,
        events.RequestRetried: _on_request_retried,
        events.ConcurrencyLimitChanged: _on_concurrency_limit_changed,
        events.ClaimingPaused: _on_claiming_paused,
        events.ClaimingStillPaused: _on_claiming_paused,
        events.ClaimingResumed: _on_claiming_resumed,
        events.RunEnded: _on_claiming_resumed,
    }
