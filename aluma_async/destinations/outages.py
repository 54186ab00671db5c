"""``Outages``: the destinations of a router that are unavailable although others work."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aluma_async.clock import loop_time
from aluma_async.exceptions import AlumaAsyncError, DestinationUnavailable

RETRY_SECONDS = 30.0
"""Seconds after which one task tries an unavailable destination again."""


class _Outage(NamedTuple):
    error: AlumaAsyncError
    retry_at: float


class Outages:
    """Refuses the tasks of unavailable destinations at once, so that they occupy no worker of other tasks."""

    def __init__(self) -> None:
        self._outages: dict[str, _Outage] = {}

    def record(self, errors: Mapping[str, AlumaAsyncError]) -> None:
        """Record the errors of the destinations, by name; all others work."""
        retry_at = loop_time() + RETRY_SECONDS
        self._outages = {name: _Outage(error, retry_at) for name, error in errors.items()}

    def add(self, name: str, error: DestinationUnavailable, destinations: int) -> None:
        """Record an error that concerns all tasks of one of so many destinations, and whether it spares others."""
        self._outages[name] = _Outage(error, loop_time() + RETRY_SECONDS)
        error.spares_others = len(self._outages) < destinations

    def check(self, names: Iterable[str]) -> None:
        """Raise ``DestinationUnavailable`` if one of the destinations is unavailable and is not to be tried now."""
        for name in names:
            if outage := self._outages.get(name):
                if loop_time() < outage.retry_at:
                    error = DestinationUnavailable(str(outage.error), hint=outage.error.hint)
                    error.spares_others = True
                    raise error
                self._outages[name] = _Outage(outage.error, loop_time() + RETRY_SECONDS)

    def end(self, names: Iterable[str]) -> None:
        """Record that a delivery to these destinations has succeeded."""
        for name in names:
            self._outages.pop(name, None)
