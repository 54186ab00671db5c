"""What takes longer than it may is ended, when it should be, and nothing else is."""

import anyio
import pytest

from aluma_async.clock import loop_time
from aluma_async.concurrency.deadline import SharedDeadline
from aluma_async.testing import run_virtual


async def ended_after(limit, begun, seconds=1000.0, *, shield=False):
    """The moment at which a block that would take so long is over, and whether it came to its end."""
    finished = False
    with limit.scope(begun, shield=shield):
        await anyio.sleep(seconds)
        finished = True
    return loop_time(), finished


def test_a_block_that_takes_too_long_is_ended_in_time_and_what_follows_goes_on():
    async def story():
        begun = loop_time()
        assert await ended_after(SharedDeadline(60), begun) == (begun + 60, False)
        await anyio.sleep(1)  # not cancelled
        assert loop_time() == begun + 61

    run_virtual(story)


def test_a_block_that_is_over_in_time_is_left_alone():
    async def story():
        begun, limit = loop_time(), SharedDeadline(60)
        assert await ended_after(limit, begun, 59) == (begun + 59, True)
        await anyio.sleep(100)
        assert await ended_after(limit, loop_time(), 59) == (begun + 59 + 100 + 59, True)

    run_virtual(story)


@pytest.mark.parametrize("order", [(0, -50, -20), (-50, 0, -20), (-20, 0, -50)])
def test_each_of_many_is_ended_at_its_own_time_whatever_the_order_they_are_entered_in(order):
    """A claim that is saved into the quarantine has begun long before one that was just started."""

    async def story():
        now, limit, ends = loop_time(), SharedDeadline(60), {}

        async def block(begun):
            ends[begun] = (await ended_after(limit, now + begun))[0] - now

        async with anyio.create_task_group() as group:
            for begun in order:
                group.start_soon(block, begun)
        assert ends == {begun: begun + 60 for begun in order}

    run_virtual(story)


def test_a_block_that_began_too_long_ago_is_ended_at_once():
    async def story():
        now = loop_time()
        assert await ended_after(SharedDeadline(60), now - 61) == (now, False)

    run_virtual(story)


@pytest.mark.parametrize("shield", [True, False])
def test_a_cancelled_caller_ends_a_block_only_if_it_is_not_shielded(shield):
    async def story():
        begun = loop_time()
        with anyio.move_on_after(5):
            _, finished = await ended_after(SharedDeadline(60), begun, 30, shield=shield)
            assert finished
        assert loop_time() == begun + (30 if shield else 5)

    run_virtual(story)
