"""The adaptive limit finds what Aluma takes, follows it when it moves, and lets no Complete starve."""

import random
from contextlib import suppress

import anyio
import pytest

from aluma_async.exceptions import Ambiguous, RateLimited, Unavailable
from aluma_async.pipeline.throttle import Throttle
from aluma_async.policy.adaptive_limit import AdaptiveLimit
from aluma_async.testing import run_virtual

ROUND_TRIP = 0.05


class Api:
    """Answers in ``ROUND_TRIP``; refuses what is more than ``limit`` at once, or lets it wait in line."""

    def __init__(self, limit, *, queues=False, pause=1.0):
        self.limit, self.queues, self.pause = limit, queues, pause
        self.served, self.now = 0, 0
        self.room = anyio.Condition()

    async def request(self):
        self.now += 1
        try:
            if not self.queues and self.now > self.limit:
                await anyio.sleep(ROUND_TRIP / 2)
                raise RateLimited("", retry_after=self.pause)
            await anyio.sleep(ROUND_TRIP * max(1.0, self.now / self.limit if self.queues else 1.0))
            self.served += 1
        finally:
            self.now -= 1


async def load(api, gate, seconds, workers=150):
    """Send as much as is let through; return requests served a second."""
    before = api.served

    async def work():
        while True:
            try:
                async with gate.permit(urgent=True):
                    await api.request()
            except RateLimited:
                pass

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(work)
    return (api.served - before) / seconds


def throttle(most, *, adaptive, seed=0):
    return Throttle(most, adaptive=adaptive, uniform=random.Random(seed).uniform, on_event=lambda _: None)


@pytest.mark.parametrize("limits", [(4, 16, 64), (64, 16, 4), (1, 30, 1), (20, 120, 7)])
def test_within_thirty_seconds_it_is_within_a_tenth_of_the_best_fixed_limit_wherever_that_moves(limits):
    async def main():
        gate, api = throttle(256, adaptive=True), Api(0)
        for api.limit in limits:
            await load(api, gate, 30)
            found = await load(api, gate, 60)
            best = await load(api, throttle(api.limit, adaptive=False), 10)
            assert found >= 0.9 * best, f"{found:.0f} of {best:.0f} requests a second at a limit of {api.limit}"

    run_virtual(main)


def test_where_a_refusal_costs_a_long_pause_it_is_risked_the_less_often():
    async def main():
        gate, api = throttle(64, adaptive=True), Api(8, pause=60.0)
        await load(api, gate, 600, workers=20)
        found = await load(api, gate, 2400, workers=20)
        assert found >= 0.9 * 8 / ROUND_TRIP

    run_virtual(main)


def test_where_nothing_is_refused_it_finds_the_point_from_which_more_only_waits_longer():
    async def main():
        gate, api = throttle(256, adaptive=True), Api(10, queues=True)
        await load(api, gate, 30)
        assert await load(api, gate, 60) >= 0.9 * 10 / ROUND_TRIP
        assert gate.limit < 80, "with 256 at once a round trip would take 26 times as long"

    run_virtual(main)


def test_it_stays_between_one_and_the_most_that_is_allowed():
    limit = AdaptiveLimit(8)
    for number in range(100):
        limit.record_success(number, number + 0.1, in_flight=limit.value, measured=True)
        assert limit.value <= 8
    for number in range(100, 200):
        limit.record_overload(number, number + 0.1)
    assert limit.value == 1


def test_those_refused_together_count_as_one():
    limit = AdaptiveLimit(100, initial=50)
    for _ in range(30):
        limit.record_overload(0.0, 0.1)
    assert limit.value == 40


def test_what_was_not_held_back_by_the_limit_does_not_raise_it():
    limit = AdaptiveLimit(100, initial=10)
    for number in range(100):
        limit.record_success(number, number + 0.1, in_flight=3, measured=True)
    assert limit.value == 10


@pytest.mark.parametrize("error", [RateLimited("", retry_after=1.0), Unavailable("no reply", overloaded=True)])
def test_what_ends_something_goes_before_all_that_begins_something(error):
    """However low the limit falls: a Complete that waits behind hundreds of Starts would lose its claim."""

    async def main():
        gate = throttle(4, adaptive=True)
        waited = []

        async def starts():
            while True:
                try:
                    async with gate.permit():
                        await anyio.sleep(0.5)
                        if random.Random(anyio.current_time()).random() < 0.5:
                            raise error
                except (RateLimited, Unavailable):
                    pass

        async with anyio.create_task_group() as group:
            for _ in range(500):
                group.start_soon(starts)
            for _ in range(100):
                await anyio.sleep(1)
                asked = anyio.current_time()
                async with gate.permit(urgent=True):
                    waited.append(anyio.current_time() - asked)
            group.cancel_scope.cancel()
        assert max(waited) < 5
        assert gate.in_flight == 0

    run_virtual(main)


def test_only_what_tells_of_too_many_lowers_the_limit():
    """A gateway that drops one reply in ten, whatever the load, must not bring an export down to one at a time."""

    async def main():
        gate = throttle(16, adaptive=True)
        for number in range(400):
            with suppress(Ambiguous):
                async with gate.permit():
                    await anyio.sleep(0.05)
                    if number % 10 == 0:
                        raise Ambiguous("the reply was cut short")
        assert gate.limit == 16
        with suppress(Ambiguous):
            async with gate.permit():
                raise Ambiguous("no reply in time", overloaded=True)
        assert gate.limit < 16

    run_virtual(main)
