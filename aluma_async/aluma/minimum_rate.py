"""``MinimumRate``: ends a response that arrives too slowly, although no single wait is too long."""

from aluma_async.exceptions import Unavailable

_WINDOW_SECONDS = 60.0
"""Seconds over which the rate is measured; only the time spent waiting for the network counts."""


class MinimumRate:
    """Requires an average of ``bytes_per_second`` while waiting for a response; 0: none."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._seconds = 0.0
        self._bytes = 0

    def record(self, operation: str, seconds: float, count: int) -> None:
        """Add ``count`` bytes received after waiting ``seconds``. Raises ``Unavailable`` if the average is too low."""
        self._seconds += seconds
        self._bytes += count
        if self._seconds < _WINDOW_SECONDS:
            return
        if self._bytes < self._bytes_per_second * self._seconds:
            raise Unavailable(
                f"{operation}: slower than {self._bytes_per_second:.0f} bytes per second",
                hint="Lower min_bytes_per_second under [limits] if the connection is that slow.",
            )
        self._seconds = self._bytes = 0
