"""``RateLimit``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.policy.rate_limit import RateLimit


@given(st.integers(1, 50), st.lists(st.floats(0, 0.5), min_size=1, max_size=100))
def test_rate_limit_is_not_exceeded_in_any_window_of_a_second(rate, pauses):
    limit, now, consumed_at = RateLimit(rate), 0.0, []
    for pause in pauses:
        now += pause
        now += max(0.0, limit.delay_until_allowed(now))
        limit.consume(now)
        consumed_at.append(now)
    for number, start in enumerate(consumed_at):
        assert sum(start <= at < start + 1 - 1e-6 for at in consumed_at[number:]) <= rate


def test_rate_limit_spaces_units_evenly_after_a_burst():
    """And makes up for units that were consumed too early, but not for a time without any."""
    limit = RateLimit(10, burst=3)
    waits = []
    for _ in range(5):
        waits.append(round(limit.delay_until_allowed(0.0), 6))
        limit.consume(0.0)
    assert waits == [-0.2, -0.1, 0.0, 0.1, 0.2]
    assert limit.delay_until_allowed(0.1) == pytest.approx(0.2)
    single = RateLimit(4)
    assert single.delay_until_allowed(0.0) == 0
    single.consume(100.0, 2)
    assert single.delay_until_allowed(100.0) == 0.5
    assert single.delay_until_allowed(100.25) == 0.25
