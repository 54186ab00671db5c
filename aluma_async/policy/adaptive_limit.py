"""``AdaptiveLimit``: finds the number of concurrent requests that Aluma accepts. A pure state machine.

The limit doubles until Aluma is overloaded, then is reduced and grows in small steps (additive increase, multiplicative
decrease) to just below the value that caused the overload. There it stays, and from time to time probes one more.
"""

_OVERLOAD_FACTOR = 0.8
"""Factor after an overload: low enough to end the overload, high enough to recover in a few round trips."""
_SLOWDOWN_FACTOR = 0.9
"""Factor after inflated round trips: a slightly lower limit is enough to empty a queue at the server."""
_MIN_PROBE_SECONDS, _MAX_PROBE_SECONDS = 15.0, 60.0
"""Seconds below the overload limit before a probe; doubled after each failed probe, because a failed probe pauses all
requests for about a second."""
_PROBE_PAUSE_FACTOR = 15.0
"""Wait at least this many times the server's Retry-After before probing again, so that long pauses occur rarely."""
_RTT_INFLATION = 3.0
_RTT_INFLATION_SECONDS = 0.1
"""Round trips count as inflated above this multiple of the shortest one, and by at least this many seconds."""
_MEMORY_SECONDS = 60.0
"""Minimum seconds for which the shortest round trip is remembered; it expires because the network path may change."""
_SMOOTHING = 0.1
"""Weight of a new round trip in the moving average."""


class AdaptiveLimit:
    """A limit between 1 and ``maximum``, which begins at ``initial``."""

    def __init__(self, maximum: int, *, initial: int = 16) -> None:
        self._maximum = maximum
        self._limit = float(min(initial, maximum))
        self._ceiling = float("inf")  # one below the value of the last overload
        self._probe_interval = _MIN_PROBE_SECONDS
        self._probe_at = 0.0
        self._probing = 0  # responses still required until a probe has succeeded
        self._changed_at = float("-inf")  # requests sent before then do not test the current limit
        self._mean_rtt = 0.0
        self._min_rtt: dict[bool, float] = {}  # True: in this period, False: in the previous one
        self._period_ends = float("-inf")

    @property
    def value(self) -> int:
        """The current limit, as a whole number."""
        return int(self._limit)

    def set_maximum(self, maximum: int) -> None:
        """Change the upper bound."""
        self._maximum = maximum
        self._limit = min(self._limit, float(maximum))

    def record_success(self, sent_at: float, now: float, *, in_flight: int, measured: bool) -> None:
        """Record a successful request; ``measured``: its round trip is comparable with others."""
        if measured:
            self._measure(now - sent_at, now)
        if sent_at < self._changed_at:
            return
        if measured and self._rtt_is_inflated():
            self._limit = max(1.0, self._limit * _SLOWDOWN_FACTOR)
            self._changed_at, self._mean_rtt = now, 0.0
            return
        if in_flight < self.value:
            return  # the limit was not reached, so nothing is known about a higher one
        if self._probing:
            self._probing -= 1
            if not self._probing:
                self._ceiling, self._probe_interval = float("inf"), _MIN_PROBE_SECONDS
        elif self._limit < self._ceiling:
            # One more per response doubles the limit in a round trip. Below a known ceiling, grow by an eighth of it.
            step = 1.0 if self._ceiling == float("inf") else max(1.0, self._ceiling / 8) / self._limit
            self._limit = min(self._limit + step, self._ceiling, self._maximum)
            self._probe_at = now + self._probe_interval
        elif now >= self._probe_at and self._limit < self._maximum:
            self._limit += 1
            self._changed_at = now  # earlier requests do not test the new limit
            self._probing = 2 * self.value

    def record_overload(self, sent_at: float, now: float, pause: float = 0.0) -> None:
        """Record a request that was rejected or timed out; ``pause`` is its Retry-After in seconds."""
        if sent_at < self._changed_at:
            return
        if self._probing:
            self._limit, self._probing = self._ceiling, 0
            self._probe_interval = max(self._probe_interval, min(2 * self._probe_interval, _MAX_PROBE_SECONDS))
        else:
            self._ceiling = max(1.0, self.value - 1)
            self._limit = max(1.0, self._limit * _OVERLOAD_FACTOR)
            self._probe_interval = _MIN_PROBE_SECONDS
        self._changed_at = now
        self._probe_interval = max(self._probe_interval, _PROBE_PAUSE_FACTOR * pause)
        self._probe_at = now + self._probe_interval

    def _measure(self, seconds: float, now: float) -> None:
        if now >= self._period_ends:
            self._min_rtt = {False: self._min_rtt.get(True, seconds)}
            self._period_ends = now + _MEMORY_SECONDS
        self._min_rtt[True] = min(seconds, self._min_rtt.get(True, seconds))
        self._mean_rtt = seconds if not self._mean_rtt else self._mean_rtt + _SMOOTHING * (seconds - self._mean_rtt)

    def _rtt_is_inflated(self) -> bool:
        shortest = min(self._min_rtt.values())
        return self._mean_rtt > shortest * _RTT_INFLATION and self._mean_rtt > shortest + _RTT_INFLATION_SECONDS
