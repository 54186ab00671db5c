"""``RequestPause``: how long no request is sent, and whether the pause may be that of single tasks."""

import random

import pytest

from aluma_async.exceptions import RateLimited, Unavailable
from aluma_async.pipeline.pauses import RequestPause


def refused(seconds=None, operation="start task 1"):
    error = (Unavailable if seconds else RateLimited)("", retry_after=seconds)
    error.operation = operation
    return error


@pytest.fixture
def pause():
    return RequestPause(120.0, random.Random(0).uniform)


@pytest.mark.parametrize(
    ("pauses", "is_unverified"),
    [
        ([refused(9)], False),
        ([refused(10)], True),
        ([refused(9), refused(600)], True),
        ([refused(600), refused(5)], True),
        ([refused(600), refused(5, operation="")], False),
        ([refused(600, operation=""), refused(600)], False),
    ],
)
def test_pause_is_unverified_if_it_is_long_and_of_tasks_only(pause, pauses, is_unverified):
    """A short pause beside a long one changes nothing; a refused request about no single task does."""
    for error in pauses:
        pause.begin(error, 0.0, 0.0)
    assert pause.is_unverified == is_unverified
    pause.end()
    assert not pause.is_unverified


def test_pause_does_not_begin_for_a_task_that_is_refused_again_and_again(pause):
    """By 429 without Retry-After, while other requests succeed. Only the task waits then."""
    results = []
    for n in range(6):
        error = refused()
        results.append((pause.begin(error, 100.0 * n + 50, 100.0 * n) is None, error.spares_others))
    assert results == [(False, False)] * 2 + [(True, True)] * 4


@pytest.mark.parametrize("changes", [{"operation": ""}, {"succeeded_at": 0.0}])
def test_pause_begins_for_each_429_that_may_be_of_all_requests(pause, changes):
    for n in range(6):
        error = refused(operation=changes.get("operation", "start task 1"))
        assert pause.begin(error, 1000.0 * n + 50, changes.get("succeeded_at", 1000.0 * n)) is not None
        assert not error.spares_others
