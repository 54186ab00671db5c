"""``Tracing``: a span for each task, through OpenTelemetry, where its API is installed and set up by whoever runs us.

Spans are made of events, so nothing in the pipeline knows of them. They hold no names and no content.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from opentelemetry import trace

from aluma_async import events
from aluma_async.events import Event

_NANOSECONDS = 1_000_000_000


class Tracing:
    """Makes spans with ``provider``; without one, with what the process has set up (``opentelemetry-instrument``)."""

    def __init__(self, provider: trace.TracerProvider | None = None, now: Callable[[], float] = time.time) -> None:
        self._tracer = trace.get_tracer("aluma-async", tracer_provider=provider)
        self._now = now
        self._spans: dict[str, trace.Span] = {}

    def __call__(self, event: Event) -> None:
        """Begin, mark or end a span."""
        if handler := self._HANDLERS.get(type(event)):
            handler(self, event)

    def _timestamp(self) -> int:
        return int(self._now() * _NANOSECONDS)

    def _on_task_started(self, event: events.TaskStarted) -> None:
        attributes: dict[str, str | int] = {"aluma.task.id": event.task.id, "aluma.task.files": event.files}
        self._spans[event.task.id] = self._tracer.start_span(
            "export task", attributes=attributes, start_time=self._timestamp()
        )

    def _on_file_staged(self, event: events.FileStaged) -> None:
        if span := self._spans.get(event.task.id):
            what = {"aluma.file.number": event.file.number, "aluma.file.size": event.size}
            span.add_event("file saved", what, timestamp=self._timestamp())

    def _on_task_completed(self, event: events.TaskCompleted) -> None:
        if span := self._spans.pop(event.task.id, None):
            span.set_attribute("aluma.task.bytes", event.bytes)
            span.end(self._timestamp())

    def _on_task_released(self, event: events.TaskReleased) -> None:
        if span := self._spans.pop(event.task.id, None):
            span.add_event("given back", timestamp=self._timestamp())
            span.end(self._timestamp())

    def _on_attempt_failed(self, event: Any) -> None:
        """End a span with what went wrong; ``error.type`` as in the log."""
        if span := self._spans.pop(event.task.id, None):
            span.set_attributes({"error.type": type(event.error).__name__, "aluma.outcome": type(event).__name__})
            span.set_status(trace.Status(trace.StatusCode.ERROR, str(event.error)))
            span.end(self._timestamp())

    def _on_task_parked(self, event: events.TaskParked) -> None:
        if span := self._spans.pop(event.task.id, None):
            span.set_attributes({"error.type": event.hold.error, "aluma.outcome": "TaskParked"})
            span.set_status(trace.Status(trace.StatusCode.ERROR, event.hold.message))
            span.end(self._timestamp())

    _HANDLERS: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        events.TaskStarted: _on_task_started,
        events.FileStaged: _on_file_staged,
        events.TaskCompleted: _on_task_completed,
        events.TaskReleased: _on_task_released,
        events.TaskCancelled: _on_attempt_failed,
        events.TaskFailed: _on_attempt_failed,
        events.ClaimLost: _on_attempt_failed,
        events.SettlementUnconfirmed: _on_attempt_failed,
        events.SettlementDeferred: _on_attempt_failed,
        events.TaskParked: _on_task_parked,
    }


def is_set_up() -> bool:
    """Whether somebody wants spans; without that they would be made for nobody."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)
