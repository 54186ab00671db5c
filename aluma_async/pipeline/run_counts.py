"""``RunCounts``: what a run has done so far, counted from its events, which it passes on to the listener.

It decides nothing, and an error of the listener does not affect the export.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aluma_async.events import (
    ClaimingPaused,
    ClaimingResumed,
    Event,
    ListingFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskParked,
    TasksListed,
)
from aluma_async.models import ExporterState, Snapshot, Summary
from aluma_async.pipeline.defect import report_listener_defect
from aluma_async.pipeline.listener import SafeListener
from aluma_async.pipeline.unexported import AttemptEnded, UnexportedTasks
from aluma_async.ports import OnEvent

_STATES = frozenset({TasksListed, ListingFailed, ClaimingPaused, ClaimingResumed})
"""Events that change the state of the run, and are rare."""


class RunCounts:
    """Counts the events of one run. ``listener`` receives each of them."""

    def __init__(self, listener: OnEvent | None) -> None:
        # Its function is called directly, because there are many events.
        self._listener = listener.listener if isinstance(listener, SafeListener) else listener
        self._counts: Counter[type[Event]] = Counter()
        self._failures = listener.failures if isinstance(listener, SafeListener) else self._counts
        self._files = self._bytes = 0
        self._state: ExporterState = "new"
        self._listing: TasksListed | None = None
        self._listing_error = self._pause = ""
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
        elif type(event) in _STATES:
            self._record_state(event)
        if self._listener:
            try:
                self._listener(event)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - a CancelledError here is no cancellation of the exporter
                report_listener_defect(error, self._failures)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the exporter as running within the block, and as ended afterwards."""
        self._state = "running"
        try:
            yield
        finally:
            self._state = "ended"

    def _record_state(self, event: Event) -> None:
        match event:
            case TasksListed():
                self._listing, self._listing_error = event, ""
            case ListingFailed(error=error):
                self._listing_error = error.text
            case ClaimingPaused(error=error):
                self._pause = error.text
            case ClaimingResumed():
                self._pause = ""

    def snapshot(self, *, workers: int, tasks_in_progress: int, draining: bool) -> Snapshot:
        """Return the state of the run; the arguments are what its events do not show."""
        state, listing = self._state, self._listing
        if state == "running" and (draining or self._pause):
            state = "draining" if draining else "paused"
        return Snapshot(
            state=state,
            reason=self._pause or self._listing_error,
            workers=workers,
            tasks_in_progress=tasks_in_progress,
            pending=listing.listed if listing else None,
            on_hold=listing.held_back if listing else 0,
            parked=listing.parked if listing else 0,
            oldest_created_at=listing.oldest_created_at if listing else None,
            exported=self._counts[TaskCompleted],
            files=self._files,
            bytes=self._bytes,
            failed=self._counts[TaskFailed],
            cancelled=self._counts[TaskCancelled] + self._counts[TaskParked],
            lost=self._unexported.lost,
        )

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
