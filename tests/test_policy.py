"""Pure decisions: waits, rates and verdicts."""

import random

from hypothesis import given
from hypothesis import strategies as st

from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    BadReply,
    BadSpecification,
    CredentialsRefused,
    DestinationError,
    FileMissing,
    ImpossibleExport,
    JournalError,
    RateLimited,
    Refused,
    SourceError,
    Unavailable,
    Unreachable,
)
from aluma_async.models import Step
from aluma_async.policy.backoff import Patience, Retry, doubled
from aluma_async.policy.error_policy import Verdict, verdict
from aluma_async.policy.rate_limit import Pace


@given(st.floats(0.001, 100), st.floats(0.001, 1e5), st.integers(1, 10_000))
def test_a_doubled_wait_never_shrinks_and_never_passes_its_maximum(initial, maximum, times):
    assert doubled(initial, maximum, times) <= doubled(initial, maximum, times + 1) <= maximum


@given(st.integers(1, 10), st.integers(1, 20), st.integers())
def test_a_retry_ends_after_its_attempts_and_waits_within_bounds(attempts, failed, seed):
    delay = Retry(attempts, 0.5, 30).delay(failed, random.Random(seed).uniform)
    assert delay is None if failed >= attempts else delay is not None and 0 <= delay <= 30


def test_a_cooldown_doubles_with_each_failure_up_to_its_maximum():
    patience = Patience(60, 3600)
    assert [patience.delay(n, lambda low, high: (low + high) / 2) for n in (1, 2, 3, 99)] == [60, 120, 240, 3600]


@given(st.integers(1, 50), st.lists(st.floats(0, 0.5), min_size=1, max_size=100))
def test_a_pace_is_never_exceeded_in_any_window(rate, pauses):
    pace, now, taken = Pace(rate), 0.0, []
    for pause in pauses:
        now += pause
        now += max(0.0, pace.wait(now))
        pace.take(now)
        taken.append(now)
    for i, start in enumerate(taken):
        assert sum(start <= at < start + 1 - 1e-6 for at in taken[i:]) <= rate


def test_the_verdict_follows_from_what_happened_and_whether_we_had_a_claim():
    """The whole table: error, how far the claim had come, attempt -> verdict."""
    table: list[tuple[AlumaAsyncError, Step | None, int, Verdict]] = [
        (Refused(""), None, 1, Verdict.SKIP),
        (Refused(""), Step.CLAIMED, 1, Verdict.LOST),
        (Unreachable(""), None, 1, Verdict.AWAY),
        (RateLimited(""), None, 1, Verdict.AWAY),
        (CredentialsRefused(""), None, 1, Verdict.AWAY),
        (SourceError(""), None, 1, Verdict.HOLD),
        (Ambiguous(""), None, 1, Verdict.CANCEL),
        (BadReply(""), None, 1, Verdict.CANCEL),
        (BadSpecification(""), None, 2, Verdict.CANCEL),
        (BadSpecification(""), None, 3, Verdict.FAIL),
        (ImpossibleExport(""), Step.CLAIMED, 1, Verdict.FAIL),
        (FileMissing(""), Step.CLAIMED, 2, Verdict.CANCEL),
        (FileMissing(""), Step.CLAIMED, 3, Verdict.FAIL),
        (Unavailable(""), Step.CLAIMED, 99, Verdict.CANCEL),
        (DestinationError(""), Step.CLAIMED, 99, Verdict.CANCEL),
        (JournalError(""), None, 1, Verdict.AWAY),
        (Ambiguous(""), Step.COMMITTED, 1, Verdict.LEAVE),
        (Unreachable(""), Step.COMMITTED, 1, Verdict.LEAVE),
        (Refused(""), Step.COMMITTED, 1, Verdict.LOST),
    ]
    for error, step, attempt, expected in table:
        assert verdict(error, step=step, attempt=attempt) is expected, (error, step, attempt)
