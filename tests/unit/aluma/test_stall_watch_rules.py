"""``StallWatch``: when a request that makes no progress is ended."""

import asyncio
from types import SimpleNamespace

import anyio
import pytest

from aluma_async.aluma.responses import DOWNLOAD, SETTLE, START
from aluma_async.aluma.stall_watch import StallWatch, WatchedRequest
from aluma_async.clock import loop_time
from aluma_async.exceptions import Ambiguous, Unavailable
from aluma_async.ports import OTHERS_WAIT
from tests.support.clock import virtual_time


class Sent:
    """A request that has been sent; ``ended_after`` are the seconds after which it was ended early, or None."""

    def __init__(self, stalls, task="t", kind=DOWNLOAD):
        self.ended_after = None
        self._sent_at = loop_time()
        self.request = WatchedRequest(stalls, kind, task)
        self.request.begin(self._sent_at, self._end)

    def _end(self):
        self.ended_after = loop_time() - self._sent_at

    def answer(self):
        self.request.is_answered = True
        self.request.finish()

    def receive(self, count):
        if not self.request.response:
            content = SimpleNamespace(total_bytes=0)
            self.request.receive(SimpleNamespace(content=content, close=self._end))
        self.request.is_waiting = True  # as the reader does
        self.request.response.content.total_bytes += count


def watch_of(slow_bytes_per_second=0, *, contended=True):
    return StallWatch(slow_bytes_per_second, lambda: contended)


async def answer_one(stalls, kind=DOWNLOAD, seconds=0.0):
    """Send a request whose response takes some time."""
    sent = Sent(stalls, "other", kind)
    await anyio.sleep(seconds)
    sent.answer()


@virtual_time
async def test_request_may_lag_twice_as_long_at_each_attempt():
    stalls = watch_of()
    await answer_one(stalls)
    ended_after = []
    for _ in range(4):
        await answer_one(stalls)
        sent = Sent(stalls)
        await anyio.sleep(119)
        ended_after.append(sent.ended_after)
    assert ended_after == [15, 30, 60, None]


@virtual_time
async def test_request_may_lag_twice_as_long_as_those_of_its_kind():
    """That were answered in the last one or two minutes."""
    stalls = watch_of()
    await answer_one(stalls, DOWNLOAD, 14)
    await answer_one(stalls, START)
    downloads, starts = Sent(stalls), Sent(stalls, "u", START)
    await anyio.sleep(60)
    assert (downloads.ended_after, starts.ended_after) == (26, 16)
    await anyio.sleep(120)
    Sent(stalls, "first")
    await anyio.sleep(5)
    await answer_one(stalls)
    sent = Sent(stalls, "later")
    await anyio.sleep(60)
    assert sent.ended_after == 15


@pytest.mark.parametrize(("count", "kept"), [(1, 0), (3, 0), (4, 1), (8, 2), (11, 2)])
@virtual_time
async def test_oldest_quarter_is_kept_while_none_of_the_kind_is_answered(count, kept):
    stalls = watch_of()
    await answer_one(stalls, SETTLE)
    sent = [Sent(stalls, str(number)) for number in range(count)]
    await anyio.sleep(16)
    assert [one.ended_after for one in sent] == [None] * kept + [15] * (count - kept)


@virtual_time
async def test_request_is_ended_only_while_others_wait():
    """For a permit, or for a worker."""
    is_waiting = False
    token = OTHERS_WAIT.set(lambda: is_waiting)
    stalls = watch_of(contended=False)
    await answer_one(stalls)
    sent = Sent(stalls)
    OTHERS_WAIT.reset(token)
    unrelated = Sent(stalls, "unrelated")
    await anyio.sleep(39)
    assert sent.ended_after is None
    is_waiting = True
    await anyio.sleep(2)
    assert sent.ended_after == 40
    assert unrelated.ended_after is None


@virtual_time
async def test_request_of_a_copy_is_not_ended_nor_of_the_oldest_quarter():
    """The copy would lack the file. But it is remembered how long it lagged."""
    stalls = watch_of()
    token = OTHERS_WAIT.set(None)
    copies = [Sent(stalls, str(number)) for number in range(4)]
    OTHERS_WAIT.reset(token)
    others = [Sent(stalls, f"other {number}") for number in range(4)]
    await anyio.sleep(16)
    assert [one.ended_after for one in others] == [None] + [15] * 3
    await anyio.sleep(14)
    assert [one.ended_after for one in copies] == [None] * 4
    copies[0].answer()
    later = Sent(stalls, "later")
    await anyio.sleep(90)
    assert later.ended_after == 60


@pytest.mark.parametrize(
    ("slow", "count", "ended_after"),
    [(0, 0, 15), (0, 1, None), (1000, 999, 15), (1000, 1500, None)],
)
@virtual_time
async def test_request_does_not_lag_while_enough_is_received(slow, count, ended_after):
    stalls = watch_of(slow)
    await answer_one(stalls)
    sent = Sent(stalls)
    for _ in range(60):
        await anyio.sleep(1)
        sent.receive(count)
    assert sent.ended_after == ended_after


@pytest.mark.parametrize(
    ("link", "ended"),
    [(125_000, 0), (50_000, 0), (16_000, 16)],
)
@virtual_time
async def test_request_does_not_lag_while_it_gets_its_share_of_a_slow_link(link, ended):
    """A quarter of the average is enough, unless all together receive so little that it cannot be due to the link."""
    stalls = watch_of(20_000)
    await answer_one(stalls)
    sent = [Sent(stalls, str(number)) for number in range(16)]
    for _ in range(40):
        await anyio.sleep(1)
        for one in sent:
            one.receive(link / 16)
    assert sum(one.ended_after is not None for one in sent) == ended


@virtual_time
async def test_request_lags_if_it_gets_less_than_a_quarter_of_the_others():
    """Also if these end between two checks. One that receives nothing always lags."""
    stalls = watch_of(20_000)
    await answer_one(stalls)
    silent, slow, fair = (Sent(stalls, task) for task in ("silent", "slow", "fair"))
    for _ in range(40):
        fast = Sent(stalls, "fast")
        await anyio.sleep(1)
        slow.receive(3_000)
        fair.receive(12_000)
        fast.receive(60_000)
        fast.answer()
    assert (silent.ended_after, slow.ended_after, fair.ended_after) == (15, 15, None)


@virtual_time
async def test_request_does_not_lag_while_the_client_does_not_wait_for_it():
    """Such as while the destination is slow."""
    stalls = watch_of()
    await answer_one(stalls)
    sent = Sent(stalls)
    sent.request.is_waiting = False
    await anyio.sleep(60)
    sent.request.is_waiting = True
    await anyio.sleep(14)
    assert sent.ended_after is None
    await anyio.sleep(2)
    assert sent.ended_after == 75


@virtual_time
async def test_request_does_not_lag_between_its_headers_and_the_first_read():
    """Such as while the destination opens its file."""
    stalls = watch_of()
    await answer_one(stalls)
    sent = Sent(stalls)
    sent.request.receive(SimpleNamespace(content=SimpleNamespace(total_bytes=0), close=sent.request.finish))
    await anyio.sleep(60)
    assert not sent.request.ended_early
    assert stalls.paused_requests == 1


@virtual_time
async def test_request_does_not_lag_while_the_process_is_suspended():
    """What has arrived meanwhile is not read yet."""
    stalls = watch_of()
    await answer_one(stalls)
    sent = Sent(stalls)
    await anyio.sleep(10)
    asyncio.get_running_loop().now += 100
    await anyio.sleep(14)
    assert sent.ended_after is None
    await anyio.sleep(4)
    assert sent.ended_after is not None


@pytest.mark.parametrize(("kind", "error"), [(START, Ambiguous), (SETTLE, Ambiguous), (DOWNLOAD, Unavailable)])
@virtual_time
async def test_ended_request_has_an_error_that_spares_others(kind, error):
    stalls = watch_of()
    await answer_one(stalls, kind)
    sent = Sent(stalls, kind=kind)
    await anyio.sleep(16)
    assert sent.request.ended_early
    result = sent.request.error("do it")
    assert type(result) is error
    assert result.spares_others
    assert result.ended_early
    assert not result.overloaded
    assert str(result).startswith("do it: given up after 15 s")


@virtual_time
async def test_request_that_has_ended_is_not_watched():
    stalls = watch_of()
    await answer_one(stalls)
    sent = Sent(stalls)
    sent.request.finish()
    sent.request.finish()
    await anyio.sleep(60)
    assert sent.ended_after is None
    assert stalls.timer is None


@virtual_time
async def test_response_that_stops_after_its_first_bytes_is_ended():
    """What was received earlier is no progress."""
    stalls = watch_of()
    await answer_one(stalls)
    sent = Sent(stalls)
    await anyio.sleep(5.5)
    sent.receive(100_000)
    await anyio.sleep(60)
    assert sent.ended_after == pytest.approx(5.5 + 15, abs=3)
