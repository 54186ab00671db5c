"""Faults to switch on in a simulated Aluma: at random from a seed, or the next ones by name. Pure."""

import random
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from enum import StrEnum


class Fault(StrEnum):
    """What goes wrong with a request."""

    DROP_BEFORE = "drop-before"
    """The connection is lost; the request is not carried out."""
    DROP_AFTER = "drop-after"
    """The request is carried out; the connection is lost before the reply."""
    ERROR_BEFORE = "error-before"
    """503; not carried out."""
    ERROR_AFTER = "error-after"
    """502, as a proxy gives it; carried out."""
    THROTTLE = "throttle"
    """429 with a Retry-After of one second."""
    UNAUTHORISED = "unauthorised"
    """401; the token is not good any more."""
    TRUNCATE = "truncate"
    """The body ends early."""
    HTML = "html"
    """200 with a web page."""
    HANG = "hang"
    """No reply until the client gives up; not carried out."""
    LATE = "late"
    """No reply until the client gives up; carried out after that."""
    SLOW = "slow"
    """Carried out, and the reply takes its time."""


class FaultPlan:
    """Decides for each request, by its verb, what goes wrong with it.

    ``rates`` gives a probability by kind, for all verbs. A fault comes alone or, with the chance
    ``burst``, is followed by the same again.
    """

    def __init__(self, rates: Mapping[Fault, float] | None = None, *, seed: int = 0, burst: float = 0.2) -> None:
        self._rates = dict(rates or {})
        self._seconds = random.Random(f"{seed}/seconds")
        self._chance = random.Random(seed)
        self._burst = burst
        self._last: Fault | None = None
        self._planned: dict[str, deque[Fault | None]] = defaultdict(deque)

    def plan(self, verb: str, faults: Iterable[Fault | None]) -> None:
        """Let the next requests of a verb meet just these faults (None: none), before chance decides again."""
        self._planned[verb].extend(faults)

    def end(self) -> None:
        """Let nothing go wrong any more."""
        self._rates.clear()
        self._planned.clear()
        self._last = None

    def seconds(self, kind: Fault) -> float:
        """How long something takes: a reply (``SLOW``), or until a request is carried out after all (``LATE``)."""
        return self._seconds.choice((1.0, 10.0, 40.0) if kind is Fault.SLOW else (65.0, 100.0, 260.0, 800.0))

    def remaining(self, verb: str) -> int:
        """How many of the planned faults of a verb have not happened yet."""
        return len(self._planned[verb])

    def next(self, verb: str) -> Fault | None:
        """What goes wrong with the next request of a verb: list, start, complete, cancel, fail, get, file, token."""
        if self._planned[verb]:
            return self._planned[verb].popleft()
        if self._last and self._chance.random() < self._burst:
            return self._last
        self._last = next((kind for kind, rate in self._rates.items() if self._chance.random() < rate), None)
        return self._last
