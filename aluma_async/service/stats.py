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
MOST_LEFT = 10_000
"""So many tasks that were not exported are remembered with their reason."""


class Rates(NamedTuple):
    """What goes through each second."""

    tasks: float
    bytes: float


class InHand:
    """A task that is being exported."""

    __slots__ = ("bytes", "file", "files", "saved", "since", "task")

    def __init__(self, task: ExportTask, files: int, since: float) -> None:
        self.task = task
        self.since = since
        self.files = files
        self.saved = self.bytes = 0
        """Files that are staged, and bytes that came in."""
        self.file: ExportFile | None = None
        """The one that was last heard of."""


class Left(NamedTuple):
    """Why a task is not exported."""

    outcome: str
    """``cooling down``, ``parked`` or ``failed``."""
    error: str
    """The kind of error, and its message below."""
    message: str


class Tally:
    """The state of a run as its events tell it; ``clock`` is the event loop's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = clock()
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
        self.in_hand: dict[str, InHand] = {}
        """By task id, oldest first."""
        self.left: dict[str, Left] = {}
        """By task id; at most ``MOST_LEFT``, the first ones."""
        self.errors: Counter[str] = Counter()
        """Of tasks and listings, by kind."""
        self.retried = 0
        """Requests that were made again."""

    def __call__(self, event: Event) -> None:
        """Count an event."""
        if note := self._NOTES.get(type(event)):
            note(self, event)

    @property
    def known(self) -> int:
        """Tasks that are exported or still to be."""
        return self.exported + self.waiting

    @property
    def held_back(self) -> float:
        """Seconds until Aluma takes requests again."""
        return max(0.0, self._resume_at - self._clock())

    @property
    def queued(self) -> int:
        """Tasks that were listed and that nobody works on yet."""
        return max(0, self.waiting - len(self.in_hand))

    @property
    def parked(self) -> int:
        """Tasks that were parked by this run."""
        return sum(left.outcome == "parked" for left in self.left.values())

    def age(self, task: InHand) -> float:
        """For how many seconds a task is in hand."""
        return self._clock() - task.since

    def average(self) -> Rates:
        """Tasks and bytes a second since the beginning."""
        seconds = max(self._clock() - self._begun, 0.001)
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

    def _listed(self, event: events.TasksListed) -> None:
        self.listed = True
        self.cooling = event.held_back
        self.oldest_created_at = event.oldest_created_at
        # A listing may name a task twice; when nothing is left that has counted for nothing.
        idle = not event.admitted and not self.in_hand
        self.waiting = 0 if idle else self.waiting + event.admitted

    def _started(self, event: events.TaskStarted) -> None:
        self.in_hand[event.task.id] = InHand(event.task, event.files, self._clock())
        self.left.pop(event.task.id, None)

    def _received(self, event: events.BytesReceived) -> None:
        self.received += event.count
        if task := self.in_hand.get(event.task.id):
            task.bytes += event.count
            task.file = event.file

    def _saved(self, event: events.FileStaged) -> None:
        if task := self.in_hand.get(event.task.id):
            task.saved += 1
            task.file = event.file

    def _completed(self, event: events.TaskCompleted) -> None:
        self._settled(event)
        self.left.pop(event.task.id, None)
        self.exported += 1
        self.files += event.files
        self.bytes += event.bytes

    def _cancelled(self, event: events.TaskCancelled) -> None:
        self._settled(event)
        self.cooling += 1
        self._leave(event.task.id, "cooling down", type(event.error).__name__, str(event.error))

    def _parked(self, event: events.TaskParked) -> None:
        self._settled(event)
        self.cooling += 1
        self._leave(event.task.id, "parked", event.hold.error, event.hold.message)

    def _still_waiting(self, event: events.SettlementUnconfirmed | events.TaskReleased) -> None:
        self.in_hand.pop(event.task.id, None)

    def _failed(self, event: events.TaskFailed) -> None:
        self._settled(event)
        self.failed += 1
        self._leave(event.task.id, "failed", type(event.error).__name__, str(event.error))

    def _leave(self, task_id: str, outcome: str, error: str, message: str) -> None:
        self.errors[error] += 1
        if len(self.left) < MOST_LEFT or task_id in self.left:
            self.left[task_id] = Left(outcome, error, message)

    def _lost(self, event: events.ClaimRefused | events.ClaimLost) -> None:
        self._settled(event)
        self.lost += 1

    def _settled(self, event: Any) -> None:
        self.in_hand.pop(event.task.id, None)
        self.waiting = max(0, self.waiting - 1)

    def _listing_failed(self, event: events.ListingFailed) -> None:
        self.errors[type(event.error).__name__] += 1

    def _retried(self, _: events.RequestRetried) -> None:
        self.retried += 1

    def _paused(self, event: events.RequestsPaused) -> None:
        self._resume_at = self._clock() + event.seconds

    def _claiming_paused(self, event: events.ClaimingPaused | events.ClaimingStillPaused) -> None:
        self.paused = str(event.error)

    def _stopping(self, _: events.DrainStarted) -> None:
        self.stopped = True

    def _claiming_resumed(self, _: events.ClaimingResumed) -> None:
        self.paused = ""

    def _limited(self, event: events.ConcurrencyLimitChanged) -> None:
        self.limit = event.limit

    _NOTES: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        events.TasksListed: _listed,
        events.ListingFailed: _listing_failed,
        events.RequestRetried: _retried,
        events.TaskStarted: _started,
        events.BytesReceived: _received,
        events.FileStaged: _saved,
        events.TaskCompleted: _completed,
        events.TaskCancelled: _cancelled,
        events.TaskParked: _parked,
        events.SettlementUnconfirmed: _still_waiting,
        events.TaskFailed: _failed,
        events.ClaimRefused: _lost,
        events.ClaimLost: _lost,
        events.TaskReleased: _still_waiting,
        events.RequestsPaused: _paused,
        events.ConcurrencyLimitChanged: _limited,
        events.DrainStarted: _stopping,
        events.ClaimingPaused: _claiming_paused,
        events.ClaimingStillPaused: _claiming_paused,
        events.ClaimingResumed: _claiming_resumed,
    }
