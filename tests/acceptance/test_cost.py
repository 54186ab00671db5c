"""What a task costs, in function calls: elapsed time is no measure on a machine that others share."""

from benchmarks.profile import calls_per_task


def test_small_task_makes_at_most_2_3_times_the_calls_of_the_floor():
    """Journal, throttle, metrics and path safety are on. The ratio is about 2; code that raises it must be worth it."""
    assert calls_per_task("aluma-async, rename", 400) < 2.3 * calls_per_task("floor", 400)
