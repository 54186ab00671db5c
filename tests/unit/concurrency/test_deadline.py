"""``SharedDeadline``: a block that exceeds its time is cancelled in time, and nothing else is."""

import anyio
import pytest

from aluma_async.clock import loop_time
from aluma_async.concurrency.deadline import SharedDeadline
from tests.support.clock import virtual_time


async def run_block(deadline, started_at, seconds=1000.0, *, shield=False):
    """Run a block that takes ``seconds``; return when it has ended, and whether it was finished."""
    finished = False
    with deadline.scope(started_at, shield=shield):
        await anyio.sleep(seconds)
        finished = True
    return loop_time(), finished


@virtual_time
async def test_deadline_cancels_a_block_in_time_but_not_the_code_after_it():
    now = loop_time()
    assert await run_block(SharedDeadline(60), now) == (now + 60, False)
    await anyio.sleep(1)
    assert loop_time() == now + 61


@virtual_time
async def test_deadline_does_not_cancel_a_block_that_ends_in_time():
    now, deadline = loop_time(), SharedDeadline(60)
    assert await run_block(deadline, now, 59) == (now + 59, True)
    await anyio.sleep(100)
    assert await run_block(deadline, loop_time(), 59) == (now + 59 + 100 + 59, True)


@pytest.mark.parametrize("order", [(0, -50, -20), (-50, 0, -20), (-20, 0, -50)])
@virtual_time
async def test_deadline_cancels_each_block_at_its_own_time_in_any_order(order):
    """The block of a task that is stored in the quarantine started long before that of a new task."""
    now, deadline, ended_at = loop_time(), SharedDeadline(60), {}

    async def run_one(offset):
        ended_at[offset] = (await run_block(deadline, now + offset))[0] - now

    async with anyio.create_task_group() as group:
        for offset in order:
            group.start_soon(run_one, offset)
    assert ended_at == {offset: offset + 60 for offset in order}


@virtual_time
async def test_deadline_cancels_a_block_at_once_when_its_time_is_over():
    now = loop_time()
    assert await run_block(SharedDeadline(60), now - 61) == (now, False)


@pytest.mark.parametrize("shield", [True, False])
@virtual_time
async def test_cancelled_caller_interrupts_only_a_block_without_shield(shield):
    now = loop_time()
    with anyio.move_on_after(5):
        _, finished = await run_block(SharedDeadline(60), now, 30, shield=shield)
        assert finished
    assert loop_time() == now + (30 if shield else 5)
