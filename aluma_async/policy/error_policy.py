"""What an error means for a task: the one place that decides between skip, hold back, cancel, fail and leave."""

from enum import Enum, auto

from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    AuthenticationFailed,
    BadSpecification,
    ClaimConflict,
    InvalidResponse,
    JournalError,
    Unavailable,
)
from aluma_async.models import ClaimState, ExportSpec


class Action(Enum):
    """What to do with a task that was not exported."""

    SKIP = auto()
    """Somebody else has it."""
    CLAIM_LOST = auto()
    """We had it, and the claim ended without us."""
    PAUSE_ALL = auto()
    """Aluma could not be asked for it, or that could not be written down, which says nothing of the task."""
    COOL_DOWN = auto()
    """We never had it, so there is nothing to give back; it cools down."""
    CANCEL = auto()
    """We have it or may have it: give it back; it cools down."""
    FAIL = auto()
    """It can never be exported."""
    SETTLE_LATER = auto()
    """All that is left is a last word that may have been heard: nothing else may be said, and that again later."""


_PAUSES_ALL = (Unavailable, AuthenticationFailed, JournalError)
_POSSIBLY_CLAIMED = (Ambiguous, InvalidResponse, BadSpecification)


def decide(error: AlumaAsyncError, *, step: ClaimState | None, attempt: int) -> Action:
    """Judge the error that ended the ``attempt``-th attempt (from 1) at a task.

    ``step`` says how far its claim had come; None or ``STARTING``: Start was not answered with a specification.
    """
    claimed = step not in (None, ClaimState.STARTING)
    if isinstance(error, ClaimConflict):
        return Action.CLAIM_LOST if claimed else Action.SKIP
    if step in (ClaimState.COMMITTED, ClaimState.FAILING):
        return Action.SETTLE_LATER
    if not claimed and not isinstance(error, _POSSIBLY_CLAIMED):
        return Action.PAUSE_ALL if isinstance(error, _PAUSES_ALL) else Action.COOL_DOWN
    if error.fatal_after is not None and attempt >= error.fatal_after:
        return Action.FAIL
    return Action.CANCEL


def spec_problem(spec: ExportSpec) -> str:
    """Why a specification can never be exported as it stands; empty if nothing speaks against it."""
    if not spec.files:
        return "the Export Specification names no file"
    return next((f"file {file.number}: {file.problem}" for file in spec.files if file.problem), "")
