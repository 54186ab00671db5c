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
from aluma_async.service.formatting import format_duration, pluralize

_POLLS_MISSED = 3
_FRESH_SECONDS = 60.0
"""The last listing is fresh for so many waits between listings, and for at least so long."""


class Check(Struct, frozen=True):
    """A verdict; ``reason`` says why it is not well."""

    ok: bool
    reason: str = ""


class HealthMonitor:
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
        self._last_event_at = self._last_work_at = self._listed_at = clock()
        self._paused_until = self._last_retry_at = float("-inf")
        self._last_activity: dict[str, float] = {}  # when each task in hand was last heard of
        self._listing_error: AlumaAsyncError | None = None  # why there was no listing, of late
        self._pause_error: AlumaAsyncError | None = None  # why nothing is claimed
        self._probe_error: AlumaAsyncError | None = None  # what came of trying the destination

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        self._last_event_at = self._clock()
        if handler := self._HANDLERS.get(type(event)):
            handler(self, event)

    @property
    def tasks_in_progress(self) -> int:
        """How many tasks are claimed."""
        return len(self._last_activity)

    @property
    def idle_seconds(self) -> float:
        """For how long no task was begun or exported."""
        return self._clock() - self._last_work_at

    def record_probe(self, error: AlumaAsyncError | None) -> None:
        """Take note of what came of trying the destination while there was nothing to do."""
        self._probe_error = error

    def stuck_reason(self) -> str:
        """Say what does not advance; empty if all does."""
        now = self._clock()
        if self._ended:
            return ""
        if (
            silent := now - max(self._last_event_at, self._paused_until)
        ) > self.poll_seconds + self.stuck_after_seconds:
            return f"nothing has happened for {format_duration(silent)}"
        since = max(self._last_retry_at, self._paused_until)  # those who wait for that are as silent as the stuck
        late = [sign for sign in self._last_activity.values() if now - max(sign, since) > self.stuck_after_seconds]
        return (
            f"no sign of {pluralize(len(late), 'task')} in hand for {format_duration(now - min(late))}" if late else ""
        )

    def readiness(self) -> dict[str, Check]:
        """Judge whether work can be done, part by part."""
        if not self.listed:
            return {"exporter": Check(ok=False, reason="has not begun: Aluma has not told yet what waits")}
        now = self._clock()
        age = now - max(self._listed_at, self._last_work_at)
        refused = isinstance(self._listing_error, AuthenticationFailed)
        unsaved = self._pause_error or self._probe_error
        fresh = age <= max(_POLLS_MISSED * self.poll_seconds, _FRESH_SECONDS)
        return {
            "exporter": Check(not self.draining, "draining: nothing new is claimed" if self.draining else ""),
            "token": Check(not refused, _told(self._listing_error) if refused else ""),
            "destination": Check(unsaved is None, _told(unsaved)),
            "poll": Check(
                fresh, "" if fresh else _told(self._listing_error) or f"no listing for {format_duration(age)}"
            ),
        }

    # -- what events do

    def _on_tasks_listed(self, _: events.TasksListed) -> None:
        self.listed, self._listing_error, self._listed_at = True, None, self._last_event_at
        if isinstance(self._pause_error, DestinationError):  # it was tried before what waits was listed
            self._pause_error = None

    def _on_listing_failed(self, event: events.ListingFailed) -> None:
        self._listing_error = event.error

    def _on_claiming_paused(self, event: events.ClaimingPaused | events.ClaimingStillPaused) -> None:
        self._pause_error = event.error

    def _on_claiming_resumed(self, _: events.ClaimingResumed) -> None:
        self._pause_error = None

    def _on_task_started(self, event: events.TaskStarted) -> None:
        self._last_activity[event.task.id] = self._last_work_at = self._last_event_at

    def _on_task_progress(self, event: events.BytesReceived | events.FileStaged) -> None:
        self._last_activity[event.task.id] = self._last_event_at

    def _on_attempt_ended(self, event: Any) -> None:
        self._last_activity.pop(event.task.id, None)

    def _on_task_completed(self, event: events.TaskCompleted) -> None:
        self._last_activity.pop(event.task.id, None)
        self._last_work_at, self._pause_error, self._probe_error = self._last_event_at, None, None

    def _on_request_retried(self, _: events.RequestRetried) -> None:
        self._last_retry_at = self._last_event_at

    def _on_requests_paused(self, event: events.RequestsPaused) -> None:
        self._paused_until = max(self._paused_until, self._last_event_at + event.seconds)

    def _on_drain_started(self, _: events.DrainStarted) -> None:
        self.draining = True

    def _on_run_ended(self, _: events.RunEnded) -> None:
        self._ended = True

    _HANDLERS: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        events.TasksListed: _on_tasks_listed,
        events.ListingFailed: _on_listing_failed,
        events.ClaimingPaused: _on_claiming_paused,
        events.ClaimingStillPaused: _on_claiming_paused,
        events.ClaimingResumed: _on_claiming_resumed,
        events.TaskStarted: _on_task_started,
        events.BytesReceived: _on_task_progress,
        events.FileStaged: _on_task_progress,
        events.TaskCompleted: _on_task_completed,
        events.TaskCancelled: _on_attempt_ended,
        events.TaskParked: _on_attempt_ended,
        events.TaskReleased: _on_attempt_ended,
        events.TaskFailed: _on_attempt_ended,
        events.ClaimRefused: _on_attempt_ended,
        events.ClaimLost: _on_attempt_ended,
        events.SettlementUnconfirmed: _on_attempt_ended,
        events.SettlementDeferred: _on_attempt_ended,
        events.RequestRetried: _on_request_retried,
        events.RequestsPaused: _on_requests_paused,
        events.DrainStarted: _on_drain_started,
        events.RunEnded: _on_run_ended,
    }


def _told(error: AlumaAsyncError | None) -> str:
    """Tell an error with what can be done about it."""
    if error is None:
        return ""
    return f"{error}. {error.hint}" if error.hint else str(error)
