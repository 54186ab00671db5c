"""How long a claim is ours, and what may still be said about it. Pure: the time is an argument.

Aluma has neither a heartbeat nor a token that tells one claim from the next (its guide: a claim ends 30
minutes after Start, then the task waits again). So its end is counted from before Start was sent.
"""

from enum import Enum, auto

from aluma_async.models import Timestamp

SAFE_LEASE_FRACTION = 5 / 6
"""The share of Aluma's time-out after which a claim may not be ours any more: 25 of 30 minutes."""
LATE_START_SECONDS = 900.0
"""How long a request that was lost sight of may still be carried out: longer than proxies hold one back."""


class LeaseStatus(Enum):
    """Whose a claim is."""

    VALID = auto()
    UNCERTAIN = auto()
    """It may be over already: Aluma has to be asked."""
    EXPIRED = auto()
    """Aluma has given the task back to the queue."""


def elapsed(earlier: Timestamp, later: Timestamp) -> float:
    """Seconds between two moments; infinite where the clock was set back, so that nothing passes for fresh."""
    if earlier.boot == later.boot:
        return later.boottime - earlier.boottime
    seconds = later.wall - earlier.wall
    return seconds if seconds >= 0 else float("inf")


def lease_status(age: float, timeout: float) -> LeaseStatus:
    """Judge a claim of so many seconds; ``timeout`` is Aluma's."""
    if age < timeout * SAFE_LEASE_FRACTION:
        return LeaseStatus.VALID
    return LeaseStatus.UNCERTAIN if age < timeout else LeaseStatus.EXPIRED


def remaining(since: Timestamp, seconds: float, now: Timestamp) -> float:
    """What is left of ``seconds`` that began at ``since``; never more than all of them, whatever the clocks did."""
    gone = elapsed(since, now)
    return seconds if gone == float("inf") else min(seconds, max(0.0, seconds - gone))
