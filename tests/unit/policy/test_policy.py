"""Pure decisions: waits, rates and verdicts."""

import random

from hypothesis import given
from hypothesis import strategies as st

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
from aluma_async.policy.backoff import Backoff, RetryPolicy, exponential
from aluma_async.policy.error_policy import Action, decide
from aluma_async.policy.rate_limit import RateLimit


@given(st.floats(0.001, 100), st.floats(0.001, 1e5), st.integers(1, 10_000))
def test_a_doubled_wait_never_shrinks_and_never_passes_its_maximum(initial, maximum, times):
    assert exponential(initial, maximum, times) <= exponential(initial, maximum, times + 1) <= maximum


@given(st.integers(1, 10), st.integers(1, 20), st.integers())
def test_a_retry_ends_after_its_attempts_and_waits_within_bounds(attempts, failed, seed):
    delay = RetryPolicy(attempts, 0.5, 30).delay(failed, random.Random(seed).uniform)
    assert delay is None if failed >= attempts else delay is not None and 0 <= delay <= 30


def test_a_cooldown_doubles_with_each_failure_up_to_its_maximum():
    patience = Backoff(60, 3600)
    assert [patience.delay(n, lambda low, high: (low + high) / 2) for n in (1, 2, 3, 99)] == [60, 120, 240, 3600]


@given(st.integers(1, 50), st.lists(st.floats(0, 0.5), min_size=1, max_size=100))
def test_a_pace_is_never_exceeded_in_any_window(rate, pauses):
    limit, now, taken = RateLimit(rate), 0.0, []
    for pause in pauses:
        now += pause
        now += max(0.0, limit.delay_until_allowed(now))
        limit.consume(now)
        taken.append(now)
    for i, start in enumerate(taken):
        assert sum(start <= at < start + 1 - 1e-6 for at in taken[i:]) <= rate


def test_the_verdict_follows_from_what_happened_and_whether_we_had_a_claim():
    """The whole table: error, how far the claim had come, attempt -> verdict."""
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
