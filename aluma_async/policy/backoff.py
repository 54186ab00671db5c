"""Delays between attempts. Pure: random numbers are an argument, and no clock is needed.

This module does not decide *whether* a request may be repeated; that depends on the request.
"""

from collections.abc import Callable

from msgspec import Struct


def exponential(initial: float, maximum: float, times: int) -> float:
    """Return ``initial`` for the first time and twice as much for each further time, but at most ``maximum``."""
    return min(maximum, initial * 2.0 ** min(times - 1, 60))


class RetryPolicy(Struct, frozen=True):
    """Retries of one request: at most ``attempts`` attempts, with exponential backoff and full jitter."""

    attempts: int = 5
    wait_initial: float = 0.5
    wait_max: float = 30.0

    def delay(self, failed: int, uniform: Callable[[float, float], float]) -> float | None:
        """Return the seconds to wait after ``failed`` failed attempts; None if no attempt is left."""
        if failed >= self.attempts:
            return None
        return uniform(0, exponential(self.wait_initial, self.wait_max, failed))


class Backoff(Struct, frozen=True):
    """Exponential backoff with jitter, used for task cool-downs and for the polling interval.

    ``jitter`` is the fraction by which a delay may be shorter or longer; ``maximum`` applies before jitter.
    """

    initial: float
    maximum: float
    jitter: float = 0.2

    def delay(self, times: int, uniform: Callable[[float, float], float]) -> float:
        """Return the seconds to wait after ``times`` failures in a row (from 1)."""
        return exponential(self.initial, self.maximum, times) * uniform(1 - self.jitter, 1 + self.jitter)
