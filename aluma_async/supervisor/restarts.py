"""``Restarts``: when a process that has failed is started again, and when the service gives up. Pure."""

from collections import deque

from aluma_async.policy.backoff import exponential

MAX_FAILURES, WITHIN_SECONDS = 5, 60.0
"""So many failures in so many seconds end the service."""
_INITIAL_SECONDS, _MAX_SECONDS = 0.25, 30.0


class Restarts:
    """The failures of one process."""

    def __init__(self) -> None:
        self.count = 0
        """Number of restarts."""
        self._failures: deque[float] = deque(maxlen=MAX_FAILURES)
        self._in_a_row = 0

    def delay(self, started_at: float, now: float) -> float | None:
        """Record a failure; return the seconds until the restart, or None to give up.

        The delay doubles with each failure, and begins again after a minute without one.
        """
        if now - started_at > WITHIN_SECONDS:
            self._in_a_row = 0
        self._in_a_row += 1
        self._failures.append(now)
        if len(self._failures) == MAX_FAILURES and now - self._failures[0] <= WITHIN_SECONDS:
            return None
        self.count += 1
        return exponential(_INITIAL_SECONDS, _MAX_SECONDS, self._in_a_row)
