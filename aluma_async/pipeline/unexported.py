"""``UnexportedTasks``: the tasks that a run has tried and not exported, and how the last attempt at each one ended.

The last listing of a run does not show all of them: a task may have been claimed at that time, or Aluma may have
accepted its Cancel and not executed it yet.
"""

from typing import TypeAlias

from aluma_async.events import ClaimLost, ClaimRefused, TaskCancelled, TaskFailed, TaskParked, TaskReleased

AttemptEnded: TypeAlias = ClaimLost | ClaimRefused | TaskCancelled | TaskFailed | TaskParked | TaskReleased
"""The events about an attempt that did not end with the export of its task."""
MAX_TASKS = 100_000
"""Number of tasks that are counted, at most, so that a run of months needs little memory."""


class UnexportedTasks:
    """Counts the tasks by the events of a run."""

    def __init__(self) -> None:
        self._lost: dict[str, bool] = {}  # by task id

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self._lost)

    def record(self, event: AttemptEnded) -> None:
        """Record how an attempt ended. A failed task is counted elsewhere."""
        self.discard(event.task.id)
        if not isinstance(event, TaskFailed):
            self._lost[event.task.id] = isinstance(event, ClaimLost | ClaimRefused)
            if len(self._lost) > MAX_TASKS:
                self.discard(next(iter(self._lost)))

    def discard(self, task_id: str) -> None:
        """Record that a task was exported or failed."""
        self._lost.pop(task_id, None)

    @property
    def lost(self) -> int:
        """Number of tasks that were claimed or settled elsewhere."""
        return sum(self._lost.values())

    @property
    def released(self) -> int:
        """Number of tasks whose claim was released."""
        return len(self._lost) - self.lost
