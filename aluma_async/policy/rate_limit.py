"""A rate as a pure state machine (generic cell rate algorithm): it knows no clock and never sleeps."""


class RateLimit:
    """At most ``rate`` units a second, evenly, after a burst of at most ``burst`` units.

    A single ``consume`` of more than the burst is allowed; those after it wait the longer.
    """

    def __init__(self, rate: float, burst: float = 1.0) -> None:
        self._seconds_each = 1 / rate
        self._tolerance = (burst - 1) * self._seconds_each
        self._due = 0.0

    def delay_until_allowed(self, now: float) -> float:
        """Seconds from ``now`` until a unit may be taken; 0 or less: at once."""
        return self._due - self._tolerance - now

    def consume(self, now: float, units: float = 1.0) -> None:
        """Take some units, whether their time has come or not."""
        self._due = max(self._due, now) + units * self._seconds_each
