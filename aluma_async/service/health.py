"""``HealthMonitor``: decides whether an exporter is alive, and whether it can work, from the state of its run.

Health checks and the watchdog read it. Alive means that the poll loop and every worker make progress: one without any
event for long is stuck, even if the event loop runs. Waiting does not count as stuck, because it emits events.
"""

from collections.abc import Callable

from msgspec import Struct

from aluma_async.exceptions import AlumaAsyncError
from aluma_async.pipeline.throttle import Outage
from aluma_async.service.formatting import format_duration, pluralize
from aluma_async.service.stats import RunStats

_MAX_MISSED_POLLS = 3
_FRESH_SECONDS = 60.0
"""A listing is fresh for ``_MAX_MISSED_POLLS`` polling intervals, and at least for this time."""
_MAX_OUTAGE_SECONDS = 15.0
"""Requests may fail, or wait for a response, for this time; less than their time-out, to notice a hang."""


class Check(Struct, frozen=True):
    """The result of a check; ``reason`` is empty if it is ok."""

    ok: bool
    reason: str = ""


class HealthMonitor:
    """A view of ``stats``, and the result of the last probe.

    Args:
        stats: The state of the run.
        poll_seconds: Longest time between two listings.
        stuck_after_seconds: Time without progress after which a task counts as stuck.
    """

    def __init__(self, stats: RunStats, *, poll_seconds: float, stuck_after_seconds: float) -> None:
        self._stats = stats
        self._poll_seconds = poll_seconds
        self._stuck_after_seconds = stuck_after_seconds
        self._probe_error: AlumaAsyncError | None = None
        self._exported_at_probe = 0
        self.outage: Callable[[], Outage] = lambda: Outage(0.0)
        """Returns for how long no request to Aluma has succeeded."""

    @property
    def idle_seconds(self) -> float:
        """Seconds since a task was started or exported; 0 before the first listing."""
        return self._stats.clock() - self._stats.last_work_at if self._stats.listed else 0.0

    def record_probe(self, error: AlumaAsyncError | None) -> None:
        """Record the result of a probe of the destination. It counts until a task is exported."""
        self._probe_error, self._exported_at_probe = error, self._stats.exported

    def stuck_reason(self) -> str:
        """Return why the exporter is stuck; empty if it makes progress."""
        stats, now = self._stats, self._stats.clock()
        if stats.ended:
            return ""
        silence = now - max(stats.last_event_at, stats.requests_paused_until)
        if silence > self._poll_seconds + self._stuck_after_seconds:
            return f"no activity for {format_duration(silence)}"
        waiting_since = max(stats.last_retry_at, stats.requests_paused_until)  # these waits concern all tasks
        stuck = [
            task.last_activity_at
            for task in stats.active.values()
            if now - max(task.last_activity_at, waiting_since) > self._stuck_after_seconds
        ]
        if not stuck:
            return ""
        return f"{pluralize(len(stuck), 'task')} without progress for {format_duration(now - min(stuck))}"

    def readiness(self) -> dict[str, Check]:
        """Return whether each part can work."""
        stats = self._stats
        if not stats.listed:
            return {"exporter": Check(ok=False, reason="starting: the first listing has not succeeded yet")}
        unauthorized = stats.authentication_error
        probe_error = self._probe_error if self._exported_at_probe == stats.exported else None
        age = stats.clock() - max(stats.last_listing_at, stats.last_work_at)
        stale = age > max(_MAX_MISSED_POLLS * self._poll_seconds, _FRESH_SECONDS)
        poll_ok = not stale and stats.listing_error in (None, unauthorized)
        poll_reason = _reason(stats.listing_error) or f"no listing for {format_duration(age)}"
        return {
            "exporter": Check(not stats.draining, "draining: no new tasks are claimed" if stats.draining else ""),
            "token": _check(unauthorized),
            "claims": _check(None if unauthorized else stats.rejection),
            "destination": _check(stats.save_error or probe_error),
            "poll": Check(poll_ok, "" if poll_ok else poll_reason),
            "requests": _check_requests(self.outage()),
        }

    def is_ready(self) -> bool:
        """Return whether all parts can work."""
        return all(check.ok for check in self.readiness().values())


def _check_requests(outage: Outage) -> Check:
    if outage.seconds <= _MAX_OUTAGE_SECONDS:
        return Check(ok=True)
    duration, error = format_duration(outage.seconds), outage.error
    if error is None:
        return Check(ok=False, reason=f"no response for {duration}")
    pause = f", Aluma asked for a pause of {format_duration(error.retry_after)}" if error.retry_after else ""
    return Check(ok=False, reason=f"no request has succeeded for {duration}{pause}: {error.text}")


def _check(error: AlumaAsyncError | None) -> Check:
    return Check(error is None, _reason(error))


def _reason(error: AlumaAsyncError | None) -> str:
    return error.text if error else ""
