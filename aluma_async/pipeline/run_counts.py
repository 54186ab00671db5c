"""``RunCounts``: what a run has done so far, counted from its events, which it passes on to the listener.

It decides nothing, and an error of the listener does not affect the export.
"""

from collections import Counter
from collections.abc import Callable

from aluma_async.events import Event, TaskCancelled, TaskCompleted, TaskFailed, TaskParked
from aluma_async.models import Summary
from aluma_async.pipeline.defect import report_listener_defect
from aluma_async.pipeline.unexported import AttemptEnded, UnexportedTasks
from aluma_async.ports import OnEvent


class RunCounts:
    """Counts the events of one run. ``listener`` receives each of them."""

    def __init__(self, listener: OnEvent | None) -> None:
        self._listener = listener
        self._counts: Counter[type[Event]] = Counter()
        self._files = self._bytes = 0
        self._unexported = UnexportedTasks()
        self.on_task_completed: Callable[[], object] = lambda: None
        """Called for each exported task, before the listener."""

    def emit(self, event: Event) -> None:
        """Count an event and pass it on."""
        self._counts[type(event)] += 1
        if type(event) is TaskCompleted:
            self._files += event.files
            self._bytes += event.bytes
            self.on_task_completed()
            if self._unexported:
                self._unexported.discard(event.task.id)
        elif isinstance(event, AttemptEnded):
            self._unexported.record(event)
        if self._listener:
            try:
                self._listener(event)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - a CancelledError here is no cancellation of the exporter
                report_listener_defect(error, self._counts)

    def summary(self, *, gone: int, deferred: int, held_back: int, seconds: float) -> Summary:
        """Return the result of the run; the arguments are what its events do not show."""
        return Summary(
            exported=self._counts[TaskCompleted],
            files=self._files,
            bytes=self._bytes,
            failed=self._counts[TaskFailed],
            cancelled=self._counts[TaskCancelled] + self._counts[TaskParked],
            lost=self._unexported.lost,
            gone=gone,
            deferred=deferred,
            held_back=max(held_back, self._unexported.released),
            seconds=seconds,
        )
