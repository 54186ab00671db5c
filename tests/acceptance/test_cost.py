"""What a task costs, in function calls: elapsed time is no measure on a machine that others share."""

from benchmarks.profile import calls_per_task


def test_small_task_makes_at_most_2_3_times_the_calls_of_the_floor():
    """Journal, throttle, metrics and path safety are on. The ratio is about 2; code that raises it must be worth it."""
    # The smallest of some measurements, because a busy machine wakes the event loop more often.
    exporter, floor = (min(calls_per_task(name, 400) for _ in range(3)) for name in ("aluma-async, rename", "floor"))
    assert exporter < 2.3 * floor
