"""``RunStats``: the state of a run, derived from its events. Metrics, health checks and displays read it.

It is the one place where events are counted. An event costs a clock reading and a few additions. Rates and the number
of pending tasks are estimates.
"""

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from aluma_async import events
from aluma_async.events import AttemptEnded, Event
from aluma_async.exceptions import AlumaAsyncError, AuthenticationFailed, DestinationError, RequestRejected
from aluma_async.models import ExportFile, ExportTask, Summary

RATE_SECONDS = 10.0
"""Rates are averages over this many seconds."""
ON_HOLD = ("cooling down", "parked")
"""Outcomes of tasks that are tried again after a hold."""
MAX_UNEXPORTED_TASKS = 10_000
"""Maximum number of unexported tasks that are remembered with their reason."""
DURATION_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the histogram of task durations, in seconds."""


class Rates(NamedTuple):
    """Throughput per second."""

    tasks: float
    bytes: float


class ActiveTask(Struct):
    """A task that is being exported."""

    task: ExportTask
    files: int
    started_at: float
    last_activity_at: float
    """Clock reading at the last event of the task."""
    staged: int = 0
    """Number of staged files."""
    bytes: int = 0
    """Number of received bytes."""
    file: ExportFile | None = None
    """File of the last event."""


class UnexportedTask(NamedTuple):
    """Why a task is not exported."""

    outcome: str
    """One of ``ON_HOLD``, ``failed``, ``refused`` and ``lost`` (it is claimed elsewhere), or ``not settled``."""
    error: str
    """Name of the class of the error."""
    message: str


class RunStats:
    """Records the events of a run; the public attributes are its state.

    Args:
        clock: Returns the seconds of a monotonic clock.
        now: Returns seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._now = now
        self._started_at = clock()
        self._samples = deque([(self._started_at, 0, 0)])
        self.active: dict[str, ActiveTask] = {}
        """Tasks in progress by id, the oldest first."""
        self.queued = 0
        """Tasks that were listed and wait, unclaimed, for a worker."""
        self.pending = 0
        """Tasks that were listed and not settled yet, including active ones."""
        self.cooling = 0
        """Tasks that cool down after an error."""
        self.parked = 0
        """Tasks that are parked, also since an earlier run."""
        self.oldest_created_at: float | None = None
        """Creation of the oldest listed task, seconds since 1970."""
        self.oldest_parked_created_at: float | None = None
        """Creation of the oldest parked task of the last listing, seconds since 1970."""
        self.quarantined_tasks = 0
        """Tasks with a copy in the quarantine."""
        self.quarantine_bytes = self.quarantine_max_bytes = 0
        """Size of the quarantine and its limit; 0: no limit."""
        self.failed_copies = 0
        """Copies in the quarantine that could not be stored or removed."""
        self.unexported: dict[str, UnexportedTask] = {}
        """The first ``MAX_UNEXPORTED_TASKS`` unexported tasks by id."""
        self.outcomes: Counter[type[AttemptEnded]] = Counter()
        """Ended attempts by the event that ended them."""
        self.errors: Counter[str] = Counter()
        """Errors of tasks and listings by class."""
        self.retries: Counter[str] = Counter()
        """Retried requests by class of the error."""
        self.files = self.bytes = 0
        """Files and bytes of exported tasks."""
        self.received = 0
        """Bytes received, also of tasks that were not exported."""
        self.durations = [0] * (len(DURATION_BOUNDS) + 1)
        """Exported tasks by duration: one number for each of ``DURATION_BOUNDS``, and one above."""
        self.duration_seconds = 0.0
        """Sum of these durations."""
        self.limit = 0
        """Requests that may be in flight; 0: no limit was measured yet."""
        self.listed = False
        """Whether a listing has succeeded, which proves that the credentials are valid."""
        self.listed_tasks = 0
        """Pending tasks of the last listing."""
        self.polled_at = 0.0
        """Time of the last listing, seconds since 1970; 0: none yet."""
        self.draining = self.ended = False
        self.listing_error: AlumaAsyncError | None = None
        """Error of the last listing."""
        self.paused: AlumaAsyncError | None = None
        """Why no tasks are claimed; None: tasks are claimed."""
        self.save_error: AlumaAsyncError | None = None
        """Like ``paused``, but only until a probe of the destination or an export has succeeded."""
        self.listing_problem = self._next_problem = ""
        """Reason why the last complete listing does not show all pending tasks; empty: it does, as far as is known."""
        self.left_out = 0
        """Number of pending tasks of other projects at the last listing, if the projects are limited."""
        self.rejection: RequestRejected | None = None
        """The rejected request for which claiming is paused, until an export has succeeded."""
        self.summary: Summary | None = None
        """Totals of the run, at its end."""
        self.last_event_at = self.last_listing_at = self.last_work_at = self._started_at
        """Clock readings at the last event, the last successful listing, and the last start or end of an export."""
        self._queue_discarded = False
        self.last_retry_at = self.requests_paused_until = float("-inf")

    def __call__(self, event: Event) -> None:
        """Record an event."""
        self.last_event_at = now = self.clock()
        match event:  # the most frequent events first, and without another call
            case events.BytesReceived(task=task):
                self.received += event.count
                if task.id in self.active:
                    active = self.active[task.id]
                    active.bytes += event.count
                    active.file, active.last_activity_at = event.file, now
            case events.FileStaged(task=task):
                if task.id in self.active:
                    active = self.active[task.id]
                    active.staged += active.staged < active.files  # a quarantined file is staged once more
                    active.file, active.last_activity_at = event.file, now
            case events.TaskStarted(task=task):
                self.active[task.id] = ActiveTask(task, event.files, now, now)
                self.queued -= self.queued > 0
                self.last_work_at = now
                if task.id in self.unexported:
                    del self.unexported[task.id]
            case AttemptEnded():
                self._end_attempt(event)
            case _:
                self._record_run_event(event)

    @property
    def exported(self) -> int:
        """Tasks that are exported."""
        return self.outcomes[events.TaskCompleted]

    @property
    def failed(self) -> int:
        """Tasks that were failed at Aluma."""
        return self.outcomes[events.TaskFailed]

    @property
    def lost(self) -> int:
        """Tasks that could not be claimed, or whose claim ended early."""
        return self.outcomes[events.ClaimRefused] + self.outcomes[events.ClaimLost]

    @property
    def authentication_error(self) -> AuthenticationFailed | None:
        """The error with which Aluma refuses the credentials; None: it does not, as far as is known."""
        errors = (self.listing_error, self.rejection)
        return next((error for error in errors if isinstance(error, AuthenticationFailed)), None)

    @property
    def total(self) -> int:
        """Tasks that are exported or pending."""
        return self.exported + self.pending

    @property
    def requests_paused_seconds(self) -> float:
        """Seconds until requests resume, after Aluma asked for a pause."""
        return max(0.0, self.requests_paused_until - self.clock())

    def age(self, task: ActiveTask) -> float:
        """Return the seconds since a task was started."""
        return self.clock() - task.started_at

    def average(self) -> Rates:
        """Return tasks and bytes per second since the start."""
        seconds = max(self.clock() - self._started_at, 0.001)
        return Rates(self.exported / seconds, self.received / seconds)

    def rates(self) -> Rates:
        """Return tasks and bytes per second since the call about ``RATE_SECONDS`` ago."""
        now = self.clock()
        self._samples.append((now, self.exported, self.received))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_SECONDS:
            self._samples.popleft()
        then, exported, received = self._samples[0]
        seconds = max(now - then, 0.001)
        return Rates((self.exported - exported) / seconds, (self.received - received) / seconds)

    def _end_attempt(self, event: AttemptEnded) -> None:
        task_id = event.task.id
        self.outcomes[type(event)] += 1
        self.active.pop(task_id, None)
        match event:
            case events.TaskCompleted():
                self._record_export(event)
            case events.TaskReleased():
                self.unexported.pop(task_id, None)
                return  # the task is still pending
            case events.SettlementUnconfirmed(error=error) | events.SettlementDeferred(error=error):
                self._record_unexported(task_id, "not settled", type(error).__name__, str(error))
                return
            case events.TaskCancelled(error=error):
                self.cooling += 1
                self._record_unexported(task_id, "cooling down", type(error).__name__, str(error))
            case events.TaskParked(hold=hold):
                self.parked += 1
                self._record_unexported(task_id, "parked", hold.error, hold.message)
            case events.TaskFailed(error=error):
                self._record_unexported(task_id, "failed", type(error).__name__, str(error))
            case events.ClaimRefused(error=error):  # it was queued, but never active
                self.queued -= self.queued > 0
                self._record_unexported(task_id, "refused", type(error).__name__, str(error))
            case events.ClaimLost(error=error):
                self._record_unexported(task_id, "lost", type(error).__name__, str(error))
        self.pending -= self.pending > 0

    def _record_export(self, event: events.TaskCompleted) -> None:
        self.files += event.files
        self.bytes += event.bytes
        self.last_work_at = self.last_event_at
        self.save_error = self.rejection = self.listing_error = None
        if event.task.id in self.unexported:
            del self.unexported[event.task.id]
        if event.seconds:  # unknown for a claim that an earlier run left
            self.duration_seconds += event.seconds
            self.durations[bisect_left(DURATION_BOUNDS, event.seconds)] += 1

    def _record_unexported(self, task_id: str, outcome: str, error: str, message: str) -> None:
        self.errors[error] += 1
        if len(self.unexported) < MAX_UNEXPORTED_TASKS or task_id in self.unexported:
            self.unexported[task_id] = UnexportedTask(outcome, error, message)

    def _record_listing(self, event: events.TasksListed) -> None:
        self.listed, self.listing_error, self.listed_tasks = True, None, event.listed
        self.last_listing_at, self.polled_at = self.last_event_at, self._now()
        self.listing_problem, self._next_problem = self._next_problem, ""
        self.oldest_created_at = event.oldest_created_at
        self.oldest_parked_created_at = event.oldest_parked_created_at
        self.parked, self.cooling = event.parked, event.held_back - event.parked
        if isinstance(self.save_error, DestinationError):  # the destination is probed before each listing
            self.save_error = None
        if self._queue_discarded:  # its tasks are listed again
            self._queue_discarded = False
            self.queued, self.pending = event.admitted, event.admitted + len(self.active)
        elif event.admitted or self.active:
            self.queued += event.admitted
            self.pending += event.admitted
        else:  # correct the numbers, because a listing may contain a task twice
            self.queued = self.pending = 0

    def _record_run_event(self, event: Event) -> None:
        match event:
            case events.TasksListed():
                self._record_listing(event)
            case events.ListingFailed(error=error):
                self.listing_error = error
                self.errors[type(error).__name__] += 1
            case events.RequestRetried(error=error):
                self.last_retry_at = self.last_event_at
                self.retries[type(error).__name__] += 1
            case events.RequestsPaused(seconds=seconds):
                self.requests_paused_until = max(self.requests_paused_until, self.last_event_at + seconds)
            case events.RequestsResumed():
                self.requests_paused_until = self.last_event_at
            case events.ListingIncomplete(reason=reason) | events.RowSkipped(reason=reason):
                self._next_problem = reason
            case events.ProjectsFiltered(left_out=left_out):
                self.left_out = left_out
            case events.ConcurrencyLimitChanged(limit=limit):
                self.limit = limit
            case events.ClaimingPaused(error=error) | events.ClaimingStillPaused(error=error):
                self.paused = error
                self.rejection = error if isinstance(error, RequestRejected) else None
                self.save_error = None if self.rejection else error
                self.queued, self._queue_discarded = 0, True
            case events.ClaimingResumed():
                self.paused = self.save_error = self.rejection = None
            case events.QuarantineUsed():
                self.quarantined_tasks, self.quarantine_bytes = event.tasks, event.used_bytes
                self.quarantine_max_bytes = event.max_bytes
            case events.CopyFailed():
                self.failed_copies += 1
            case events.TaskGone(task=task, hold=hold, reason=reason):
                message = f"{reason}; 'aluma-async redeliver' delivers its copy"
                self._record_unexported(task.id, "gone", hold.error, message)
            case events.DrainStarted():
                self.draining = True
            case events.RunEnded(summary=summary):
                self.summary = summary
                self.ended, self.paused = True, None
