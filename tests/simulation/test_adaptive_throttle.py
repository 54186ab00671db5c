"""``Throttle`` with an adaptive limit: it finds and follows the server's limit, and urgent requests go first."""

import random
from contextlib import suppress
from functools import partial
from statistics import median

import anyio
import pytest

from aluma_async import Exporter
from aluma_async.events import ConcurrencyLimitAdapted
from aluma_async.exceptions import Ambiguous, RateLimited, Unavailable
from aluma_async.pipeline.throttle import Throttle
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, run_virtual
from tests.support.clock import virtual_time
from tests.support.stack import client_of, simulated

ROUND_TRIP_SECONDS = 0.05


class Api:
    """A server with a limit on concurrent requests: it rejects further requests, or queues them (``queues``)."""

    def __init__(self, limit, *, queues=False, pause=1.0):
        self.limit, self.queues, self.pause = limit, queues, pause
        self.served, self.in_flight = 0, 0

    async def request(self):
        self.in_flight += 1
        try:
            if not self.queues and self.in_flight > self.limit:
                await anyio.sleep(ROUND_TRIP_SECONDS / 2)
                raise RateLimited("", retry_after=self.pause)
            await anyio.sleep(ROUND_TRIP_SECONDS * max(1.0, self.in_flight / self.limit if self.queues else 1.0))
            self.served += 1
        finally:
            self.in_flight -= 1


async def load(api, throttle, seconds, workers=150):
    """Send as many requests as the throttle permits; return the number served per second."""
    before = api.served

    async def send_requests():
        while True:
            try:
                async with throttle.permit(urgent=True):
                    await api.request()
            except RateLimited:
                pass

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(send_requests)
    return (api.served - before) / seconds


def make_throttle(maximum, *, adaptive, seed=0):
    return Throttle(maximum, adaptive=adaptive, uniform=random.Random(seed).uniform, on_event=lambda _: None)


@pytest.mark.parametrize("limits", [(4, 16, 64), (64, 16, 4), (1, 30, 1), (20, 120, 7)])
@virtual_time
async def test_adaptive_throttle_approaches_the_best_fixed_limit(limits):
    """Within 30 seconds, its throughput is at least 90 % of the best one, also after the limit has changed."""
    throttle, api = make_throttle(256, adaptive=True), Api(0)
    for api.limit in limits:
        await load(api, throttle, 30)
        throughput = await load(api, throttle, 60)
        best = await load(api, make_throttle(api.limit, adaptive=False), 10)
        assert throughput >= 0.9 * best, f"{throughput:.0f} of {best:.0f} requests/s at a limit of {api.limit}"


@virtual_time
async def test_adaptive_throttle_probes_rarely_when_retry_after_is_long():
    throttle, api = make_throttle(64, adaptive=True), Api(8, pause=60.0)
    await load(api, throttle, 600, workers=20)
    throughput = await load(api, throttle, 2400, workers=20)
    assert throughput >= 0.9 * 8 / ROUND_TRIP_SECONDS


@virtual_time
async def test_adaptive_throttle_avoids_a_queue_at_a_server_that_never_rejects():
    throttle, api = make_throttle(256, adaptive=True), Api(10, queues=True)
    await load(api, throttle, 30)
    assert await load(api, throttle, 60) >= 0.9 * 10 / ROUND_TRIP_SECONDS
    assert throttle.limit < 80, "with 256 requests in flight, a round trip would take 26 times as long"


@pytest.mark.parametrize("error", [RateLimited("", retry_after=1.0), Unavailable("no response", overloaded=True)])
@virtual_time
async def test_throttle_serves_urgent_requests_first_when_its_limit_falls(error):
    """A Complete that waits for hundreds of Starts would lose its claim."""
    throttle = make_throttle(4, adaptive=True)
    waited = []

    async def send_starts():
        while True:
            try:
                async with throttle.permit():
                    await anyio.sleep(0.5)
                    if random.Random(anyio.current_time()).random() < 0.5:
                        raise error
            except (RateLimited, Unavailable):
                pass

    async with anyio.create_task_group() as group:
        for _ in range(500):
            group.start_soon(send_starts)
        for _ in range(100):
            await anyio.sleep(1)
            requested_at = anyio.current_time()
            async with throttle.permit(urgent=True):
                waited.append(anyio.current_time() - requested_at)
        group.cancel_scope.cancel()
    assert max(waited) < 5
    assert throttle.in_flight == 0


@virtual_time
async def test_adaptive_throttle_is_lowered_only_by_signs_of_overload():
    """A gateway that drops one response in ten at any load must not reduce the limit to 1."""
    throttle = make_throttle(16, adaptive=True)
    for number in range(400):
        with suppress(Ambiguous):
            async with throttle.permit():
                await anyio.sleep(0.05)
                if number % 10 == 0:
                    raise Ambiguous("the response is incomplete")
    assert throttle.limit == 16
    for number in range(100):
        with suppress(Ambiguous):
            async with throttle.permit():
                await anyio.sleep(0.05)
                if number % 2 == 0:
                    raise Ambiguous("no response in time", overloaded=True)
    assert throttle.limit < 16


@pytest.mark.parametrize("rates", [{Fault.ERROR_BEFORE: 0.05}, {Fault.ERROR_BEFORE: 0.03, Fault.THROTTLE: 0.02}])
def test_export_with_random_errors_is_as_fast_as_with_a_fixed_limit(rates):
    """At most 1.3 times as slow, in the median, with 5 % of 503, or 3 % of 503 and 2 % of 429."""
    fixed, adaptive = (
        median(run_virtual(partial(export_seconds, rates, seed, adaptive=adaptive)) for seed in range(3))
        for adaptive in (False, True)
    )
    assert adaptive <= 1.3 * fixed, f"{adaptive:.1f} s, and {fixed:.1f} s with the fixed limit"


async def export_seconds(rates, seed, *, adaptive):
    """Export 200 tasks with 16 workers at a latency of 50 ms; return the seconds in virtual time."""
    aluma = simulated(200, seed=seed, latency_seconds=ROUND_TRIP_SECONDS)
    throttle = make_throttle(32, adaptive=adaptive, seed=seed)
    async with client_of(aluma, FaultPlan(rates, seed=seed), request_limiter=throttle) as client:
        exporter = Exporter(client, MemoryDestination(), workers=16, uniform=random.Random(seed).uniform)
        await exporter.run_until_drained()
    assert aluma.count_by_state()["completed"] > 150
    return anyio.current_time()


@virtual_time
async def test_adaptive_throttle_reports_considerable_changes_only():
    """The search for the limit at the start, single errors and steps of one are not reported."""
    emitted = []
    throttle = Throttle(64, adaptive=True, uniform=random.Random(0).uniform, on_event=emitted.append)
    api = Api(1000)

    def reports():
        return [event for event in emitted if isinstance(event, ConcurrencyLimitAdapted)]

    await load(api, throttle, 2, workers=70)
    assert throttle.limit == 64
    assert reports() == []
    api.limit = 10
    await load(api, throttle, 30, workers=70)
    before = reports()
    assert before[0].previous == 64
    assert before[-1].limit < 15
    await load(api, throttle, 150, workers=70)
    assert reports() == before, "probes are not reported"
    api.limit = 1000
    await load(api, throttle, 90, workers=70)
    assert reports()[-1].limit > 40
    throttle.set_limits(8, max_per_second=0, max_bytes_per_second=0)
    assert reports()[-1].limit > 40, "a new configuration is not reported"
