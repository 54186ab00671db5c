"""Faults for the simulated Aluma: at random from a seed, or planned for the next requests. Pure."""

import random
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import TypeAlias


class Fault(StrEnum):
    """A fault that a request can meet."""

    DROP_BEFORE = "drop-before"
    """The connection is lost; the request is not executed."""
    DROP_AFTER = "drop-after"
    """The request is executed; the connection is lost before the response."""
    ERROR_BEFORE = "error-before"
    """Status 503; the request is not executed."""
    ERROR_AFTER = "error-after"
    """Status 502, as from a proxy; the request is executed."""
    THROTTLE = "throttle"
    """Status 429 with a Retry-After of one second; the request is not executed."""
    UNAUTHORISED = "unauthorised"
    """Status 401; all tokens are revoked."""
    TRUNCATE = "truncate"
    """The body of the response is truncated."""
    HTML = "html"
    """Status 200 with a web page; the request is not executed."""
    HANG = "hang"
    """No response before the client's time-out; the request is not executed."""
    LATE = "late"
    """No response before the client's time-out; the request is executed later."""
    SLOW = "slow"
    """The request is executed; the response is delayed."""


class WrongReply(StrEnum):
    """A reply that does not come from Aluma, or that is not the one to this request.

    Unless stated otherwise, the request is not executed.
    """

    NOT_FOUND = "not-found"
    """Status 404 with an error message as JSON, as from an API gateway without the route."""
    NOT_FOUND_PAGE = "not-found-page"
    """Status 404 with a text, as from an ingress controller without a backend."""
    LOG_IN = "log-in"
    """Status 401, although the token is valid."""
    FORBIDDEN = "forbidden"
    """Status 403."""
    NOT_ALLOWED = "not-allowed"
    """Status 405 with a web page."""
    OTHER_SUCCESS = "other-success"
    """Status 201; the request is executed."""
    BLOCKED = "blocked"
    """The request is executed, and a proxy replaces the response by a status 403 with a web page."""
    JSON_ERROR = "json-error"
    """Status 200 with an error message as JSON."""
    LOG_IN_PAGE = "log-in-page"
    """Status 200 with a web page, and the content type of the requested file."""
    EMPTY = "empty"
    """Status 200 with an empty body."""
    CUT = "cut"
    """Status 200 with the first half of the file, and the length of that half, if that differs from a whole file."""
    DOUBLY_CHUNKED = "doubly-chunked"
    """Status 200 with the file in the frame of a chunk."""
    ALTERED = "altered"
    """Status 200 with another byte in the middle of the file, and the digest of the right file."""
    OTHER_VERSION = "other-version"
    """A download is interrupted; its resumption continues with another version of the file."""
    OTHER_SPECIFICATION = "other-specification"
    """The request is executed; the response is that to an earlier Start of the same client, if there is one."""
    DAMAGED_TEXT = "damaged-text"
    """The request is executed; the response has one more text, which is not valid Unicode and differs each time."""
    CUT_SPECIFICATION = "cut-specification"
    """The request is executed; the response is the first half of the specification, with the length of that half."""
    PARTIAL_SPECIFICATION = "partial-specification"
    """The request is executed; the response is valid, has not the last file, and names a next page."""
    MAINTENANCE = "maintenance"
    """Status 200 with a state that Aluma does not have."""
    LONG_PAUSE = "long-pause"
    """Status 503 with a Retry-After of an hour."""
    SURPLUS = "surplus"
    """The request is executed; a second response follows on the same connection."""


PROXY_REPLIES = (
    WrongReply.NOT_FOUND,
    WrongReply.NOT_FOUND_PAGE,
    WrongReply.LOG_IN,
    WrongReply.FORBIDDEN,
    WrongReply.NOT_ALLOWED,
)
"""Replies of a proxy to a request of any verb."""
WRONG_FILES = (
    WrongReply.JSON_ERROR,
    WrongReply.LOG_IN_PAGE,
    WrongReply.EMPTY,
    WrongReply.CUT,
    WrongReply.DOUBLY_CHUNKED,
    WrongReply.ALTERED,
)
"""Replies to a download with wrong bytes."""
VERBS = ("list", "start", "complete", "cancel", "fail", "get", "file", "token")
"""The kinds of requests."""
REPLY_VERBS: Mapping[WrongReply, Collection[str]] = {
    # Not "get", because a wrong 404 to it looks as if Aluma had deleted the task.
    WrongReply.NOT_FOUND: ("list", "start", "complete", "cancel", "fail", "file"),
    **dict.fromkeys(
        (WrongReply.NOT_FOUND_PAGE, WrongReply.LOG_IN, WrongReply.FORBIDDEN, WrongReply.NOT_ALLOWED), VERBS
    ),
    WrongReply.OTHER_SUCCESS: ("start",),
    WrongReply.OTHER_SPECIFICATION: ("start",),
    WrongReply.DAMAGED_TEXT: ("start",),
    WrongReply.CUT_SPECIFICATION: ("start",),
    WrongReply.PARTIAL_SPECIFICATION: ("start",),
    WrongReply.BLOCKED: ("start", "complete", "cancel", "fail"),
    **dict.fromkeys((*WRONG_FILES, WrongReply.OTHER_VERSION), ("file",)),
    WrongReply.MAINTENANCE: ("get",),
    WrongReply.LONG_PAUSE: VERBS,
    WrongReply.SURPLUS: ("start", "complete", "get", "file"),
}
"""The requests that a random wrong reply is for."""
LONG_PAUSE_SECONDS = 3600.0
"""Retry-After of ``WrongReply.LONG_PAUSE``: longer than a lease."""
AnyFault: TypeAlias = Fault | WrongReply


class FaultPlan:
    """Decides which fault each request meets.

    Args:
        rates: Probability of each fault; it applies to requests of every verb, that of a wrong reply to
            ``REPLY_VERBS``.
        seed: Seed of the random decisions.
        burst: Probability that a fault is followed by the same fault.
    """

    def __init__(
        self,
        rates: Mapping[Fault, float] | Mapping[AnyFault, float] | None = None,
        *,
        seed: int = 0,
        burst: float = 0.2,
    ) -> None:
        self._rates = dict[AnyFault, float]((rates or {}).items())
        self._seconds = random.Random(f"{seed}/seconds")
        self._chance = random.Random(seed)
        self._burst = burst
        self._last: AnyFault | None = None
        self._planned: dict[str, deque[AnyFault | None]] = defaultdict(deque)

    def plan(self, verb: str, faults: Iterable[AnyFault | None]) -> None:
        """Plan the faults of the next requests of a verb (None: no fault). Later requests meet random faults again."""
        self._planned[verb].extend(faults)

    def end(self) -> None:
        """Remove all faults, random and planned."""
        self._rates.clear()
        self._planned.clear()
        self._last = None

    def seconds(self, kind: Fault) -> float:
        """Return a random delay in seconds: of a response (``SLOW``) or of the execution of a request (``LATE``)."""
        return self._seconds.choice((1.0, 10.0, 40.0) if kind is Fault.SLOW else (65.0, 100.0, 260.0, 800.0))

    def remaining(self, verb: str) -> int:
        """Return the number of planned faults of a verb that have not occurred yet."""
        return len(self._planned[verb])

    def next(self, verb: str) -> AnyFault | None:
        """Return the fault of the next request. ``verb`` is one of ``VERBS``."""
        if self._planned[verb]:
            return self._planned[verb].popleft()
        if self._last and self._chance.random() < self._burst and verb in _verbs(self._last):
            return self._last
        self._last = next(
            (kind for kind, rate in self._rates.items() if self._chance.random() < rate and verb in _verbs(kind)), None
        )
        return self._last


def _verbs(kind: AnyFault) -> Collection[str]:
    return REPLY_VERBS[kind] if isinstance(kind, WrongReply) else VERBS
