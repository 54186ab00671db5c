"""``AdaptiveLimit``: its bounds, and what raises and lowers it."""

import random

import pytest

from aluma_async.policy.adaptive_limit import AdaptiveLimit


def accept(limit, number, *, level=None):
    """Record that request ``number`` was accepted; it used the whole limit unless ``level`` is given."""
    level = level or limit.value
    limit.record_success(number, number + 0.1, level=level, in_flight=level, measured=True)


def refuse(limit, number, *, level=None, rate_limited=False):
    limit.record_refusal(number, number + 0.1, level=level or limit.value, rate_limited=rate_limited)


def test_adaptive_limit_is_never_above_its_maximum():
    limit = AdaptiveLimit(8)
    for number in range(100):
        accept(limit, number)
        assert limit.value <= 8
    assert limit.value == 8


@pytest.mark.parametrize(("maximum", "rate_limited", "lowest"), [(32, False, 4), (32, True, 1), (3, False, 3)])
def test_adaptive_limit_falls_below_four_only_by_429(maximum, rate_limited, lowest):
    """429 says that requests are too many; 503 and time-outs may have another reason."""
    limit = AdaptiveLimit(maximum)
    for number in range(300):
        refuse(limit, number, rate_limited=rate_limited)
    assert limit.value == lowest


def test_adaptive_limit_is_lowered_once_by_concurrent_refusals():
    """Twenty requests of fifty at the same moment are refused: the other thirty are the limit."""
    limit = AdaptiveLimit(100, initial=50)
    for level in range(31, 51):
        refuse(limit, 0.0, level=level)
    assert limit.value == 30


def test_adaptive_limit_falls_to_at_least_half_when_all_are_refused():
    """An outage says nothing about the number of requests, so that it takes several steps."""
    limit = AdaptiveLimit(100, initial=50)
    for level in range(1, 51):
        refuse(limit, 0.0, level=level)
    assert limit.value == 25


@pytest.mark.parametrize(("share", "rate_limited"), [(0.05, False), (0.02, True)])
def test_adaptive_limit_ignores_refusals_in_a_small_share(share, rate_limited):
    """No ceiling is learned from one random error in twenty, nor from one 429 in fifty."""
    chance = random.Random(0)
    limit = AdaptiveLimit(16)
    for number in range(5_000):
        if chance.random() < share:
            refuse(limit, number, rate_limited=rate_limited)
        else:
            accept(limit, number)
        assert limit.value == 16


def test_adaptive_limit_is_lowered_by_a_large_share_of_refusals():
    """Four in ten requests of the same number in flight are refused."""
    limit = AdaptiveLimit(16)
    for number in range(100):
        refuse(limit, number) if number % 5 in (0, 2) else accept(limit, number)
    assert limit.value <= 12


def test_adaptive_limit_is_not_raised_by_requests_below_the_refused_number():
    """Requests with fewer in flight are accepted all the time, and say nothing about more."""
    limit = AdaptiveLimit(16)
    for number in range(0, 800, 100):
        for level in range(1, 16):
            accept(limit, number + level, level=level)
        refuse(limit, number + 16, level=16)
    assert 12 <= limit.value < 16


def test_adaptive_limit_recovers_after_an_outage():
    limit = AdaptiveLimit(32)
    for number in range(100):
        refuse(limit, number)
    assert limit.value == 4
    for number in range(100, 200):
        accept(limit, number)
    assert limit.value == 32


def test_adaptive_limit_recovers_despite_random_errors():
    """A single error does not end a probe of one more request, except 429."""
    limit = AdaptiveLimit(32)
    for number in range(100):
        refuse(limit, number)
    for number in range(100, 1_000):
        refuse(limit, number) if number % 20 == 0 else accept(limit, number)
    assert limit.value == 32


def test_adaptive_limit_is_not_raised_when_it_was_not_reached():
    limit = AdaptiveLimit(100, initial=10)
    for number in range(100):
        accept(limit, number, level=3)
    assert limit.value == 10


@pytest.mark.parametrize(("rate_limited", "is_lowered"), [(True, True), (False, False)])
def test_adaptive_limit_is_lowered_by_one_429_in_sixteen_requests(rate_limited, is_lowered):
    """Each one pauses all requests, so that one in twice the limit is too many; of other refusals it is not."""
    limit = AdaptiveLimit(16)
    for number in range(400):
        if number % 16 == 0:
            refuse(limit, number, rate_limited=rate_limited)
        else:
            accept(limit, number)
    assert (limit.value < 16) is is_lowered


def test_adaptive_limit_is_lowered_at_the_eighth_refusal():
    limit = AdaptiveLimit(16)
    for number in range(7):
        refuse(limit, number)
    assert (limit.value, limit.refusals) == (16, 7)
    refuse(limit, 8)
    assert (limit.value, limit.refusals) == (12, 0)


def test_accepted_request_takes_a_quarter_of_a_refusal_away():
    limit = AdaptiveLimit(16)
    refuse(limit, 1, level=8)
    accept(limit, 2, level=7)
    assert limit.refusals == 1, "it was sent with fewer in flight"
    for number in range(3):
        accept(limit, 3 + number, level=8)
    assert limit.refusals == 0.25
    accept(limit, 9, level=8)
    assert limit.refusals == 0
    accept(limit, 10, level=8)
    assert limit.refusals == 0


@pytest.mark.parametrize(("rate_limited", "refusals"), [(False, 2), (True, 1)])
def test_second_refusal_or_first_429_ends_a_probe(rate_limited, refusals):
    """The limit is what it was before, and the next probe comes later."""
    limit = AdaptiveLimit(32, initial=16)
    for number in range(8):
        refuse(limit, number)
    number = 10
    while limit.value < 16:  # 15 is the largest number that was not refused
        number += 1
        accept(limit, number)
    for _ in range(refusals):
        assert limit.value == 16
        number += 1
        refuse(limit, number, rate_limited=rate_limited)
    assert (limit.value, limit.refusals) == (15, 0)
    ended_at = number
    while limit.value < 16:
        number += 1
        accept(limit, number)
    assert number - ended_at >= 30


def test_adaptive_limit_at_its_ceiling_is_not_above_a_lower_maximum():
    limit = AdaptiveLimit(32, initial=16)
    for number in range(8):
        refuse(limit, number)
    number = 10
    while limit.value < 15:  # the largest number that was not refused
        number += 1
        accept(limit, number)
    limit.set_maximum(15)
    for later in range(200):
        accept(limit, number + 1 + later)
        assert limit.value == 15
