"""``decide``: the reaction to an error of a task."""

from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    AuthenticationFailed,
    BadSpecification,
    ClaimConflict,
    DestinationError,
    FileMissing,
    InvalidResponse,
    JournalError,
    RateLimited,
    SourceError,
    Unavailable,
    UnexportableTask,
    Unreachable,
)
from aluma_async.models import ClaimState
from aluma_async.policy.error_policy import Action, decide


def test_decide_depends_on_error_claim_state_and_attempt():
    """The complete table: error, state of the claim, attempt -> action."""
    table: list[tuple[AlumaAsyncError, ClaimState | None, int, Action]] = [
        (ClaimConflict(""), None, 1, Action.SKIP),
        (ClaimConflict(""), ClaimState.CLAIMED, 1, Action.CLAIM_LOST),
        (Unreachable(""), None, 1, Action.PAUSE_ALL),
        (RateLimited(""), None, 1, Action.PAUSE_ALL),
        (AuthenticationFailed(""), None, 1, Action.PAUSE_ALL),
        (SourceError(""), None, 1, Action.COOL_DOWN),
        (Ambiguous(""), None, 1, Action.CANCEL),
        (InvalidResponse(""), None, 1, Action.CANCEL),
        (BadSpecification(""), None, 2, Action.CANCEL),
        (BadSpecification(""), None, 3, Action.FAIL),
        (UnexportableTask(""), ClaimState.CLAIMED, 1, Action.FAIL),
        (FileMissing(""), ClaimState.CLAIMED, 2, Action.CANCEL),
        (FileMissing(""), ClaimState.CLAIMED, 3, Action.FAIL),
        (Unavailable(""), ClaimState.CLAIMED, 99, Action.CANCEL),
        (DestinationError(""), ClaimState.CLAIMED, 99, Action.CANCEL),
        (JournalError(""), None, 1, Action.PAUSE_ALL),
        (Ambiguous(""), ClaimState.COMMITTED, 1, Action.SETTLE_LATER),
        (Unreachable(""), ClaimState.COMMITTED, 1, Action.SETTLE_LATER),
        (ClaimConflict(""), ClaimState.COMMITTED, 1, Action.CLAIM_LOST),
    ]
    for error, state, attempt, expected in table:
        assert decide(error, state=state, attempt=attempt) is expected, (error, state, attempt)
