"""``UnexportedTasks``: which tasks a run has tried and not exported."""

from aluma_async.events import ClaimLost, ClaimRefused, TaskCancelled, TaskFailed, TaskReleased
from aluma_async.exceptions import ClaimConflict
from aluma_async.models import ExportTask
from aluma_async.pipeline import unexported
from aluma_async.pipeline.unexported import UnexportedTasks

ERROR = ClaimConflict("409")


def test_tasks_are_counted_once_by_their_last_event():
    tasks = UnexportedTasks()
    for event in (
        TaskCancelled(ExportTask("a"), ERROR, 1, 60.0),
        ClaimLost(ExportTask("a"), ERROR),
        ClaimRefused(ExportTask("b"), ERROR),
        TaskReleased(ExportTask("c")),
        ClaimLost(ExportTask("d"), ERROR),
        TaskFailed(ExportTask("d"), ERROR),
    ):
        tasks.record(event)
    assert (len(tasks), tasks.lost, tasks.released) == (3, 2, 1)
    tasks.discard("a")
    tasks.discard("unknown")
    assert (len(tasks), tasks.lost, tasks.released) == (2, 1, 1)


def test_number_of_counted_tasks_is_limited(monkeypatch):
    """The oldest ones are forgotten."""
    assert unexported.MAX_TASKS == 100_000
    monkeypatch.setattr(unexported, "MAX_TASKS", 3)
    tasks = UnexportedTasks()
    tasks.record(ClaimLost(ExportTask("first"), ERROR))
    for number in range(3):
        tasks.record(TaskReleased(ExportTask(str(number))))
    assert (len(tasks), tasks.lost, tasks.released) == (3, 0, 3)
