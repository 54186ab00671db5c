"""``Vitals``: whether an exporter is alive, and whether it can do its work, as its events tell.

Whoever answers for it (a health check, a watchdog) reads them. Alive means advancing: a poll loop or a worker
of which nothing is heard for long is stuck, however well the event loop turns. An exporter that waits says so.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from msgspec import Struct

from aluma_async import events
from aluma_async.events import Event
from aluma_async.exceptions import AlumaAsyncError, AuthenticationFailed, DestinationError
from aluma_async.service.formatting import counted, span

_POLLS_MISSED = 3
_FRESH_SECONDS = 60.0
"""The last listing is fresh for so many waits between listings, and for at least so long."""


class Check(Struct, frozen=True):
    """A verdict; ``reason`` says why it is not well."""

    ok: bool
    reason: str = ""


class Vitals:
    """``clock`` is the event loop's; listings come every ``poll_seconds`` at least.

    ``stuck_after_seconds`` is how long a task may be in hand without any sign of it.
    """

    def __init__(self, clock: Callable[[], float], *, poll_seconds: float, stuck_after_seconds: float) -> None:
        self._clock = clock
        self.poll_seconds = poll_seconds
        self.stuck_after_seconds = stuck_after_seconds
        self.listed = False
        """Whether Aluma has told what waits, so that the credentials are good."""
        self.draining = False
        self._ended = False
        self._heard_at = self._worked_at = self._listed_at = clock()
        self._paused_until = self._retried_at = float("-inf")
        self._signs: dict[str, float] = {}  # when each task in hand was last heard of
        self._unlisted: AlumaAsyncError | None = None  # why there was no listing, of late
        self._unsaved: AlumaAsyncError | None = None  # why nothing is claimed
        self._refused: AlumaAsyncError | None = None  # what came of trying the destination

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self._heard_at = self._clock()
        if note := self._NOTES.get(type(event)):
            note(self, event)

    @property
    def in_hand(self) -> int:
        """How many tasks are claimed."""
        return len(self._signs)

    @property
    def idle_seconds(self) -> float:
        """For how long no task was begun or exported."""
        return self._clock() - self._worked_at

    def probed(self, error: AlumaAsyncError | None) -> None:
        """Take note of what came of trying the destination while there was nothing to do."""
        self._refused = error

    def stuck(self) -> str:
        """Say what does not advance; empty if all does."""
        now = self._clock()
        if self._ended:
            return ""
        if (silent := now - max(self._heard_at, self._paused_until)) > self.poll_seconds + self.stuck_after_seconds:
            return f"nothing has happened for {span(silent)}"
        since = max(self._retried_at, self._paused_until)  # those who wait for that are as silent as the stuck
        late = [sign for sign in self._signs.values() if now - max(sign, since) > self.stuck_after_seconds]
        return f"no sign of {counted(len(late), 'task')} in hand for {span(now - min(late))}" if late else ""

    def ready(self) -> dict[str, Check]:
        """Judge whether work can be done, part by part."""
        if not self.listed:
            return {"exporter": Check(ok=False, reason="has not begun: Aluma has not told yet what waits")}
        now = self._clock()
        age = now - max(self._listed_at, self._worked_at)
        refused = isinstance(self._unlisted, AuthenticationFailed)
        unsaved = self._unsaved or self._refused
        fresh = age <= max(_POLLS_MISSED * self.poll_seconds, _FRESH_SECONDS)
        return {
            "exporter": Check(not self.draining, "draining: nothing new is claimed" if self.draining else ""),
            "token": Check(not refused, _told(self._unlisted) if refused else ""),
            "destination": Check(unsaved is None, _told(unsaved)),
            "poll": Check(fresh, "" if fresh else _told(self._unlisted) or f"no listing for {span(age)}"),
        }

    # -- what events do

    def _listed(self, _: events.TasksListed) -> None:
        self.listed, self._unlisted, self._listed_at = True, None, self._heard_at
        if isinstance(self._unsaved, DestinationError):  # it was tried before what waits was listed
            self._unsaved = None

    def _not_listed(self, event: events.ListingFailed) -> None:
        self._unlisted = event.error

    def _paused(self, event: events.ClaimingPaused | events.ClaimingStillPaused) -> None:
        self._unsaved = event.error

    def _resumed(self, _: events.ClaimingResumed) -> None:
        self._unsaved = None

    def _started(self, event: events.TaskStarted) -> None:
        self._signs[event.task.id] = self._worked_at = self._heard_at

    def _moved(self, event: events.BytesReceived | events.FileStaged) -> None:
        self._signs[event.task.id] = self._heard_at

    def _settled(self, event: Any) -> None:
        self._signs.pop(event.task.id, None)

    def _completed(self, event: events.TaskCompleted) -> None:
        self._signs.pop(event.task.id, None)
        self._worked_at, self._unsaved, self._refused = self._heard_at, None, None

    def _retried(self, _: events.RequestRetried) -> None:
        self._retried_at = self._heard_at

    def _held_back(self, event: events.RequestsPaused) -> None:
        self._paused_until = max(self._paused_until, self._heard_at + event.seconds)

    def _drains(self, _: events.DrainStarted) -> None:
        self.draining = True

    def _ends(self, _: events.RunEnded) -> None:
        self._ended = True

    _NOTES: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        events.TasksListed: _listed,
        events.ListingFailed: _not_listed,
        events.ClaimingPaused: _paused,
        events.ClaimingStillPaused: _paused,
        events.ClaimingResumed: _resumed,
        events.TaskStarted: _started,
        events.BytesReceived: _moved,
        events.FileStaged: _moved,
        events.TaskCompleted: _completed,
        events.TaskCancelled: _settled,
        events.TaskParked: _settled,
        events.TaskReleased: _settled,
        events.TaskFailed: _settled,
        events.ClaimRefused: _settled,
        events.ClaimLost: _settled,
        events.SettlementUnconfirmed: _settled,
        events.SettlementDeferred: _settled,
        events.RequestRetried: _retried,
        events.RequestsPaused: _held_back,
        events.DrainStarted: _drains,
        events.RunEnded: _ends,
    }


def _told(error: AlumaAsyncError | None) -> str:
    """Tell an error with what can be done about it."""
    if error is None:
        return ""
    return f"{error}. {error.hint}" if error.hint else str(error)
