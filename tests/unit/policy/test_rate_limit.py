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


def test_rate_limit_keeps_what_was_consumed_when_the_rate_changes():
    """A new limit for each change would allow one more unit each time."""
    limit = RateLimit(1)
    limit.consume(0.0)
    limit.set_rate(2, 1.0, 0.5)
    assert limit.delay_until_allowed(0.5) == pytest.approx(0.25), "half a unit is left"
    limit.set_rate(1000, 1.0, 10.0)
    assert limit.delay_until_allowed(10.0) <= 0
    bytes_limit = RateLimit(100, burst=100)
    bytes_limit.consume(0.0, 300)
    assert bytes_limit.units_ahead(0.0) == pytest.approx(201)
    bytes_limit.set_rate(10, 10, 0.0)
    assert bytes_limit.units_ahead(0.0) == pytest.approx(201)
