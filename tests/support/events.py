"""A sample of every event. Names and content are canaries that no log may contain by default."""

from aluma_async import events
from aluma_async.events import AttemptEnded, Event, TaskEvent
from aluma_async.exceptions import Unavailable
from aluma_async.models import ExportFile, ExportTask, HoldRecord, Summary, Timestamp

NAME, CONTENT = "canary-name.pdf", "canary-content"
TASK = ExportTask("task-1", name=NAME, project_id="p", project_name="P", created_at=0.0)
FILE = ExportFile(0, 0, folder="", filename=NAME, source="content", content=CONTENT)
SAMPLES = {
    "task": TASK,
    "file": FILE,
    "error": Unavailable("it is away"),
    "summary": Summary(exported=1),
    "reason": "reason",
    "request": "list tasks",
    "path": "journal.damaged",
    "hold": HoldRecord(
        "task-1", Timestamp("boot", 0.0, 0.0), 60.0, failures=10, parked=True, error="InvalidResponse", message="why"
    ),
    "oldest_created_at": None,
}


def event_types():
    """Return all event classes but the base."""
    return [
        kind
        for kind in vars(events).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, TaskEvent, AttemptEnded)
    ]


def sample_event(kind, **fields):
    """Return an event of this class; fields that are not given come from ``SAMPLES``, numbers are 1."""
    return kind(**{name: fields.get(name, SAMPLES.get(name, 1)) for name in kind.__struct_fields__})
