"""``RequestPause``: the time in which no request may be sent, because Aluma asked for it or answered 429.

Urgent requests settle claims, which expire, so they wait for a part of a long pause only. A pause that only requests
about single tasks were answered with may be theirs alone; it is *unverified* until another request has tested it.
It sends nothing and does not wait.
"""

from aluma_async.exceptions import RateLimited, SourceError
from aluma_async.policy.backoff import exponential
from aluma_async.ports import Uniform

MAX_PAUSE_SECONDS = 3600.0
"""Upper limit of a pause; a longer Retry-After is cut to this."""
MAX_URGENT_PAUSE_SECONDS = 120.0
"""Upper limit of a pause for requests that settle claims, because claims expire. Then they are tried one by one."""
_DEFAULT_PAUSE = (5.0, 300.0)  # first and longest pause in seconds after a 429 without Retry-After
_MIN_VERIFIED_SECONDS = 10.0  # a shorter pause is waited for, because a limited rate often asks for one
_MIN_VERIFIED_COUNT = 2  # pauses in a row after 429 without Retry-After
_MAX_REFUSALS = 3
"""Number of 429 without Retry-After to the same request about a task, while others succeed, from which on it causes no
pause."""
_MAX_OPERATIONS = 1024
"""Number of operations whose refusals are remembered."""


class RequestPause:
    """The current pause. ``max_urgent_seconds`` is its upper limit for urgent requests."""

    def __init__(self, max_urgent_seconds: float, uniform: Uniform) -> None:
        self.until = 0.0
        """End of the pause; 0 without one."""
        self.urgent_until = 0.0
        """Time of the next urgent request in a pause; 0 if urgent requests need not wait."""
        self.refused_at = 0.0
        """Time of the last response that asked for a pause."""
        self.rate_limited_count = 0
        """Number of pauses in a row after 429 without Retry-After."""
        self._max_urgent_seconds = max_urgent_seconds
        self._uniform = uniform
        self._is_of_tasks = False
        self._longest = 0.0
        self._refusals: dict[str, tuple[int, float]] = {}  # their number, and the time of the last one, by operation

    @property
    def is_unverified(self) -> bool:
        """Whether a long pause was caused only by requests about single tasks, so that it may be theirs alone."""
        is_long = self._longest >= _MIN_VERIFIED_SECONDS or self.rate_limited_count >= _MIN_VERIFIED_COUNT
        return self._is_of_tasks and is_long

    def begin(self, error: SourceError, now: float, succeeded_at: float) -> float | None:
        """Begin or extend the pause that an error asks for; return its seconds if it lasts longer than before.

        ``succeeded_at`` is the time of the last success. Sets ``error.spares_others`` if only its task must wait.
        """
        seconds = error.retry_after
        if seconds is None and isinstance(error, RateLimited):
            if error.operation and self._is_known(error.operation, now, succeeded_at):
                error.spares_others = True
            # Refusals of the same moment count as one; sixteen workers would otherwise cause the longest pause at once.
            elif now >= self.until:
                self.rate_limited_count += 1
                seconds = self._uniform(1.0, exponential(*_DEFAULT_PAUSE, self.rate_limited_count))
        if seconds is None:
            return None
        seconds = min(seconds, MAX_PAUSE_SECONDS)
        self.refused_at = now
        until = now + seconds + self._uniform(0, min(1.0, seconds / 10))
        is_of_task = bool(error.operation)
        self._is_of_tasks = is_of_task and (self._is_of_tasks or not self.until)
        self._longest = max(self._longest, seconds)
        self.urgent_until = max(self.urgent_until, min(until, now + self._max_urgent_seconds))
        if until <= self.until:
            return None
        self.until = until
        return seconds

    def extend(self, seconds: float, now: float) -> bool:
        """Begin or extend a pause that concerns all requests; return whether it lasts longer than before."""
        until = now + min(seconds, MAX_PAUSE_SECONDS)
        self._is_of_tasks = False
        self.urgent_until = max(self.urgent_until, min(until, now + self._max_urgent_seconds))
        if until <= self.until:
            return False
        self.until = until
        return True

    def end(self) -> None:
        """End the pause."""
        self.until = self.urgent_until = self._longest = 0.0
        self._is_of_tasks = False

    def delay_next_urgent(self, now: float) -> None:
        """Let the next urgent request wait after the one that is sent now, unless one succeeds."""
        if self.urgent_until:
            self.urgent_until = now + self._max_urgent_seconds

    def _is_known(self, operation: str, now: float, succeeded_at: float) -> bool:
        """Count a refusal; return whether the operation was refused before, again and again, while others succeeded."""
        count, refused_at = self._refusals.pop(operation, (0, float("-inf")))
        if len(self._refusals) >= _MAX_OPERATIONS:
            del self._refusals[next(iter(self._refusals))]
        count += succeeded_at > refused_at
        self._refusals[operation] = count, now
        return count >= _MAX_REFUSALS
