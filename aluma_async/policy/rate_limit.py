"""``RateLimit``: a rate limit as a pure state machine (generic cell rate algorithm), without clock and sleep."""


class RateLimit:
    """At most ``rate`` units per second, evenly spaced, after a burst of at most ``burst`` units.

    A single ``consume`` may exceed the burst; later callers then wait longer.
    """

    def __init__(self, rate: float, burst: float = 1.0) -> None:
        self._seconds_each = 1 / rate
        self._tolerance = (burst - 1) * self._seconds_each
        self._due = 0.0

    @property
    def rate(self) -> float:
        """Units per second."""
        return 1 / self._seconds_each

    def set_rate(self, rate: float, burst: float, now: float) -> None:
        """Change the rate from ``now`` on. Units that were consumed before they were allowed still count."""
        ahead = max(0.0, self.units_ahead(now))
        self._seconds_each = 1 / rate
        self._tolerance = (burst - 1) * self._seconds_each
        if ahead or self._due > now:
            self._due = now + self._tolerance + ahead * self._seconds_each

    def units_ahead(self, now: float) -> float:
        """Return how many units more than allowed were consumed; 0 or less: none."""
        return self.delay_until_allowed(now) / self._seconds_each

    def delay_until_allowed(self, now: float) -> float:
        """Return the seconds from ``now`` until a unit may be consumed; 0 or less means at once."""
        return self._due - self._tolerance - now

    def consume(self, now: float, units: float = 1.0) -> None:
        """Consume units, even if they are not allowed yet."""
        self._due = max(self._due, now) + units * self._seconds_each


def with_rate(limit: RateLimit | None, rate: float, burst: float, now: float) -> RateLimit | None:
    """Return a limit with another rate; None for 0. It is kept, because a new one would allow a burst."""
    if not rate:
        return None
    if limit is None:
        return RateLimit(rate, burst)
    limit.set_rate(rate, burst, now)
    return limit
