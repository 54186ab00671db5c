"""What an error means for a task: the one place that decides between skip, hold back, cancel and fail."""

from enum import Enum, auto

from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    BadReply,
    BadSpecification,
    CredentialsRefused,
    Refused,
    Unavailable,
)
from aluma_async.models import ExportSpec


class Verdict(Enum):
    """What to do with a task that was not exported."""

    SKIP = auto()
    """Somebody else has it."""
    LOST = auto()
    """We had it, and the claim ended without us."""
    AWAY = auto()
    """Aluma could not be asked for it, which says nothing of the task."""
    HOLD = auto()
    """We never had it, so there is nothing to give back; it cools down."""
    CANCEL = auto()
    """We have it or may have it: give it back; it cools down."""
    FAIL = auto()
    """It can never be exported."""


_AWAY = (Unavailable, CredentialsRefused)
_CLAIMED_BUT_UNREADABLE = (Ambiguous, BadReply, BadSpecification)


def verdict(error: AlumaAsyncError, *, claimed: bool, attempt: int) -> Verdict:
    """Judge the error that ended the ``attempt``-th attempt (from 1) at a task.

    ``claimed`` says whether Start had been answered with a specification.
    """
    if isinstance(error, Refused):
        return Verdict.LOST if claimed else Verdict.SKIP
    if not claimed and not isinstance(error, _CLAIMED_BUT_UNREADABLE):
        return Verdict.AWAY if isinstance(error, _AWAY) else Verdict.HOLD
    if error.fatal_after is not None and attempt >= error.fatal_after:
        return Verdict.FAIL
    return Verdict.CANCEL


def flaw(spec: ExportSpec) -> str:
    """Why a specification can never be exported as it stands; empty if nothing speaks against it."""
    if not spec.files:
        return "the Export Specification names no file"
    return next((f"file {file.number}: {file.problem}" for file in spec.files if file.problem), "")
