"""What a task may cost, in calls of functions: time is no measure on a machine that others share."""

from benchmarks.profile import calls


def test_a_small_task_calls_at_most_three_times_as_many_functions_as_its_bare_requests():
    """Everything on: journal, throttle, path safety. It is 2.5 times; what makes it more should be worth it."""
    assert calls("aluma-async, rename", 400) < 3.0 * calls("floor", 400)
