"""``Tracing``: an OpenTelemetry span for each attempt to export a task, if the process has set OpenTelemetry up.

Spans are derived from events, so the pipeline does not depend on OpenTelemetry. They contain no names and no content.
"""

import time
from collections.abc import Callable

from opentelemetry import trace

from aluma_async import events
from aluma_async.events import AttemptEnded, Event

_NANOSECONDS = 1_000_000_000


class Tracing:
    """Starts a span when a task is claimed, and ends it with the attempt.

    Args:
        provider: Makes the spans; by default the provider of the process (``opentelemetry-instrument``).
        now: Returns seconds since 1970.
    """

    def __init__(self, provider: trace.TracerProvider | None = None, now: Callable[[], float] = time.time) -> None:
        self._tracer = trace.get_tracer("aluma-async", tracer_provider=provider)
        self._now = now
        self._spans: dict[str, trace.Span] = {}

    def __call__(self, event: Event) -> None:
        """Start, annotate or end the span of a task."""
        match event:
            case events.TaskStarted(task=task, files=files):
                attributes: dict[str, str | int] = {"aluma.task.id": task.id, "aluma.task.files": files}
                span = self._tracer.start_span("export task", attributes=attributes, start_time=self._timestamp())
                self._spans[task.id] = span
            case events.FileStaged(task=task, file=file, size=size) if task.id in self._spans:
                attributes = {"aluma.file.number": file.number, "aluma.file.size": size}
                self._spans[task.id].add_event("file saved", attributes, timestamp=self._timestamp())
            case AttemptEnded(task=task) if task.id in self._spans:
                self._end(self._spans.pop(task.id), event)

    def _timestamp(self) -> int:
        return int(self._now() * _NANOSECONDS)

    def _end(self, span: trace.Span, event: AttemptEnded) -> None:
        """End a span with the outcome of the attempt; ``error.type`` has the same values as in the log."""
        match event:
            case events.TaskCompleted():
                span.set_attribute("aluma.task.bytes", event.bytes)
            case events.TaskReleased():
                span.add_event("released", timestamp=self._timestamp())
            case events.TaskParked(hold=hold):
                _set_error(span, event, hold.error, hold.message)
            case (
                events.TaskCancelled(error=error)
                | events.TaskFailed(error=error)
                | events.ClaimRefused(error=error)
                | events.ClaimLost(error=error)
                | events.SettlementUnconfirmed(error=error)
                | events.SettlementDeferred(error=error)
            ):
                _set_error(span, event, type(error).__name__, str(error))
        span.end(self._timestamp())


def is_set_up() -> bool:
    """Return whether the process has set up OpenTelemetry; otherwise spans would be discarded."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _set_error(span: trace.Span, event: Event, error_type: str, message: str) -> None:
    span.set_attributes({"error.type": error_type, "aluma.outcome": type(event).__name__})
    span.set_status(trace.Status(trace.StatusCode.ERROR, message))
