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
    RateLimited,
    Refused,
    SourceError,
    Unavailable,
    Unreachable,
)
from aluma_async.policy.pacing import Pace
from aluma_async.policy.retry import Patience, Retry, doubled
from aluma_async.policy.verdict import Verdict, verdict


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
    """The whole table: error, had a claim, attempt -> verdict."""
    table: list[tuple[AlumaAsyncError, bool, int, Verdict]] = [
        (Refused(""), False, 1, Verdict.SKIP),
        (Refused(""), True, 1, Verdict.LOST),
        (Unreachable(""), False, 1, Verdict.AWAY),
        (RateLimited(""), False, 1, Verdict.AWAY),
        (CredentialsRefused(""), False, 1, Verdict.AWAY),
        (SourceError(""), False, 1, Verdict.HOLD),
        (Ambiguous(""), False, 1, Verdict.CANCEL),
        (BadReply(""), False, 1, Verdict.CANCEL),
        (BadSpecification(""), False, 2, Verdict.CANCEL),
        (BadSpecification(""), False, 3, Verdict.FAIL),
        (ImpossibleExport(""), True, 1, Verdict.FAIL),
        (FileMissing(""), True, 2, Verdict.CANCEL),
        (FileMissing(""), True, 3, Verdict.FAIL),
        (Unavailable(""), True, 99, Verdict.CANCEL),
        (DestinationError(""), True, 99, Verdict.CANCEL),
    ]
    for error, claimed, attempt, expected in table:
        assert verdict(error, claimed=claimed, attempt=attempt) is expected, (error, claimed, attempt)
