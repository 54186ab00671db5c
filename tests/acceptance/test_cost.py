"""What a task may cost, in calls of functions: time is no measure on a machine that others share."""

from benchmarks.profile import calls_per_task


def test_a_small_task_calls_little_more_than_twice_as_many_functions_as_its_bare_requests():
    """Everything on: journal, throttle, metrics, path safety. It is twice; what makes it more should be worth it."""
    assert calls_per_task("aluma-async, rename", 400) < 2.3 * calls_per_task("floor", 400)
