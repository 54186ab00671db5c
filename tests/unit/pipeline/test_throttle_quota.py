"""``Throttle`` in a fleet: a quota that changes each second, and pauses of other exporters."""

from contextlib import suppress

import anyio
import pytest

from aluma_async.events import RequestsPaused
from aluma_async.exceptions import RateLimited
from aluma_async.pipeline.throttle import Throttle
from tests.support.clock import virtual_time


def make_throttle(at_once=32, *, events=None, **options):
    return Throttle(
        at_once, uniform=lambda low, _: low, on_event=(events if events is not None else []).append, **options
    )


def set_quota(throttle, quota, *, per_second=0, bytes_per_second=0):
    throttle.set_limits(32, quota=quota, max_per_second=per_second, max_bytes_per_second=bytes_per_second)


@pytest.mark.parametrize("adaptive", [True, False])
@virtual_time
async def test_throttle_sends_nothing_with_a_quota_of_0_and_again_after_it(adaptive):
    """The limit that was found before the quota applies again at once."""
    throttle, sent = make_throttle(adaptive=adaptive), []

    async def request():
        async with throttle.permit():
            sent.append(anyio.current_time())

    before = throttle.limit
    set_quota(throttle, 0)
    assert throttle.limit == 0
    async with anyio.create_task_group() as group:
        group.start_soon(request)
        await anyio.sleep(5)
        assert not sent
        set_quota(throttle, 8)
        await anyio.sleep(0.01)
        assert len(sent) == 1
    assert throttle.limit == 8
    set_quota(throttle, float("inf"))
    assert throttle.limit == before


@virtual_time
async def test_throttle_keeps_the_rate_when_the_quota_is_renewed():
    throttle, sent = make_throttle(), []
    set_quota(throttle, 8, per_second=2)

    async def send():
        while True:
            async with throttle.permit():
                sent.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        for number in range(50):
            await anyio.sleep(0.2)
            set_quota(throttle, 8, per_second=2 + number % 2 * 0.1)
        group.cancel_scope.cancel()
    assert 19 <= len(sent) <= 22


@virtual_time
async def test_throttle_follows_a_growing_rate_within_a_second():
    """A request, or a download, that waits for a very low rate does not wait for its end."""
    throttle = make_throttle()
    set_quota(throttle, 8, per_second=0.01, bytes_per_second=1)
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(_send, throttle)
        group.start_soon(throttle.consume_bytes, 100_000)
        await anyio.sleep(5)
        set_quota(throttle, 8, per_second=100, bytes_per_second=1e6)
        with anyio.fail_after(1.5):
            while throttle.in_flight:  # noqa: ASYNC110
                await anyio.sleep(0.1)
        started_at = anyio.current_time()
    assert anyio.current_time() - started_at < 1.5


async def _send(throttle):
    async with throttle.permit():
        pass


@virtual_time
async def test_throttle_pauses_for_another_exporter():
    """Settlements wait for their part of the pause, as in a pause of its own; it is not reported again."""
    events, reported = [], []
    throttle = make_throttle(events=events)
    throttle.on_pause = reported.append
    throttle.pause(3.0)
    started_at = anyio.current_time()
    async with throttle.permit() as sent_at:
        assert sent_at >= started_at + 3
    assert (events, reported) == ([RequestsPaused(3.0)], [])


@virtual_time
async def test_throttle_reports_a_pause_unless_it_may_be_that_of_single_tasks():
    reported = []
    throttle = make_throttle()
    throttle.on_pause = reported.append
    for seconds, operation in ((60.0, "start 1"), (90.0, "")):
        error = RateLimited("429", retry_after=seconds)
        error.operation = operation
        with suppress(RateLimited):
            async with throttle.permit(urgent=True):
                raise error
    assert reported == [90.0]
