"""``Tracing``: one span for each attempt to export a task."""

import random

import anyio
import pytest

from aluma_async import Exporter, events
from aluma_async.events import AttemptEnded
from aluma_async.exceptions import InvalidResponse
from aluma_async.models import ExportTask, HoldRecord, Timestamp
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.events import event_types, sample_event
from tests.support.stack import simulated

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
tracing = pytest.importorskip("aluma_async.service.tracing")

TASK = ExportTask("task-1", name="canary-name.pdf", project_name="canary-project")
HOLD = HoldRecord(
    "task-1", Timestamp("boot", 0.0, 0.0), 60.0, failures=10, parked=True, error="InvalidResponse", message="why"
)


def traced(now):
    """Return a listener, and a function that returns the finished spans."""
    provider, finished = sdk.TracerProvider(shutdown_on_exit=False), memory.InMemorySpanExporter()
    provider.add_span_processor(export.SimpleSpanProcessor(finished))
    return tracing.Tracing(provider, now), finished.get_finished_spans


@virtual_time
async def test_tracing_records_one_span_with_its_files_for_each_task():
    listener, finished_spans = traced(anyio.current_time)
    aluma = simulated(10, latency_seconds=0.1)
    exporter = Exporter(
        SimulatedSource(aluma), MemoryDestination(), on_event=listener, uniform=random.Random(0).uniform
    )
    summary = await exporter.run_until_drained()
    spans = finished_spans()
    assert {span.attributes["aluma.task.id"] for span in spans} == set(aluma.ids())
    assert len(spans) == 10
    assert sum(len(span.events) for span in spans) == summary.files
    assert sum(span.attributes["aluma.task.bytes"] for span in spans) == summary.bytes
    assert all(span.status.is_unset for span in spans)
    assert all(span.end_time - span.start_time >= 100_000_000 for span in spans), "times are those of the loop's clock"


@pytest.mark.parametrize(
    "event",
    [
        events.TaskCancelled(TASK, InvalidResponse("why"), 1, 60.0),
        events.TaskFailed(TASK, InvalidResponse("why")),
        events.ClaimLost(TASK, InvalidResponse("why")),
        events.TaskParked(TASK, HOLD),
    ],
    ids=lambda event: type(event).__name__,
)
def test_tracing_sets_the_error_as_status_of_the_span(event):
    listener, finished_spans = traced(lambda: 1.0)
    for happened in (events.TaskStarted(TASK, 1), event, event):
        listener(happened)
    (span,) = finished_spans()
    assert span.status.description == "why"
    assert span.attributes["error.type"] == "InvalidResponse"
    assert span.attributes["aluma.outcome"] == type(event).__name__


def test_tracing_spans_contain_no_names():
    listener, finished_spans = traced(lambda: 1.0)
    for kind in event_types():
        listener(events.TaskStarted(TASK, 1))
        listener(sample_event(kind, task=TASK))
    assert len(finished_spans()) == len(AttemptEnded.__subclasses__()) == 9
    assert "canary" not in "".join(span.to_json() for span in finished_spans())
