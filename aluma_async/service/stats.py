"""``Tally``: counts what the events of a run say, so that a display can be drawn from it at any time.

An event costs a look into a table and an addition. Rates and what is left to do are estimates.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from aluma_async import events
from aluma_async.events import Event
from aluma_async.models import ExportFile, ExportTask

RATE_SECONDS = 10.0
"""Rates are those of the last so many seconds."""
MAX_UNEXPORTED_TASKS = 10_000
"""So many tasks that were not exported are remembered with their reason."""


class Rates(NamedTuple):
    """What goes through each second."""

    tasks: float
    bytes: float


class ActiveTask:
    """A task that is being exported."""

    __slots__ = ("bytes", "file", "files", "saved", "started_at", "task")

    def __init__(self, task: ExportTask, files: int, started_at: float) -> None:
        self.task = task
        self.started_at = started_at
        self.files = files
        self.saved = self.bytes = 0
        """Files that are staged, and bytes that came in."""
        self.file: ExportFile | None = None
        """The one that was last heard of."""


class UnexportedTask(NamedTuple):
    """Why a task is not exported."""

    outcome: str
    """``cooling down``, ``parked`` or ``failed``."""
    error: str
    """The kind of error, and its message below."""
    message: str


class RunStats:
    """The state of a run as its events tell it; ``clock`` is the event loop's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_at = clock()
        self._samples = deque([(clock(), 0, 0)])
        self._resume_at = 0.0
        self.listed = False
        """Whether Aluma has told what waits."""
        self.exported = self.files = self.bytes = 0
        """Tasks completed, with their files and bytes."""
        self.received = 0
        """Bytes that came in, for whatever became of their task."""
        self.failed = self.lost = 0
        self.limit = 0
        """Requests in flight at most, where that was found out; 0: not yet."""
        self.stopped = False
        """Whether nothing new is claimed, since the run ends."""
        self.paused = ""
        """Why nothing is claimed for now; empty: it is."""
        self.cooling = 0
        """Tasks that cool down."""
        self.waiting = 0
        """Tasks that were listed and are not settled yet, those in hand included."""
        self.oldest_created_at: float | None = None
        """Creation of the oldest task listed, seconds since 1970."""
        self.active: dict[str, ActiveTask] = {}
        """By task id, oldest first."""
        self.unexported: dict[str, UnexportedTask] = {}
        """By task id; at most ``MOST_LEFT``, the first ones."""
        self.errors: Counter[str] = Counter()
        """Of tasks and listings, by kind."""
        self.retried = 0
        """Requests that were made again."""

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if handler := self._HANDLERS.get(type(event)):
            handler(self, event)

    @property
    def total(self) -> int:
        """Tasks that are exported or still to be."""
        return self.exported + self.waiting

    @property
    def requests_paused_seconds(self) -> float:
        """Seconds until Aluma takes requests again."""
        return max(0.0, self._resume_at - self._clock())

    @property
    def queued(self) -> int:
        """Tasks that were listed and that nobody works on yet."""
        return max(0, self.waiting - len(self.active))

    @property
    def parked(self) -> int:
        """Tasks that were parked by this run."""
        return sum(task.outcome == "parked" for task in self.unexported.values())

    def age(self, task: ActiveTask) -> float:
        """For how many seconds a task is in hand."""
        return self._clock() - task.started_at

    def average(self) -> Rates:
        """Tasks and bytes a second since the beginning."""
        seconds = max(self._clock() - self._started_at, 0.001)
        return Rates(self.exported / seconds, self.received / seconds)

    def rates(self) -> Rates:
        """Tasks and bytes a second, since the call made about ``RATE_SECONDS`` ago."""
        now = self._clock()
        self._samples.append((now, self.exported, self.received))
        while len(self._samples) > 2 and self._samples[1][0] <= now - RATE_SECONDS:
            self._samples.popleft()
        then, exported, received = self._samples[0]
        seconds = max(now - then, 0.001)
        return Rates((self.exported - exported) / seconds, (self.received - received) / seconds)

    # -- what events do

    def _on_tasks_listed(self, event: events.TasksListed) -> None:
        self.listed = True
        self.cooling = event.held_back
        self.oldest_created_at = event.oldest_created_at
        # A listing may name a task twice; when nothing is left that has counted for nothing.
        idle = not event.admitted and not self.active
        self.waiting = 0 if idle else self.waiting + event.admitted

    def _on_task_started(self, event: events.TaskStarted) -> None:
        self.active[event.task.id] = ActiveTask(event.task, event.files, self._clock())
        self.unexported.pop(event.task.id, None)

    def _on_bytes_received(self, event: events.BytesReceived) -> None:
        self.received += event.count
        if task := self.active.get(event.task.id):
            task.bytes += event.count
            task.file = event.file

    def _on_file_staged(self, event: events.FileStaged) -> None:
        if task := self.active.get(event.task.id):
            task.saved += 1
            task.file = event.file

    def _on_task_completed(self, event: events.TaskCompleted) -> None:
        self._on_attempt_ended(event)
        self.unexported.pop(event.task.id, None)
        self.exported += 1
        self.files += event.files
        self.bytes += event.bytes

    def _on_task_cancelled(self, event: events.TaskCancelled) -> None:
        self._on_attempt_ended(event)
        self.cooling += 1
        self._record_unexported(event.task.id, "cooling down", type(event.error).__name__, str(event.error))

    def _on_task_parked(self, event: events.TaskParked) -> None:
        self._on_attempt_ended(event)
        self.cooling += 1
        self._record_unexported(event.task.id, "parked", event.hold.error, event.hold.message)

    def _on_claim_released(self, event: events.SettlementUnconfirmed | events.TaskReleased) -> None:
        self.active.pop(event.task.id, None)

    def _on_task_failed(self, event: events.TaskFailed) -> None:
        self._on_attempt_ended(event)
        self.failed += 1
        self._record_unexported(event.task.id, "failed", type(event.error).__name__, str(event.error))

    def _record_unexported(self, task_id: str, outcome: str, error: str, message: str) -> None:
        self.errors[error] += 1
        if len(self.unexported) < MAX_UNEXPORTED_TASKS or task_id in self.unexported:
            self.unexported[task_id] = UnexportedTask(outcome, error, message)

    def _on_claim_lost(self, event: events.ClaimRefused | events.ClaimLost) -> None:
        self._on_attempt_ended(event)
        self.lost += 1

    def _on_attempt_ended(self, event: Any) -> None:
        self.active.pop(event.task.id, None)
        self.waiting = max(0, self.waiting - 1)

    def _on_listing_failed(self, event: events.ListingFailed) -> None:
        self.errors[type(event.error).__name__] += 1

    def _on_request_retried(self, _: events.RequestRetried) -> None:
        self.retried += 1

    def _on_requests_paused(self, event: events.RequestsPaused) -> None:
        self._resume_at = self._clock() + event.seconds

    def _on_claiming_paused(self, event: events.ClaimingPaused | events.ClaimingStillPaused) -> None:
        self.paused = str(event.error)

    def _on_drain_started(self, _: events.DrainStarted) -> None:
        self.stopped = True

    def _on_claiming_resumed(self, _: events.ClaimingResumed) -> None:
        self.paused = ""

    def _on_concurrency_limit_changed(self, event: events.ConcurrencyLimitChanged) -> None:
        self.limit = event.limit

    _HANDLERS: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        events.TasksListed: _on_tasks_listed,
        events.ListingFailed: _on_listing_failed,
        events.RequestRetried: _on_request_retried,
        events.TaskStarted: _on_task_started,
        events.BytesReceived: _on_bytes_received,
        events.FileStaged: _on_file_staged,
        events.TaskCompleted: _on_task_completed,
        events.TaskCancelled: _on_task_cancelled,
        events.TaskParked: _on_task_parked,
        events.SettlementUnconfirmed: _on_claim_released,
        events.TaskFailed: _on_task_failed,
        events.ClaimRefused: _on_claim_lost,
        events.ClaimLost: _on_claim_lost,
        events.TaskReleased: _on_claim_released,
        events.RequestsPaused: _on_requests_paused,
        events.ConcurrencyLimitChanged: _on_concurrency_limit_changed,
        events.DrainStarted: _on_drain_started,
        events.ClaimingPaused: _on_claiming_paused,
        events.ClaimingStillPaused: _on_claiming_paused,
        events.ClaimingResumed: _on_claiming_resumed,
    }
