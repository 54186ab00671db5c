"""``decide``: the reaction to an error of a task."""

from msgspec.structs import replace

from aluma_async import exceptions
from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    AuthenticationFailed,
    BadSpecification,
    ClaimConflict,
    DestinationError,
    FailConfirmed,
    FileMissing,
    InvalidResponse,
    JournalError,
    RateLimited,
    RequestRejected,
    SchemaMismatch,
    SourceError,
    Unavailable,
    UnexportableTask,
    Unreachable,
)
from aluma_async.models import ClaimState, ExportFile, ExportSpec
from aluma_async.policy.error_policy import Action, decide, spec_error


def test_decide_depends_on_error_and_claim_state():
    """The complete table: error, state of the claim -> action. However often an error repeats, it is not fatal."""
    table: list[tuple[AlumaAsyncError, ClaimState | None, Action]] = [
        (ClaimConflict(""), None, Action.SKIP),
        (ClaimConflict(""), ClaimState.CLAIMED, Action.CLAIM_LOST),
        (Unreachable(""), None, Action.PAUSE_ALL),
        (RateLimited(""), None, Action.PAUSE_ALL),
        (AuthenticationFailed(""), None, Action.START_REJECTED),
        (RequestRejected(""), None, Action.START_REJECTED),
        (RequestRejected(""), ClaimState.CLAIMED, Action.CANCEL),
        (RequestRejected(""), ClaimState.COMMITTED, Action.SETTLE_LATER),
        (RequestRejected(""), ClaimState.FAILING, Action.SETTLE_LATER),
        (SourceError(""), None, Action.COOL_DOWN),
        (Ambiguous(""), None, Action.CANCEL),
        (InvalidResponse(""), None, Action.CANCEL),
        (BadSpecification(""), None, Action.CANCEL),
        (BadSpecification(""), ClaimState.CLAIMED, Action.CANCEL),
        (UnexportableTask(""), ClaimState.CLAIMED, Action.FAIL),
        (UnexportableTask(""), None, Action.CANCEL),
        (FileMissing(""), ClaimState.CLAIMED, Action.CANCEL),
        (SchemaMismatch(""), ClaimState.CLAIMED, Action.CANCEL),
        (Unavailable(""), ClaimState.CLAIMED, Action.CANCEL),
        (DestinationError(""), ClaimState.CLAIMED, Action.CANCEL),
        (JournalError(""), None, Action.PAUSE_ALL),
        (Ambiguous(""), ClaimState.COMMITTED, Action.SETTLE_LATER),
        (Unreachable(""), ClaimState.COMMITTED, Action.SETTLE_LATER),
        (ClaimConflict(""), ClaimState.COMMITTED, Action.CLAIM_LOST),
    ]
    for error, state, expected in table:
        assert decide(error, state=state) is expected, (error, state)


def test_only_one_kind_of_error_is_fatal_without_the_administrator():
    """Fail deletes the only copy, so each further class needs a reason, and an entry in the documentation.

    ``FailConfirmed`` is raised only by ``aluma-async fail``, after the administrator has confirmed.
    """
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type)]
    assert [kind for kind in kinds if getattr(kind, "fatal", False)] == [UnexportableTask, FailConfirmed]


def test_spec_error_is_fatal_only_for_invalid_text():
    text = ExportFile(0, 0, "", "a.txt", "content")
    url = ExportFile(1, 0, "", "a.pdf", "url", url="/f")
    refused = replace(url, problem="the url is on another host")
    invalid = replace(text, invalid_text=True)
    table = [((), "no file"), ((text, refused), "file 1: the url"), ((invalid, refused), "file 1: the url")]
    assert spec_error(ExportSpec((text, url))) is None
    for files, reason in table:
        error = spec_error(ExportSpec(files))
        assert reason in str(error)
        assert type(error) is BadSpecification
    assert type(spec_error(ExportSpec((invalid, url)))) is UnexportableTask
