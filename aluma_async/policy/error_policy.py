"""Decides what an error means for its task."""

from enum import Enum, auto

from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    BadSpecification,
    ClaimConflict,
    InvalidResponse,
    JournalError,
    RequestRejected,
    Unavailable,
    UnexportableTask,
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
    START_REJECTED = auto()
    """Start was refused for a reason that is not the task's state: try other tasks, one after each pause."""
    COOL_DOWN = auto()
    """The task was not claimed: start its cool-down."""
    CANCEL = auto()
    """The task is or may be claimed: start its cool-down and cancel the claim."""
    FAIL = auto()
    """The task can never be exported: fail it, once that is certain and a complete copy is in the quarantine."""
    SETTLE_LATER = auto()
    """Files are safe, but Complete (or Fail) is not confirmed: retry that request later, and send nothing else."""


_PAUSES_ALL = (Unavailable, JournalError)
_POSSIBLY_CLAIMED = (Ambiguous, InvalidResponse, BadSpecification)


def decide(error: AlumaAsyncError, *, state: ClaimState | None) -> Action:
    """Return the reaction to the error that ended an attempt at a task.

    ``state`` is that of its claim; with None or ``STARTING``, Start did not return a specification.
    """
    claimed = state not in (None, ClaimState.STARTING)
    if isinstance(error, ClaimConflict):
        return Action.CLAIM_LOST if claimed else Action.SKIP
    if state in (ClaimState.COMMITTED, ClaimState.FAILING):
        return Action.SETTLE_LATER
    if not claimed and isinstance(error, RequestRejected):
        return Action.START_REJECTED
    if not claimed and not isinstance(error, _POSSIBLY_CLAIMED):
        concerns_all = isinstance(error, _PAUSES_ALL) and not error.spares_others
        return Action.PAUSE_ALL if concerns_all else Action.COOL_DOWN
    return Action.FAIL if error.fatal and claimed else Action.CANCEL


def spec_error(spec: ExportSpec) -> BadSpecification | None:
    """Return the error of a specification that cannot be exported; None if it can."""
    if not spec.files:
        return BadSpecification("the Export Specification contains no file")
    error: BadSpecification | None = None
    for file in spec.files:
        if file.problem:
            # First, because a setting may correct it.
            return BadSpecification(f"file {file.number}: {file.problem}", hint=file.hint)
        if file.invalid_text and error is None:
            error = UnexportableTask(f"file {file.number}: the text is not valid Unicode (unpaired surrogates)")
    return error
