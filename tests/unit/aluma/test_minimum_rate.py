"""``MinimumRate``: which responses are too slow."""

import pytest

from aluma_async.aluma.minimum_rate import MinimumRate
from aluma_async.exceptions import Unavailable


def record(rate, *parts):
    for seconds, count in parts:
        rate.record("download", seconds, count)


def test_minimum_rate_is_an_average_over_a_minute():
    """Less than a minute is not judged, and exactly the minimum is enough."""
    rate = MinimumRate(100)
    record(rate, (59.9, 0))
    with pytest.raises(Unavailable, match="download: slower than 100 bytes per second"):
        record(rate, (0.1, 5999))
    record(MinimumRate(100), (60.0, 6000))
    with pytest.raises(Unavailable):
        record(MinimumRate(100), (60.0, 5999))
    with pytest.raises(Unavailable):
        record(MinimumRate(100), (120.0, 6001))


def test_minimum_rate_judges_each_minute_by_itself():
    """A fast beginning does not excuse a silent rest."""
    rate = MinimumRate(100)
    record(rate, (30.0, 3000), (30.0, 1_000_000), (59.0, 0))
    with pytest.raises(Unavailable):
        record(rate, (1.0, 1))


def test_minimum_rate_of_zero_is_no_limit():
    record(MinimumRate(0), (10_000.0, 0))
