"""What an error means for a task: the one place that decides between skip, hold back, cancel, fail and leave."""

from enum import Enum, auto

from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    BadReply,
    BadSpecification,
    CredentialsRefused,
    JournalError,
    Refused,
    Unavailable,
)
from aluma_async.models import ExportSpec, Step


class Verdict(Enum):
    """What to do with a task that was not exported."""

    SKIP = auto()
    """Somebody else has it."""
    LOST = auto()
    """We had it, and the claim ended without us."""
    AWAY = auto()
    """Aluma could not be asked for it, or that could not be written down, which says nothing of the task."""
    HOLD = auto()
    """We never had it, so there is nothing to give back; it cools down."""
    CANCEL = auto()
    """We have it or may have it: give it back; it cools down."""
    FAIL = auto()
    """It can never be exported."""
    LEAVE = auto()
    """All that is left is a last word that may have been heard: nothing else may be said, and that again later."""


_AWAY = (Unavailable, CredentialsRefused, JournalError)
_CLAIMED_BUT_UNREADABLE = (Ambiguous, BadReply, BadSpecification)


def verdict(error: AlumaAsyncError, *, step: Step | None, attempt: int) -> Verdict:
    """Judge the error that ended the ``attempt``-th attempt (from 1) at a task.

    ``step`` says how far its claim had come; None or ``STARTED``: Start was not answered with a specification.
    """
    claimed = step not in (None, Step.STARTED)
    if isinstance(error, Refused):
        return Verdict.LOST if claimed else Verdict.SKIP
    if step in (Step.COMMITTED, Step.FAILING):
        return Verdict.LEAVE
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
