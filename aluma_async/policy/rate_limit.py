"""``RateLimit``: a rate limit as a pure state machine (generic cell rate algorithm), without clock and sleep."""


class RateLimit:
    """At most ``rate`` units per second, evenly spaced, after a burst of at most ``burst`` units.

    A single ``consume`` may exceed the burst; later callers then wait longer.
    """

    def __init__(self, rate: float, burst: float = 1.0) -> None:
        self._seconds_each = 1 / rate
        self._tolerance = (burst - 1) * self._seconds_each
        self._due = 0.0

    def delay_until_allowed(self, now: float) -> float:
        """Return the seconds from ``now`` until a unit may be consumed; 0 or less means at once."""
        return self._due - self._tolerance - now

    def consume(self, now: float, units: float = 1.0) -> None:
        """Consume units, even if they are not allowed yet."""
        self._due = max(self._due, now) + units * self._seconds_each
