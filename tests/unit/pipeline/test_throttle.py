"""The shared throttle, in virtual time: one limit, one rate, one pause for all."""

import random

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import RateLimited, SourceError, Unavailable
from aluma_async.pipeline.throttle import MAX_PAUSE_SECONDS, Throttle
from aluma_async.testing import run_virtual


def throttle(limit=4, told=None, **limits):
    return Throttle(
        limit, uniform=random.Random(0).uniform, on_event=(told if told is not None else []).append, **limits
    )


async def requests(gate, count, *, seconds=1.0, error=None):
    """Make requests at once; return when each left, and how many were under way at most."""
    left, now, peak = [], 0, 0

    async def one():
        nonlocal now, peak
        try:
            async with gate.permit():
                left.append(anyio.current_time())
                now += 1
                peak = max(peak, now)
                try:
                    await anyio.sleep(seconds)
                finally:
                    now -= 1
                if error:
                    raise error
        except SourceError:
            pass

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    return left, peak


def test_requests_in_flight_never_exceed_the_limit_and_reach_it():
    async def main():
        gate = throttle(4)
        _, peak = await requests(gate, 50)
        assert peak == 4
        assert gate.in_flight == 0

    run_virtual(main)


def test_requests_leave_no_faster_than_the_rate_also_after_a_pause():
    async def main():
        gate = throttle(50, max_per_second=10)
        await requests(gate, 1, error=RateLimited("", retry_after=5))
        left, _ = await requests(gate, 40)
        for i, start in enumerate(left):
            assert sum(start <= at < start + 0.999 for at in left[i:]) <= 10
        assert left[-1] - left[0] == pytest.approx(3.9, abs=0.1)

    run_virtual(main)


@pytest.mark.parametrize("error", [RateLimited("", retry_after=30), Unavailable("", retry_after=30)])
def test_retry_after_holds_back_every_worker(error):
    """No request leaves between the answer and the end of its pause, not even one that was already waiting."""

    async def main():
        told = []
        gate = throttle(4, told)
        left, _ = await requests(gate, 12, error=error)
        assert min(left[4:]) >= 31
        assert isinstance(told[0], events.RequestsPaused)
        assert told[0].seconds == 30

    run_virtual(main)


def test_a_pause_that_is_not_sensible_is_capped():
    async def main():
        gate = throttle(1)
        await requests(gate, 1, error=RateLimited("", retry_after=1e9))
        left, _ = await requests(gate, 1)
        assert left[0] <= MAX_PAUSE_SECONDS + 10

    run_virtual(main)


def test_a_429_that_does_not_say_how_long_pauses_longer_each_time_but_once_for_those_refused_together():
    async def main():
        told = []
        gate = throttle(16, told)
        for n in range(6):
            before = len(told)
            await requests(gate, 16, error=RateLimited(""), seconds=0.01)
            assert len(told) - before == 1
            assert 1 <= told[-1].seconds <= 5 * 2**n

    run_virtual(main)


def test_bytes_are_slowed_down_to_their_rate():
    async def main():
        gate = throttle(4, max_bytes_per_second=1000)
        for _ in range(50):
            await gate.consume_bytes(200)
        assert anyio.current_time() == pytest.approx(9, abs=1)

    run_virtual(main)


def test_a_worker_that_is_cancelled_while_it_waits_leaves_no_permit_behind():
    async def main():
        gate = throttle(1)
        async with gate.permit():
            with anyio.move_on_after(1):
                async with gate.permit():
                    raise AssertionError
        await requests(gate, 1, error=RateLimited("", retry_after=60))
        with anyio.move_on_after(1):
            await requests(gate, 3)
        assert gate.in_flight == 0
        await requests(gate, 3)

    run_virtual(main)
