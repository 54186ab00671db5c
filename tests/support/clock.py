"""Clocks for tests: virtual time, and a clock that only a test moves."""

from functools import partial, wraps

from aluma_async.testing import run_virtual


class ManualClock:
    """Return ``now``, which changes only when a test sets it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def virtual_time(test):
    """Run an ``async def`` test to its end in virtual time; fixtures and parameters reach it as usual."""

    @wraps(test)
    def run(*arguments, **fixtures):
        return run_virtual(partial(test, *arguments, **fixtures))

    return run
