"""How long a claim is valid, and what a clock that was set back means."""

import pytest

from aluma_async.models import Timestamp
from aluma_async.policy.deadline import seconds_left
from aluma_async.policy.lease import LeaseStatus, elapsed, lease_status, remaining


@pytest.mark.parametrize(
    ("age", "status"),
    [
        (0, LeaseStatus.VALID),
        (1499.9, LeaseStatus.VALID),
        (1500, LeaseStatus.UNCERTAIN),
        (1799.9, LeaseStatus.UNCERTAIN),
        (1800, LeaseStatus.EXPIRED),
    ],
)
def test_lease_is_certain_for_five_sixths_of_its_time(age, status):
    assert lease_status(age, 1800) is status


def test_elapsed_uses_the_boot_clock_within_one_boot_and_the_wall_clock_across():
    """A wall clock that was set back makes a record old, so that no claim seems valid."""
    start = Timestamp("a", 100.0, 5000.0)
    assert elapsed(start, Timestamp("a", 130.0, 1.0)) == 30
    assert elapsed(start, Timestamp("b", 1.0, 5040.0)) == 40
    assert elapsed(start, Timestamp("b", 1.0, 5000.0)) == 0
    assert elapsed(start, Timestamp("b", 1.0, 4999.0)) == float("inf")


def test_remaining_is_between_zero_and_the_whole_period():
    start = Timestamp("a", 100.0, 5000.0)
    assert remaining(start, 60, Timestamp("a", 120.0, 0.0)) == 40
    assert remaining(start, 60, Timestamp("a", 200.0, 0.0)) == 0
    assert remaining(start, 60, Timestamp("a", 160.5, 0.0)) == 0
    assert remaining(start, 60, Timestamp("a", 90.0, 0.0)) == 60
    assert remaining(start, 60, Timestamp("b", 0.0, 1.0)) == 60


def test_deadline_of_a_task_is_known_only_with_both_times():
    assert seconds_left(1000.0, 60, 1010.0) == 50
    assert seconds_left(0.0, 60, 10.0) == 50
    assert seconds_left(1000.0, 60, 1100.0) == -40
    assert seconds_left(None, 60, 0.0) is None
    assert seconds_left(1000.0, 0, 0.0) is None
