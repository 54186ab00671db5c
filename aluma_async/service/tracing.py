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

    def __init__(self, provider: trace.TracerProvider | None = None, wall: Callable[[], float] = time.time) -> None:
        self._tracer = trace.get_tracer("aluma-async", tracer_provider=provider)
        self._wall = wall
        self._spans: dict[str, trace.Span] = {}

    def __call__(self, event: Event) -> None:
        """Begin, mark or end a span."""
        if note := self._NOTES.get(type(event)):
            note(self, event)

    def _now(self) -> int:
        return int(self._wall() * _NANOSECONDS)

    def _started(self, event: events.TaskStarted) -> None:
        attributes: dict[str, str | int] = {"aluma.task.id": event.task.id, "aluma.task.files": event.files}
        self._spans[event.task.id] = self._tracer.start_span(
            "export task", attributes=attributes, start_time=self._now()
        )

    def _saved(self, event: events.FileStaged) -> None:
        if span := self._spans.get(event.task.id):
            what = {"aluma.file.number": event.file.number, "aluma.file.size": event.size}
            span.add_event("file saved", what, timestamp=self._now())

    def _completed(self, event: events.TaskCompleted) -> None:
        if span := self._spans.pop(event.task.id, None):
            span.set_attribute("aluma.task.bytes", event.bytes)
            span.end(self._now())

    def _released(self, event: events.TaskReleased) -> None:
        if span := self._spans.pop(event.task.id, None):
            span.add_event("given back", timestamp=self._now())
            span.end(self._now())

    def _broken(self, event: Any) -> None:
        """End a span with what went wrong; ``error.type`` as in the log."""
        if span := self._spans.pop(event.task.id, None):
            span.set_attributes({"error.type": type(event.error).__name__, "aluma.outcome": type(event).__name__})
            span.set_status(trace.Status(trace.StatusCode.ERROR, str(event.error)))
            span.end(self._now())

    def _parked(self, event: events.TaskParked) -> None:
        if span := self._spans.pop(event.task.id, None):
            span.set_attributes({"error.type": event.hold.error, "aluma.outcome": "TaskParked"})
            span.set_status(trace.Status(trace.StatusCode.ERROR, event.hold.message))
            span.end(self._now())

    _NOTES: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        events.TaskStarted: _started,
        events.FileStaged: _saved,
        events.TaskCompleted: _completed,
        events.TaskReleased: _released,
        events.TaskCancelled: _broken,
        events.TaskFailed: _broken,
        events.ClaimLost: _broken,
        events.SettlementUnconfirmed: _broken,
        events.SettlementDeferred: _broken,
        events.TaskParked: _parked,
    }


def is_set_up() -> bool:
    """Whether somebody wants spans; without that they would be made for nobody."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)
