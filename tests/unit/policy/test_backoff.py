"""``Backoff`` and ``RetryPolicy``: delays between attempts."""

import random

from hypothesis import given
from hypothesis import strategies as st

from aluma_async.policy.backoff import Backoff, RetryPolicy, exponential


@given(st.floats(0.001, 100), st.floats(0.001, 1e5), st.integers(1, 10_000))
def test_exponential_delay_never_decreases_and_never_exceeds_its_maximum(initial, maximum, times):
    assert exponential(initial, maximum, times) <= exponential(initial, maximum, times + 1) <= maximum


@given(st.integers(1, 10), st.integers(1, 20), st.integers())
def test_retry_policy_ends_after_its_attempts_and_keeps_its_maximum_delay(attempts, failed, seed):
    delay = RetryPolicy(attempts, 0.5, 30).delay(failed, random.Random(seed).uniform)
    assert delay is None if failed >= attempts else delay is not None and 0 <= delay <= 30


def test_backoff_doubles_with_each_failure_up_to_its_maximum():
    backoff = Backoff(60, 3600)
    assert [backoff.delay(n, lambda low, high: (low + high) / 2) for n in (1, 2, 3, 99)] == [60, 120, 240, 3600]


def test_retry_policy_has_full_jitter():
    """Any delay from none to twice the one before, so that many clients do not repeat their requests together."""
    policy = RetryPolicy(9, 0.5, 3)
    bounds = [policy.delay(failed, lambda low, high: (low, high)) for failed in (1, 2, 3, 4, 8)]
    assert bounds == [(0, 0.5), (0, 1), (0, 2), (0, 3), (0, 3)]
    assert policy.delay(9, lambda low, high: 0) is None
