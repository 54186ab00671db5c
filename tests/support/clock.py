"""Clocks for tests: virtual time, the real clock, and a clock that only a test moves."""

from functools import partial, wraps

import anyio

from aluma_async.clock import system_clock
from aluma_async.models import Timestamp
from aluma_async.testing import run_virtual


class ManualClock:
    """Return ``now``, which changes only when a test sets it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class ShiftedClock:
    """Return the system's time, ``ahead`` by some seconds."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        now = system_clock()
        return Timestamp(now.boot, now.boottime + self.ahead, now.wall + self.ahead)

    async def advance(self, seconds):
        self.ahead += seconds


def virtual_time(test):
    """Run an ``async def`` test to its end in virtual time; fixtures and parameters reach it as usual."""

    @wraps(test)
    def run(*arguments, **fixtures):
        return run_virtual(partial(test, *arguments, **fixtures))

    return run


def real_time(test):
    """Run an ``async def`` test with the real clock, because it uses a real server or real threads."""

    @wraps(test)
    def run(*arguments, **fixtures):
        return anyio.run(partial(test, *arguments, **fixtures))

    return run
