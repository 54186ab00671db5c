"""How long to wait before something is tried again. Pure: chance is an argument, time is not needed.

It does not decide *whether* a request may be repeated; that depends on the request.
"""

from collections.abc import Callable

from msgspec import Struct


def exponential(initial: float, maximum: float, times: int) -> float:
    """``initial`` seconds, doubled with each of ``times`` after the first, and never over ``maximum``."""
    return min(maximum, initial * 2.0 ** min(times - 1, 60))


class RetryPolicy(Struct, frozen=True):
    """Repetition of one request: at most ``attempts`` in all, with full jitter."""

    attempts: int = 5
    wait_initial: float = 0.5
    wait_max: float = 30.0

    def delay(self, failed: int, uniform: Callable[[float, float], float]) -> float | None:
        """Seconds to wait after the ``failed``-th failed attempt (from 1); None if it was the last one."""
        if failed >= self.attempts:
            return None
        return uniform(0, exponential(self.wait_initial, self.wait_max, failed))


class Backoff(Struct, frozen=True):
    """A wait that grows with each disappointment: the cool-down of a task, the wait between two listings.

    ``jitter`` is the share by which a wait may be shorter or longer; the maximum holds before the jitter.
    """

    initial: float
    maximum: float
    jitter: float = 0.2

    def delay(self, times: int, uniform: Callable[[float, float], float]) -> float:
        """Seconds to wait after the ``times``-th disappointment in a row (from 1)."""
        return exponential(self.initial, self.maximum, times) * uniform(1 - self.jitter, 1 + self.jitter)
