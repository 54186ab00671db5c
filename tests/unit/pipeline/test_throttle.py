"""``Throttle``: one limit, one rate and one pause for all requests."""

import random
from contextlib import suppress
from functools import partial

import anyio
import pytest

from aluma_async import events
from aluma_async.exceptions import ClaimConflict, InvalidResponse, RateLimited, SourceError, Unavailable
from aluma_async.pipeline.pauses import MAX_PAUSE_SECONDS, MAX_URGENT_PAUSE_SECONDS
from aluma_async.pipeline.throttle import Throttle
from tests.support.clock import virtual_time


def make_throttle(limit=4, emitted=None, **limits):
    return Throttle(
        limit, uniform=random.Random(0).uniform, on_event=(emitted if emitted is not None else []).append, **limits
    )


async def requests(throttle, count, *, seconds=1.0, error=None, urgent=False):
    """Make requests at the same time; return when each was sent, and the peak of requests in flight."""
    sent_at, in_flight, peak = [], 0, 0

    async def send():
        nonlocal in_flight, peak
        try:
            async with throttle.permit(urgent=urgent):
                sent_at.append(anyio.current_time())
                in_flight += 1
                peak = max(peak, in_flight)
                try:
                    await anyio.sleep(seconds)
                finally:
                    in_flight -= 1
                if error:
                    raise error
        except SourceError:
            pass

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(send)
    return sent_at, peak


@virtual_time
async def test_throttle_lets_exactly_the_limit_of_requests_be_in_flight():
    throttle = make_throttle(4)
    _, peak = await requests(throttle, 50)
    assert peak == 4
    assert throttle.in_flight == 0


@virtual_time
async def test_throttle_keeps_the_rate_also_after_a_pause():
    throttle = make_throttle(50, max_per_second=10)
    await requests(throttle, 1, error=RateLimited("", retry_after=5))
    sent_at, _ = await requests(throttle, 40)
    for i, start in enumerate(sent_at):
        assert sum(start <= time < start + 0.999 for time in sent_at[i:]) <= 10
    assert sent_at[-1] - sent_at[0] == pytest.approx(3.9, abs=0.1)


@pytest.mark.parametrize("error", [RateLimited("", retry_after=30), Unavailable("", retry_after=30)])
@virtual_time
async def test_throttle_pauses_all_requests_for_retry_after(error):
    """No request is sent before the end of the pause, not even one that was already waiting."""
    emitted = []
    throttle = make_throttle(4, emitted)
    sent_at, _ = await requests(throttle, 12, error=error)
    assert min(sent_at[4:]) >= 31
    assert isinstance(emitted[0], events.RequestsPaused)
    assert emitted[0].seconds == 30


@virtual_time
async def test_throttle_limits_the_length_of_a_pause():
    throttle = make_throttle(1)
    await requests(throttle, 1, error=RateLimited("", retry_after=1e9))
    sent_at, _ = await requests(throttle, 1)
    assert sent_at[0] <= MAX_PAUSE_SECONDS + 10


@virtual_time
async def test_throttle_doubles_the_pause_after_each_429_without_retry_after():
    """Requests that are refused at the same time cause one pause."""
    emitted = []
    throttle = make_throttle(16, emitted)
    for n in range(6):
        before = len(emitted)
        await requests(throttle, 16, error=RateLimited(""), seconds=0.01)
        assert len(emitted) - before == 1
        assert 1 <= emitted[-1].seconds <= 5 * 2**n


@virtual_time
async def test_throttle_limits_bytes_per_second():
    throttle = make_throttle(4, max_bytes_per_second=1000)
    for _ in range(50):
        await throttle.consume_bytes(200)
    assert anyio.current_time() == pytest.approx(9, abs=0.01), "after a burst of one second"


@virtual_time
async def test_throttle_keeps_no_permit_of_a_cancelled_waiter():
    throttle = make_throttle(1)
    async with throttle.permit():
        with anyio.move_on_after(1):
            async with throttle.permit():
                raise AssertionError
    await requests(throttle, 1, error=RateLimited("", retry_after=60))
    with anyio.move_on_after(1):
        await requests(throttle, 3)
    assert throttle.in_flight == 0
    await requests(throttle, 3)


@virtual_time
async def test_throttle_reports_how_long_no_response_has_arrived():
    """A success and data count as a response, an error does not, and a pause is no wait for one."""
    throttle = make_throttle(4)
    await anyio.sleep(100)
    assert throttle.outage == (0, None)
    async with throttle.permit(), anyio.create_task_group() as group:
        await anyio.sleep(10)
        error = Unavailable("")
        group.start_soon(partial(requests, throttle, 1, error=error))
        await anyio.sleep(10)
        assert throttle.outage == (10, error)
        await throttle.consume_bytes(1)
        await anyio.sleep(3)
        assert throttle.outage == (3, None)
        await requests(throttle, 1)
        await anyio.sleep(2)
        assert throttle.outage == (2, None)
    assert throttle.outage == (0, None)


@pytest.mark.parametrize("error", [Unavailable("away"), RateLimited("", retry_after=600), InvalidResponse("a page")])
@virtual_time
async def test_throttle_reports_an_outage_while_all_requests_fail(error):
    """Until the first success; a refusal due to the task's state is one, too. An idle exporter has no outage."""
    for end in (None, ClaimConflict("")):
        throttle = make_throttle(4)
        await requests(throttle, 1)
        await anyio.sleep(100)
        assert throttle.outage == (0, None)
        await requests(throttle, 4, error=error, seconds=0)
        await anyio.sleep(20)
        assert throttle.outage == (20, error)
        await requests(throttle, 1, error=end, urgent=True)
        assert throttle.outage == (0, None)


@virtual_time
async def test_throttle_counts_an_outage_from_before_its_first_pause():
    """A success that was under way at the first refusal says nothing about the time after it."""
    throttle = make_throttle(4)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(requests, throttle, 1, seconds=2))
        await requests(throttle, 1, error=RateLimited("", retry_after=5))
    await requests(throttle, 1, error=RateLimited("", retry_after=60))
    await anyio.sleep(15)
    assert throttle.outage.seconds > 18
    await requests(throttle, 1, urgent=True)
    assert throttle.outage.seconds == 0


@virtual_time
async def test_throttle_counts_a_time_out_from_the_sending_of_the_request():
    """A hanging API is an outage without a break at the moment of the time-out, when no request waits any more."""
    throttle = make_throttle(4)
    await requests(throttle, 4, error=Unavailable(""), seconds=60)
    assert throttle.outage.seconds == 60


@virtual_time
async def test_throttle_reports_no_outage_while_a_resumed_download_goes_on():
    """Its first connection failed, and nothing else is sent. Further failures are an outage: the API may be down."""
    throttle = make_throttle(4)
    await requests(throttle, 1, error=InvalidResponse(""))
    async with throttle.permit():
        for _ in range(60):
            await throttle.consume_bytes(1)
            await anyio.sleep(1)
        assert throttle.outage.seconds <= 1
        await requests(throttle, 2, error=Unavailable(""))
        assert throttle.outage.seconds > 60


@pytest.mark.parametrize("error", [RateLimited("", retry_after=3000), Unavailable("", retry_after=3000)])
@pytest.mark.parametrize("limit", [1, 4])
@virtual_time
async def test_throttle_sends_urgent_requests_during_a_long_pause(limit, error):
    """Claims expire, so one settlement is tried after two minutes, and all follow as soon as one succeeds."""
    throttle = make_throttle(limit)
    await requests(throttle, 1, error=error)
    began, results = anyio.current_time(), {}

    async def send(kind):
        results[kind], _ = await requests(throttle, 8, urgent=kind == "urgent")

    async with anyio.create_task_group() as group:
        group.start_soon(send, "other")
        await anyio.sleep(10)
        group.start_soon(send, "urgent")
    waits = [time - began for time in results["urgent"]]
    assert MAX_URGENT_PAUSE_SECONDS == 120
    assert 120 <= waits[0] < 121
    assert waits[-1] < MAX_URGENT_PAUSE_SECONDS + 30
    assert min(results["other"]) - began >= 3000
    assert throttle.in_flight == 0


@virtual_time
async def test_throttle_tries_one_urgent_request_at_a_time_while_they_are_refused():
    throttle = make_throttle(4)
    began = anyio.current_time()
    await requests(throttle, 1, error=Unavailable("", retry_after=3000))
    with anyio.move_on_after(1000):
        sent_at, _ = [], None
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(_send_refused, throttle, sent_at)
    assert [round((time - began) / (MAX_URGENT_PAUSE_SECONDS + 2)) for time in sent_at] == list(range(1, 9))


async def _send_refused(throttle, sent_at):
    with suppress(Unavailable):
        async with throttle.permit(urgent=True):
            sent_at.append(anyio.current_time())
            await anyio.sleep(1)
            raise Unavailable("", retry_after=3000)


@virtual_time
async def test_throttle_sends_waiting_requests_of_each_kind_after_a_pause():
    """Also if a pause begins between the grant of a permit and its use, and if it is extended."""
    throttle = make_throttle(2, max_per_second=5)
    sent = []
    async with anyio.create_task_group() as group:
        for number in range(12):
            error = Unavailable("", retry_after=40) if number % 5 == 1 else None
            group.start_soon(_send, throttle, sent, error, number % 3 == 0)
    assert len(sent) == 12
    assert throttle.in_flight == throttle.unanswered == 0


async def _send(throttle, sent, error, urgent):
    with suppress(Unavailable):
        async with throttle.permit(urgent=urgent):
            sent.append(anyio.current_time())
            if error:
                raise error


@virtual_time
async def test_throttle_reports_pauses_with_the_same_end_as_one():
    """And none that ends earlier: several requests are refused at the same moment."""
    emitted = []
    throttle = Throttle(4, uniform=lambda low, high: low, on_event=emitted.append)
    await requests(throttle, 4, error=Unavailable("", retry_after=30))
    assert [event.seconds for event in emitted] == [30]


@virtual_time
async def test_throttle_is_contended_while_requests_wait_for_others():
    throttle = make_throttle(1)
    async with throttle.permit():
        assert not throttle.is_contended
        async with anyio.create_task_group() as group:
            group.start_soon(requests, throttle, 1)
            await anyio.sleep(1)
            assert throttle.is_contended
            group.cancel_scope.cancel()
        assert not throttle.is_contended


@pytest.mark.parametrize(("limit", "others"), [(1, 0), (2, 1), (4, 1), (8, 2), (16, 4)])
@virtual_time
async def test_throttle_keeps_a_quarter_of_the_permits_for_other_requests(limit, others):
    """Otherwise settlements that hang would stop all tasks."""
    throttle = make_throttle(limit)
    sent = []

    async def send(seconds, *, urgent):
        async with throttle.permit(urgent=urgent):
            sent.append(urgent)
            await anyio.sleep(seconds)

    async with anyio.create_task_group() as group:
        for _ in range(limit):
            group.start_soon(partial(send, 1, urgent=False))
        await anyio.sleep(0.5)
        for urgent in (True, False):
            for _ in range(2 * limit):
                group.start_soon(partial(send, 100, urgent=urgent))
        await anyio.sleep(1)
        assert sent[limit:].count(False) == others
        group.cancel_scope.cancel()
    assert throttle.in_flight == 0


@virtual_time
async def test_throttle_counts_an_outage_from_the_first_request_after_an_idle_time():
    throttle = make_throttle(4)
    await requests(throttle, 1)
    await anyio.sleep(1000)
    async with throttle.permit():
        await anyio.sleep(10)
        async with throttle.permit():
            await anyio.sleep(5)
            assert throttle.outage == (15, None)


@pytest.mark.parametrize(("others_succeed", "pauses"), [(False, 5), (True, 2)])
@virtual_time
async def test_throttle_spares_others_of_429_only_while_they_succeed(others_succeed, pauses):
    """Only a success shows that a task that is refused again and again is refused alone; a mere attempt does not."""
    emitted, spared = [], []
    throttle = make_throttle(4, emitted)
    for _ in range(5):
        await requests(throttle, int(others_succeed))
        error = RateLimited("")
        error.operation = "download file 0 of task 1"
        await requests(throttle, 1, error=error)
        spared.append(error.spares_others)
    assert spared == [False] * 2 + [others_succeed] * 3
    assert sum(isinstance(event, events.RequestsPaused) for event in emitted) == pauses
