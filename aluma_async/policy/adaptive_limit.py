"""The adaptive limit: how many requests Aluma takes at once, found out from how it answers. A pure state machine.

It doubles until it is refused, then goes back a little and up again in small steps (additive increase,
multiplicative decrease) to just below where it was refused. There it stays, and now and then it tries one more.
"""

_OVERLOAD_FACTOR = 0.8
"""What a refusal leaves of the limit: far enough to let a crowd pass, near enough to be back in a few round trips."""
_SLOWDOWN_FACTOR = 0.9
"""What a round trip that has grown leaves of it: a queue at the server is emptied by a little less."""
_MIN_PROBE_SECONDS, _MAX_PROBE_SECONDS = 15.0, 60.0
"""How long it stays below where it was refused before it tries one more, at first and after each try in vain the
double: one costs everybody a pause of a second or so."""
_PROBE_PAUSE_FACTOR = 15.0
"""And for at least so many times the pause that the refusal asked for: a minute is dearer than a second."""
_RTT_INFLATION = 3.0
_RTT_INFLATION_SECONDS = 0.1
"""A round trip counts as grown beyond so many times the shortest one and so much: less is no queue worth fleeing."""
_MEMORY_SECONDS = 60.0
"""For how long the shortest round trip counts, at least: a route may change."""
_SMOOTHING = 0.1
"""The weight of a new round trip in their running mean."""


class AdaptiveLimit:
    """Between 1 and ``most``; ``value`` is the limit now, a whole number."""

    def __init__(self, maximum: int, *, initial: int = 16) -> None:
        self._maximum = maximum
        self._limit = float(min(initial, maximum))
        self._ceiling = float("inf")  # one below where it was refused last
        self._probe_interval = _MIN_PROBE_SECONDS
        self._probe_at = 0.0
        self._probing = 0  # answers that are missing until one more is found to be taken
        self._changed_at = float("-inf")  # refusals of what was sent before then speak of an earlier limit
        self._mean_rtt = 0.0
        self._min_rtt: dict[bool, float] = {}  # of this minute, and of the one before
        self._minute_ends = float("-inf")

    @property
    def value(self) -> int:
        """The limit."""
        return int(self._limit)

    def set_maximum(self, maximum: int) -> None:
        """Let another upper bound hold."""
        self._maximum = maximum
        self._limit = min(self._limit, float(maximum))

    def record_success(self, sent_at: float, now: float, *, in_flight: int, measured: bool) -> None:
        """A request was answered. ``timed``: its round trip may be compared with that of others."""
        if measured:
            self._measure(now - sent_at, now)
        if sent_at < self._changed_at:
            return
        if measured and self._rtt_is_inflated():
            self._limit = max(1.0, self._limit * _SLOWDOWN_FACTOR)
            self._changed_at, self._mean_rtt = now, 0.0
            return
        if in_flight < self.value:
            return  # the limit was not what held us back, so nothing is known of a higher one
        if self._probing:
            self._probing -= 1
            if not self._probing:
                self._ceiling, self._probe_interval = float("inf"), _MIN_PROBE_SECONDS
        elif self._limit < self._ceiling:
            # One more for each answer doubles it in a round trip; an eighth for all of them is the careful way.
            step = 1.0 if self._ceiling == float("inf") else max(1.0, self._ceiling / 8) / self._limit
            self._limit = min(self._limit + step, self._ceiling, self._maximum)
            self._probe_at = now + self._probe_interval
        elif now >= self._probe_at and self._limit < self._maximum:
            self._limit += 1
            self._changed_at = now  # what was sent before does not speak of it
            self._probing = 2 * self.value

    def record_overload(self, sent_at: float, now: float, pause: float = 0.0) -> None:
        """A request was refused for there being too many, or found no answer; it asked for a pause (seconds)."""
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
        if now >= self._minute_ends:
            self._min_rtt = {False: self._min_rtt.get(True, seconds)}
            self._minute_ends = now + _MEMORY_SECONDS
        self._min_rtt[True] = min(seconds, self._min_rtt.get(True, seconds))
        self._mean_rtt = seconds if not self._mean_rtt else self._mean_rtt + _SMOOTHING * (seconds - self._mean_rtt)

    def _rtt_is_inflated(self) -> bool:
        shortest = min(self._min_rtt.values())
        return self._mean_rtt > shortest * _RTT_INFLATION and self._mean_rtt > shortest + _RTT_INFLATION_SECONDS
