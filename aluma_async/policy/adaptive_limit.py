"""``AdaptiveLimit``: finds the number of concurrent requests that Aluma accepts. A pure state machine.

The limit doubles until Aluma is overloaded, then is reduced, and grows in small steps to the largest number that was
accepted. There it stays, and from time to time probes one more.

A refused request (429, 503, a time-out) alone is no sign of overload, because it may be random. Each one adds one to a
count, and each accepted request that was sent with at least as many in flight takes a quarter away. So the count rises
only if more than one in five of these requests is refused, and at ``_OVERLOAD_COUNT`` Aluma is overloaded. For 429,
which pauses all requests, one in twice the limit is enough. Below ``_FLOOR``, only 429 reduces the limit, because it
says that the requests are too many.
"""

_OVERLOAD_FACTOR = 0.8
"""Factor after an overload: low enough to end the overload, high enough to recover in a few round trips."""
_SLOWDOWN_FACTOR = 0.9
"""Factor after inflated round trips: a slightly lower limit is enough to empty a queue at the server."""
_OVERLOAD_COUNT = 8.0
"""Count of refusals at which Aluma is overloaded; one random error in twenty, also in bursts, rarely reaches it."""
_ACCEPTED_WEIGHT = 0.25
"""Amount that an accepted request takes from the count, at most."""
_FLOOR = 4
"""Smallest limit after refusals other than 429, and after inflated round trips."""
_MIN_PROBE_SECONDS, _MAX_PROBE_SECONDS = 15.0, 60.0
"""Seconds below the overload limit before a probe; doubled after each failed probe, because a failed probe pauses all
requests for about a second."""
_PROBE_COUNT = 2.0
"""Count of refusals that ends a probe; the first 429 ends it at once, because it pauses all requests."""
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
        self.quota = float("inf")
        """A bound for a while. What was found before applies again when it is raised."""
        self._ceiling = float("inf")  # the largest value without overload, as far as is known
        self.refusals = 0.0
        """Count of refused requests, less a quarter of the accepted ones that were sent with as many in flight."""
        self._refused_level = float("inf")  # the smallest number in flight of the requests in ``refusals``
        self._accepted_weight = _ACCEPTED_WEIGHT
        self._accepted_level = 0  # the largest number in flight of the accepted requests since the last reduction
        self._probe_interval = _MIN_PROBE_SECONDS
        self._probe_at = 0.0
        self._probing = 0  # responses still required until a probe has succeeded
        self._changed_at = float("-inf")  # requests sent before then do not test the current limit
        self._mean_rtt = 0.0
        self._min_rtt: dict[bool, float] = {}  # True: in this period, False: in the previous one
        self._period_ends = float("-inf")

    @property
    def value(self) -> int:
        """The current limit, as a whole number; 0 only if the quota is."""
        return int(min(self._limit, self.quota))

    def set_maximum(self, maximum: int) -> None:
        """Change the upper bound."""
        self._maximum = maximum
        self._limit = min(self._limit, float(maximum))

    def record_success(self, sent_at: float, now: float, *, level: int, in_flight: int, measured: bool) -> None:
        """Record a successful request.

        Args:
            sent_at: Time when it was sent.
            now: Time of the response.
            level: Number of requests without a response when it was sent, itself included.
            in_flight: Number of requests that hold a permit now.
            measured: Whether its round trip is comparable with others.
        """
        if measured:
            self._measure(now - sent_at, now)
        if sent_at < self._changed_at:
            return
        self._accepted_level = max(level, self._accepted_level)
        if level >= self._refused_level:
            self.refusals -= self._accepted_weight
            if self.refusals <= 0:
                self._forget_refusals()
        if measured and self._rtt_is_inflated():
            self._reduce(_SLOWDOWN_FACTOR, min(_FLOOR, self.value), now)
            self._mean_rtt = 0.0
            return
        if in_flight < self.value:
            return  # the limit was not reached, so nothing is known about a higher one
        if self._probing:
            self._probing -= 1
            if not self._probing:
                self._ceiling, self._probe_interval = float("inf"), _MIN_PROBE_SECONDS
        elif self._limit < min(self._ceiling, self.quota):
            # One more per response doubles the limit in a round trip. Below a known ceiling, grow by an eighth of it.
            step = 1.0 if self._ceiling == float("inf") else max(1.0, self._ceiling / 8) / self._limit
            self._limit = min(self._limit + step, self._ceiling, self._maximum)
            self._probe_at = now + self._probe_interval
        elif now >= self._probe_at and self._limit < min(self._maximum, self.quota):
            self._limit += 1
            self._changed_at = now  # earlier requests do not test the new limit
            self._forget_refusals()
            self._probing = 2 * self.value

    def record_refusal(self, sent_at: float, now: float, *, level: int, rate_limited: bool, pause: float = 0.0) -> None:
        """Record a request that was refused or timed out.

        Args:
            sent_at: Time when it was sent.
            now: Time of the response.
            level: Number of requests without a response when it was sent, itself included.
            rate_limited: Whether the status was 429.
            pause: Its Retry-After in seconds.
        """
        if sent_at < self._changed_at:
            return
        self.refusals += 1
        self._refused_level = min(level, self._refused_level)
        # After the pause of a 429, a whole limit of requests is sent at once, and one refusal pauses all again.
        self._accepted_weight = min(_ACCEPTED_WEIGHT, 0.5 / self._limit) if rate_limited else _ACCEPTED_WEIGHT
        if self._probing:
            if not rate_limited and self.refusals < _PROBE_COUNT:
                return
            self._limit, self._probing = self._ceiling, 0
            self._probe_interval = max(self._probe_interval, min(2 * self._probe_interval, _MAX_PROBE_SECONDS))
            self._changed_at = now
            self._forget_refusals()
        elif self.refusals >= _OVERLOAD_COUNT:
            floor = 1 if rate_limited else min(_FLOOR, self.value)
            self._ceiling = max(
                floor, min(max(self._refused_level - 1, self._accepted_level, self._limit / 2), self.value - 1)
            )
            self._reduce(_OVERLOAD_FACTOR, floor, now)
            self._probe_interval = _MIN_PROBE_SECONDS
        else:
            return
        self._probe_interval = max(self._probe_interval, _PROBE_PAUSE_FACTOR * pause)
        self._probe_at = now + self._probe_interval

    def _reduce(self, factor: float, floor: int, now: float) -> None:
        self._limit = max(float(floor), min(min(self._limit, self.quota) * factor, self._ceiling))
        self._changed_at, self._accepted_level = now, 0
        self._forget_refusals()

    def _forget_refusals(self) -> None:
        self.refusals, self._refused_level = 0.0, float("inf")

    def _measure(self, seconds: float, now: float) -> None:
        if now >= self._period_ends:
            self._min_rtt = {False: self._min_rtt.get(True, seconds)}
            self._period_ends = now + _MEMORY_SECONDS
        self._min_rtt[True] = min(seconds, self._min_rtt.get(True, seconds))
        self._mean_rtt = seconds if not self._mean_rtt else self._mean_rtt + _SMOOTHING * (seconds - self._mean_rtt)

    def _rtt_is_inflated(self) -> bool:
        shortest = min(self._min_rtt.values())
        return self._mean_rtt > shortest * _RTT_INFLATION and self._mean_rtt > shortest + _RTT_INFLATION_SECONDS
