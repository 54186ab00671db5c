"""``RateLimit``."""

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
