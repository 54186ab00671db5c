"""The adaptive limit: how many requests Aluma takes at once, found out from how it answers. A pure state machine.

It doubles until it is refused, then goes back a little and up again in small steps (additive increase,
multiplicative decrease) to just below where it was refused. There it stays, and now and then it tries one more.
"""

_BACK = 0.8
"""What a refusal leaves of the limit: far enough to let a crowd pass, near enough to be back in a few round trips."""
_SLOWER = 0.9
"""What a round trip that has grown leaves of it: a queue at the server is emptied by a little less."""
_PROBE_SECONDS, _PROBE_SECONDS_MAX = 15.0, 60.0
"""How long it stays below where it was refused before it tries one more, at first and after each try in vain the
double: one costs everybody a pause of a second or so."""
_PROBE_PAUSES = 15.0
"""And for at least so many times the pause that the refusal asked for: a minute is dearer than a second."""
_INFLATION = 3.0
_INFLATION_SECONDS = 0.1
"""A round trip counts as grown beyond so many times the shortest one and so much: less is no queue worth fleeing."""
_MEMORY_SECONDS = 60.0
"""For how long the shortest round trip counts, at least: a route may change."""
_SMOOTHING = 0.1
"""The weight of a new round trip in their running mean."""


class AdaptiveLimit:
    """Between 1 and ``most``; ``value`` is the limit now, a whole number."""

    def __init__(self, most: int, *, first: int = 16) -> None:
        self._most = most
        self._limit = float(min(first, most))
        self._ceiling = float("inf")  # one below where it was refused last
        self._patience = _PROBE_SECONDS
        self._probe_at = 0.0
        self._probing = 0  # answers that are missing until one more is found to be taken
        self._settled_at = float("-inf")  # refusals of what was sent before then speak of an earlier limit
        self._mean = 0.0
        self._shortest: dict[bool, float] = {}  # of this minute, and of the one before
        self._minute_ends = float("-inf")

    @property
    def value(self) -> int:
        """The limit."""
        return int(self._limit)

    def at_most(self, most: int) -> None:
        """Let another upper bound hold."""
        self._most = most
        self._limit = min(self._limit, float(most))

    def answered(self, sent_at: float, now: float, *, in_flight: int, timed: bool) -> None:
        """A request was answered. ``timed``: its round trip may be compared with that of others."""
        if timed:
            self._measure(now - sent_at, now)
        if sent_at < self._settled_at:
            return
        if timed and self._is_grown():
            self._limit = max(1.0, self._limit * _SLOWER)
            self._settled_at, self._mean = now, 0.0
            return
        if in_flight < self.value:
            return  # the limit was not what held us back, so nothing is known of a higher one
        if self._probing:
            self._probing -= 1
            if not self._probing:
                self._ceiling, self._patience = float("inf"), _PROBE_SECONDS
        elif self._limit < self._ceiling:
            # One more for each answer doubles it in a round trip; an eighth for all of them is the careful way.
            step = 1.0 if self._ceiling == float("inf") else max(1.0, self._ceiling / 8) / self._limit
            self._limit = min(self._limit + step, self._ceiling, self._most)
            self._probe_at = now + self._patience
        elif now >= self._probe_at and self._limit < self._most:
            self._limit += 1
            self._settled_at = now  # what was sent before does not speak of it
            self._probing = 2 * self.value

    def refused(self, sent_at: float, now: float, pause: float = 0.0) -> None:
        """A request was refused for there being too many, or found no answer; it asked for a pause (seconds)."""
        if sent_at < self._settled_at:
            return
        if self._probing:
            self._limit, self._probing = self._ceiling, 0
            self._patience = max(self._patience, min(2 * self._patience, _PROBE_SECONDS_MAX))
        else:
            self._ceiling = max(1.0, self.value - 1)
            self._limit = max(1.0, self._limit * _BACK)
            self._patience = _PROBE_SECONDS
        self._settled_at = now
        self._patience = max(self._patience, _PROBE_PAUSES * pause)
        self._probe_at = now + self._patience

    def _measure(self, seconds: float, now: float) -> None:
        if now >= self._minute_ends:
            self._shortest = {False: self._shortest.get(True, seconds)}
            self._minute_ends = now + _MEMORY_SECONDS
        self._shortest[True] = min(seconds, self._shortest.get(True, seconds))
        self._mean = seconds if not self._mean else self._mean + _SMOOTHING * (seconds - self._mean)

    def _is_grown(self) -> bool:
        shortest = min(self._shortest.values())
        return self._mean > shortest * _INFLATION and self._mean > shortest + _INFLATION_SECONDS
