"""How long a claim is valid. Pure: the time is an argument.

Aluma has neither a heartbeat nor a fencing token that distinguishes one claim from the next. Its guide: a claim ends 30
minutes after Start, then the task is pending again. So the lease is measured from before Start was sent.
"""

from enum import Enum, auto

from aluma_async.models import Timestamp

SAFE_LEASE_FRACTION = 5 / 6
"""Fraction of the lease in which a claim is certainly valid: 25 of 30 minutes."""
LATE_START_SECONDS = 900.0
"""Seconds for which Aluma may still execute a Start of unknown outcome; longer than proxies delay a request."""


class LeaseStatus(Enum):
    """Validity of a claim's lease."""

    VALID = auto()
    """The claim certainly belongs to this exporter."""
    UNCERTAIN = auto()
    """The lease may have expired; read the task's state before settling the claim."""
    EXPIRED = auto()
    """The claim has ended, and the task is pending again; send nothing."""


def elapsed(earlier: Timestamp, later: Timestamp) -> float:
    """Return the seconds between two times; infinite if the clock was set back, so that no record seems recent."""
    if earlier.boot == later.boot:
        return later.boottime - earlier.boottime
    seconds = later.wall - earlier.wall
    return seconds if seconds >= 0 else float("inf")


def lease_age(sent_at: Timestamp, now: Timestamp) -> float:
    """Return the age of a lease by the clock that has gone further.

    The boot's clock stands still while a hypervisor pauses the machine; the wall clock can be set back.
    """
    return max(elapsed(sent_at, now), now.wall - sent_at.wall)


def lease_status(age: float, timeout: float) -> LeaseStatus:
    """Return the status of a claim by its age; both values are seconds, ``timeout`` is the length of the lease."""
    if age < timeout * SAFE_LEASE_FRACTION:
        return LeaseStatus.VALID
    return LeaseStatus.UNCERTAIN if age < timeout else LeaseStatus.EXPIRED


def remaining(since: Timestamp, seconds: float, now: Timestamp) -> float:
    """Return the rest of a period of ``seconds`` that began at ``since``: never more than all of it."""
    passed = elapsed(since, now)
    return seconds if passed == float("inf") else min(seconds, max(0.0, seconds - passed))
