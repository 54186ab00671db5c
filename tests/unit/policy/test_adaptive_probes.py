"""``AdaptiveLimit``: its growth, its probes of one more request, and inflated round trips."""

from itertools import pairwise

import pytest

from aluma_async.policy.adaptive_limit import AdaptiveLimit


def answer(limit, now, *, rtt=0.1, in_flight=None, measured=True):
    in_flight = limit.value if in_flight is None else in_flight
    limit.record_success(now - rtt, now, level=in_flight, in_flight=in_flight, measured=measured)


def overload(limit, sent_at, now, *, refusals=8, pause=0.0):
    """Record eight refusals, which is the number that counts as an overload."""
    level = limit.value
    for _ in range(refusals):
        limit.record_refusal(sent_at, now, level=level, rate_limited=True, pause=pause)


def test_adaptive_limit_doubles_in_a_round_trip_until_an_overload():
    """Each response that finds the limit reached adds one."""
    limit = AdaptiveLimit(100, initial=4)
    for _ in range(4):
        answer(limit, 1.0)
    assert limit.value == 8
    answer(limit, 1.0, in_flight=7)
    assert limit.value == 8
    overload(limit, 0.9, 1.1)
    assert limit.value == 6


def test_adaptive_limit_grows_to_just_below_the_overload_and_then_probes():
    """The probe comes after 15 s, and one that succeeds lifts the ceiling."""
    limit = AdaptiveLimit(100, initial=40)
    overload(limit, 0.0, 0.1)
    now = 0.1
    while limit.value < 39:
        now += 0.1
        answer(limit, now)
    assert 5 < now < 5.5, "each round trip of 32 responses adds an eighth of the ceiling"
    reached_at = now
    while limit.value == 39:
        now += 0.1
        answer(limit, now)
    assert limit.value == 40
    assert 14.9 <= now - reached_at <= 15.3
    for _ in range(80):
        assert limit.value == 40
        answer(limit, now + 0.2)
    answer(limit, now + 0.3)
    assert limit.value == 41


def test_adaptive_limit_probes_more_rarely_after_each_failure_up_to_a_minute():
    limit = AdaptiveLimit(100, initial=10)
    overload(limit, 0.0, 0.1)
    now, probes = 0.1, []
    while len(probes) < 5:
        now += 0.1
        before = limit.value
        answer(limit, now)
        if (before, limit.value) == (9, 10):
            probes.append(now)
            overload(limit, now, now + 0.05, refusals=1)
            assert limit.value == 9
    waits = [later - earlier for earlier, later in pairwise(probes)]
    assert waits == [pytest.approx(seconds, abs=0.3) for seconds in (30, 60, 60, 60)]


def test_adaptive_limit_probes_no_sooner_than_15_times_the_retry_after():
    limit = AdaptiveLimit(100, initial=10)
    overload(limit, 0.0, 0.1, pause=4.0)
    now = 0.1
    while limit.value < 10:
        now += 0.1
        answer(limit, now)
    assert 60 <= now <= 62


def test_adaptive_limit_ignores_requests_that_were_sent_before_its_last_change():
    limit = AdaptiveLimit(100, initial=10)
    overload(limit, 0.0, 1.0)
    assert limit.value == 8
    overload(limit, 0.9, 1.1)
    limit.record_success(0.9, 1.1, level=8, in_flight=8, measured=True)
    assert limit.value == 8
    overload(limit, 1.0, 1.2)
    assert limit.value == 6


def test_adaptive_limit_is_lowered_when_round_trips_are_three_times_as_long():
    """Round trips that are not comparable do not count, and neither does less than a tenth of a second."""
    limit = AdaptiveLimit(10, initial=10)
    answer(limit, 1.0, rtt=0.1)
    for number in range(40):
        answer(limit, 2.0 + number, rtt=0.29)
    for number in range(40):
        answer(limit, 42.0 + number / 10, rtt=5.0, measured=False)
    assert limit.value == 10
    for number in range(20):
        answer(limit, 50.0 + number / 100, rtt=0.5)
    assert limit.value == 9
    short = AdaptiveLimit(10, initial=10)
    answer(short, 1.0, rtt=0.01)
    for number in range(40):
        answer(short, 2.0 + number, rtt=0.1)
    assert short.value == 10


def test_adaptive_limit_forgets_the_shortest_round_trip_after_two_minutes():
    """The network path may have changed, and the longer round trips are normal then."""
    limit = AdaptiveLimit(10, initial=10)
    answer(limit, 1.0, rtt=0.1)
    answer(limit, 62.0, rtt=0.2)
    answer(limit, 123.0, rtt=0.2)
    for number in range(30):
        answer(limit, 124.0 + number, rtt=0.5)
    assert limit.value == 10


def test_adaptive_limit_follows_a_changed_maximum():
    limit = AdaptiveLimit(100, initial=50)
    limit.set_maximum(20)
    assert limit.value == 20
    answer(limit, 1.0)
    assert limit.value == 20
    limit.set_maximum(21)
    assert limit.value == 20
    answer(limit, 1.0)
    assert limit.value == 21


def test_adaptive_limit_is_not_lowered_by_a_single_long_round_trip():
    limit = AdaptiveLimit(10, initial=10)
    for number in range(20):
        answer(limit, 1.0 + number)
    answer(limit, 30.0, rtt=1.0)
    assert limit.value == 10


@pytest.mark.parametrize(("shortest", "longest"), [(1.0, 3.0), (0.0, 0.1)])
def test_round_trip_at_the_bound_is_not_inflated(shortest, longest):
    """Three times the shortest one, or a tenth of a second more; the average begins again after a reduction."""
    limit = AdaptiveLimit(20, initial=20)
    answer(limit, 1.0, rtt=shortest)
    now = 2.0
    while limit.value == 20:
        now += 1
        answer(limit, now, rtt=longest * 2)
    lowered = limit.value
    answer(limit, now + 10, rtt=longest)
    assert limit.value >= lowered
    answer(limit, now + 20, rtt=longest * 1.5)
    assert limit.value < lowered


def test_adaptive_limit_is_not_lowered_by_a_single_slow_round_trip():
    """Not even if it is twenty times as long; two of these are, because a mean over about ten decides."""
    limit = AdaptiveLimit(10, initial=10)
    for number in range(20):
        answer(limit, 1.0 + number, rtt=0.1)
    answer(limit, 30.0, rtt=2.0)
    assert limit.value == 10
    answer(limit, 31.0, rtt=2.0)
    assert limit.value == 9
