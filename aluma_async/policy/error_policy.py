"""Decides what an error means for its task."""

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
    """The reaction to an error of a task."""

    SKIP = auto()
    """Another exporter has claimed the task: skip it."""
    CLAIM_LOST = auto()
    """The claim has ended: report it, and send nothing."""
    PAUSE_ALL = auto()
    """Aluma or the journal is unavailable, independently of the task: pause all claiming."""
    COOL_DOWN = auto()
    """The task was not claimed: start its cool-down."""
    CANCEL = auto()
    """The task is or may be claimed: start its cool-down and cancel the claim."""
    FAIL = auto()
    """The task can never be exported: store it in the quarantine and fail it."""
    SETTLE_LATER = auto()
    """Files are safe, but Complete (or Fail) is not confirmed: retry that request later, and send nothing else."""


_PAUSES_ALL = (Unavailable, AuthenticationFailed, JournalError)
_POSSIBLY_CLAIMED = (Ambiguous, InvalidResponse, BadSpecification)


def decide(error: AlumaAsyncError, *, state: ClaimState | None, attempt: int) -> Action:
    """Return the reaction to the error that ended attempt number ``attempt`` (from 1) at a task.

    ``state`` is that of its claim; with None or ``STARTING``, Start did not return a specification.
    """
    claimed = state not in (None, ClaimState.STARTING)
    if isinstance(error, ClaimConflict):
        return Action.CLAIM_LOST if claimed else Action.SKIP
    if state in (ClaimState.COMMITTED, ClaimState.FAILING):
        return Action.SETTLE_LATER
    if not claimed and not isinstance(error, _POSSIBLY_CLAIMED):
        return Action.PAUSE_ALL if isinstance(error, _PAUSES_ALL) else Action.COOL_DOWN
    if error.fatal_after is not None and attempt >= error.fatal_after:
        return Action.FAIL
    return Action.CANCEL


def spec_problem(spec: ExportSpec) -> str:
    """Return the reason why a specification can never be exported; empty if it can."""
    if not spec.files:
        return "the Export Specification contains no file"
    return next((f"file {file.number}: {file.problem}" for file in spec.files if file.problem), "")
