"""``AdaptiveLimit``: its bounds, and what raises and lowers it."""

from aluma_async.policy.adaptive_limit import AdaptiveLimit


def test_adaptive_limit_stays_between_one_and_its_maximum():
    limit = AdaptiveLimit(8)
    for number in range(100):
        limit.record_success(number, number + 0.1, in_flight=limit.value, measured=True)
        assert limit.value <= 8
    for number in range(100, 200):
        limit.record_overload(number, number + 0.1)
    assert limit.value == 1


def test_adaptive_limit_is_lowered_once_by_concurrent_overload_errors():
    limit = AdaptiveLimit(100, initial=50)
    for _ in range(30):
        limit.record_overload(0.0, 0.1)
    assert limit.value == 40


def test_adaptive_limit_is_not_raised_when_it_was_not_reached():
    limit = AdaptiveLimit(100, initial=10)
    for number in range(100):
        limit.record_success(number, number + 0.1, in_flight=3, measured=True)
    assert limit.value == 10
