"""``Throttle`` with an adaptive limit: which requests count for it, and what is reported."""

from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from aluma_async import events
from aluma_async.exceptions import RateLimited, SourceError, Unavailable
from aluma_async.pipeline.pauses import MAX_PAUSE_SECONDS
from aluma_async.pipeline.throttle import Throttle
from tests.support.clock import virtual_time


class Requests:
    """An adaptive throttle without jitter, and the events that it emitted."""

    def __init__(self, limit=64, **options):
        self.events = []
        self.throttle = Throttle(
            limit, **{"adaptive": True, **options}, uniform=lambda low, high: low, on_event=self.events.append
        )

    async def send(self, count, *, error=None, seconds=0.1, urgent=True):
        """Send requests at the same time, each of which ends with ``error``."""

        async def send_one():
            try:
                async with self.throttle.permit(urgent=urgent):
                    await anyio.sleep(seconds)
                    if error:
                        raise error
            except SourceError:
                pass

        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(send_one)

    def limits(self):
        return [event.limit for event in self.events if isinstance(event, events.ConcurrencyLimitChanged)]

    def adapted(self):
        return [
            (event.previous, event.limit) for event in self.events if isinstance(event, events.ConcurrencyLimitAdapted)
        ]


@virtual_time
async def test_adaptive_throttle_begins_at_16_and_grows_while_it_is_used():
    """Growth at the start is not reported, because nothing was reduced."""
    requests = Requests()
    assert requests.throttle.limit == 16
    await requests.send(16)
    assert requests.throttle.limit == requests.limits()[-1] > 16
    assert not requests.adapted()


@pytest.mark.parametrize("urgent", [True, False])
@virtual_time
async def test_adaptive_throttle_does_not_grow_below_its_limit(urgent):
    requests = Requests()
    await requests.send(15, urgent=urgent)
    assert requests.throttle.limit == 16
    await requests.send(16, urgent=urgent)
    assert requests.throttle.limit > 16


@pytest.mark.parametrize("error", [RateLimited("", retry_after=0), Unavailable("", overloaded=True)])
@virtual_time
async def test_adaptive_throttle_reports_a_reduction_and_the_recovery(error):
    requests = Requests(16)
    await requests.send(16, error=error)
    assert requests.throttle.limit == 8
    assert requests.adapted() == [(16, 8)]
    for _ in range(8):
        await anyio.sleep(20)
        await requests.send(40)
    assert requests.throttle.limit == 16
    assert requests.adapted()[1:] == [(8, 12)]
    assert requests.limits()[-4:] == [13, 14, 15, 16]


@virtual_time
async def test_adaptive_throttle_reports_a_reduction_from_the_limit_it_had_grown_to():
    requests = Requests(64)
    for _ in range(6):
        await requests.send(64)
    assert requests.throttle.limit == 64
    assert not requests.adapted()
    for _ in range(2):
        await requests.send(64, error=Unavailable("", overloaded=True))
    assert requests.adapted()[0][0] == 64


@virtual_time
async def test_adaptive_throttle_ignores_errors_that_are_no_overload():
    requests = Requests()
    for _ in range(5):
        await requests.send(16, error=Unavailable(""))
    assert requests.throttle.limit == 16
    assert not requests.limits()


@virtual_time
async def test_adaptive_throttle_probes_no_sooner_after_a_long_pause():
    """A 429 with Retry-After 4 s delays the next probe for a minute, so that long pauses occur rarely."""
    requests = Requests(16)
    await requests.send(16, error=RateLimited("", retry_after=4))
    reduced_at = anyio.current_time()
    for _ in range(600):
        if requests.throttle.limit > 15:
            break
        await requests.send(16)
    assert requests.throttle.limit == 16
    assert anyio.current_time() - reduced_at >= 60


@virtual_time
async def test_fixed_throttle_keeps_its_limit():
    requests = Requests(16, adaptive=False)
    await requests.send(16, error=RateLimited("", retry_after=0))
    await requests.send(50)
    assert requests.throttle.limit == 16
    assert not requests.limits()


@pytest.mark.parametrize("adaptive", [False, True])
@virtual_time
async def test_changed_limit_applies_to_waiting_requests_and_is_no_adaptation(adaptive):
    requests = Requests(4, adaptive=adaptive)
    async with anyio.create_task_group() as group:
        group.start_soon(requests.send, 8)
        await anyio.sleep(0.05)
        assert requests.throttle.in_flight == 4
        requests.throttle.set_limits(8, max_per_second=0, max_bytes_per_second=0)
        await anyio.lowlevel.checkpoint()
        if not adaptive:
            assert requests.throttle.in_flight == 8
    requests.throttle.set_limits(2, max_per_second=0, max_bytes_per_second=0)
    assert requests.throttle.limit == 2
    assert not requests.adapted()


@virtual_time
async def test_changed_rates_replace_the_earlier_ones():
    requests = Requests(50, adaptive=False, max_per_second=1, max_bytes_per_second=1)
    requests.throttle.set_limits(50, max_per_second=10, max_bytes_per_second=1000)
    await requests.send(21, seconds=0)
    assert anyio.current_time() == pytest.approx(2, abs=0.1)
    await requests.throttle.consume_bytes(1000)
    await requests.throttle.consume_bytes(3000)
    assert anyio.current_time() == pytest.approx(5, abs=0.2)
    requests.throttle.set_limits(50, max_per_second=0, max_bytes_per_second=0)
    await requests.send(50, seconds=0)
    await requests.throttle.consume_bytes(10**9)
    assert anyio.current_time() == pytest.approx(5, abs=0.2)


@virtual_time
async def test_urgent_requests_go_first_and_keep_their_order():
    requests, order = Requests(1, adaptive=False), []

    async def send(name, *, urgent):
        async with requests.throttle.permit(urgent=urgent):
            order.append(name)
            await anyio.sleep(1)

    async with anyio.create_task_group() as group:
        for name, urgent in (("a", False), ("b", False), ("c", False), ("U", True), ("V", True)):
            group.start_soon(lambda name=name, urgent=urgent: send(name, urgent=urgent))
            await anyio.sleep(0.01)
    assert order == ["a", "U", "V", "b", "c"]


@virtual_time
async def test_429_without_retry_after_pauses_5_seconds_first_and_300_at_most():
    """A success begins the series again."""
    pauses = []
    throttle = Throttle(
        1,
        uniform=lambda low, high: high,
        on_event=lambda event: pauses.append(event.seconds) if isinstance(event, events.RequestsPaused) else None,
    )

    async def send(error=None):
        try:
            async with throttle.permit():
                if error:
                    raise error
        except SourceError:
            pass

    for _ in range(8):
        await send(RateLimited(""))
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    begin = anyio.current_time()
    await send()
    assert anyio.current_time() - begin == pytest.approx(301, abs=0.1), "at most a second later, as a random share"
    await send(RateLimited(""))
    assert pauses[-1] == 5
    begin = anyio.current_time()
    await send()
    assert anyio.current_time() - begin == pytest.approx(5.5, abs=0.1)
    await send(RateLimited("", retry_after=100))
    await send(Unavailable(""))
    assert pauses[-1] == 100, "an error without Retry-After begins no pause"


@virtual_time
async def test_pause_after_429_without_retry_after_is_at_least_a_second():
    requests = Requests(1, adaptive=False)
    await requests.send(1, error=RateLimited(""))
    assert [event.seconds for event in requests.events] == [1]


@virtual_time
async def test_pause_is_at_most_an_hour():
    requests = Requests(1, adaptive=False)
    await requests.send(1, error=RateLimited("", retry_after=3601), urgent=False)
    assert [event.seconds for event in requests.events] == [3600]
    assert MAX_PAUSE_SECONDS == 3600


@virtual_time
async def test_throttle_restores_the_limit_when_a_pause_was_that_of_single_tasks():
    """Their refusals are no sign of overload."""
    throttle = Throttle(16, adaptive=True, uniform=lambda low, _: low, on_event=lambda _: None)

    async def refuse():
        error = RateLimited("", retry_after=600)
        error.operation = "start task 1"
        with suppress(RateLimited):
            async with throttle.permit():
                await anyio.sleep(1)
                raise error

    async with anyio.create_task_group() as group:
        for _ in range(16):
            group.start_soon(refuse)
    assert throttle.limit < 16
    throttle.end_pause()
    assert throttle.limit == 16


@virtual_time
async def test_throttle_keeps_a_new_maximum_when_a_pause_of_single_tasks_ends():
    throttle = Throttle(16, adaptive=True, uniform=lambda low, _: low, on_event=lambda _: None)
    error = RateLimited("", retry_after=600)
    error.operation = "start task 1"
    with suppress(RateLimited):
        async with throttle.permit():
            raise error
    throttle.set_limits(4, max_per_second=0, max_bytes_per_second=0)
    throttle.end_pause()
    assert throttle.limit == 4
