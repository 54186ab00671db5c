"""``Tally``: counts what the events of a run say, so that a display can be drawn from it at any time.

An event costs a look into a table and an addition. Rates and what is left to do are estimates.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from aluma_async import events
from aluma_async.events import Event

RATE_SECONDS = 10.0
"""Rates are those of the last so many seconds."""


class Rates(NamedTuple):
    """What goes through each second."""

    tasks: float
    bytes: float


class InHand(NamedTuple):
    """A task that is being exported."""

    name: str
    since: float


class Tally:
    """The state of a run as its events tell it; ``clock`` is the event loop's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
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
        self.cooling = 0
        """Tasks that cool down."""
        self.waiting = 0
        """Tasks that were listed and are not settled yet, those in hand included."""
        self.in_hand: dict[str, InHand] = {}
        """By task id, oldest first."""

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

    def ages(self) -> list[tuple[str, float]]:
        """Names of the tasks in hand and for how many seconds they are, oldest first."""
        now = self._clock()
        return [(task.name, now - task.since) for task in self.in_hand.values()]

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

    def _listed(self, event: events.QueueListed) -> None:
        self.listed = True
        self.cooling = event.held_back
        # A listing may name a task twice; when nothing is left that has counted for nothing.
        idle = not event.admitted and not self.in_hand
        self.waiting = 0 if idle else self.waiting + event.admitted

    def _started(self, event: events.TaskStarted) -> None:
        self.in_hand[event.task.id] = InHand(event.task.name or event.task.id, self._clock())

    def _received(self, event: events.BytesReceived) -> None:
        self.received += event.count

    def _completed(self, event: events.TaskCompleted) -> None:
        self._settled(event)
        self.exported += 1
        self.files += event.files
        self.bytes += event.bytes

    def _cancelled(self, event: events.TaskCancelled | events.TaskParked) -> None:
        self._settled(event)
        self.cooling += 1

    def _deferred(self, event: events.ClaimDeferred) -> None:
        self.in_hand.pop(event.task.id, None)

    def _failed(self, event: events.TaskFailed) -> None:
        self._settled(event)
        self.failed += 1

    def _lost(self, event: events.TaskRefused | events.ClaimLost) -> None:
        self._settled(event)
        self.lost += 1

    def _settled(self, event: Any) -> None:
        self.in_hand.pop(event.task.id, None)
        self.waiting = max(0, self.waiting - 1)

    def _paused(self, event: events.RequestsHeldBack) -> None:
        self._resume_at = self._clock() + event.seconds

    def _limited(self, event: events.LimitChanged) -> None:
        self.limit = event.limit

    _NOTES: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        events.QueueListed: _listed,
        events.TaskStarted: _started,
        events.BytesReceived: _received,
        events.TaskCompleted: _completed,
        events.TaskCancelled: _cancelled,
        events.TaskParked: _cancelled,
        events.ClaimDeferred: _deferred,
        events.TaskFailed: _failed,
        events.TaskRefused: _lost,
        events.ClaimLost: _lost,
        events.TaskReleased: _settled,
        events.RequestsHeldBack: _paused,
        events.LimitChanged: _limited,
    }
