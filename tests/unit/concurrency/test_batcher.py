"""The batcher: callers share one run of an expensive step, and no caller waits for more than two runs."""

import asyncio

import anyio
import pytest

from aluma_async.concurrency.batcher import GATHER_SECONDS, Batcher
from tests.support.clock import virtual_time


class Step:
    """Takes a while for all items of a batch; fails with ``error``, or for the items in ``broken``."""

    def __init__(self, *, seconds=1.0, error=None, broken=()):
        self.seconds, self.error, self.broken = seconds, error, broken
        self.done, self.runs = [], 0
        self.running = self.peak = 0

    async def __call__(self, batch):
        self.runs += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        await anyio.sleep(self.seconds)
        self.running -= 1
        if self.error:
            raise self.error
        self.done += batch.items
        batch.errors = {item: ValueError(item) for item in batch.items if item in self.broken}


async def submit(batcher, step, item):
    """Submit an item; return the seconds that this took."""
    started_at = anyio.current_time()
    await batcher.submit(item)
    assert item in step.done, "the item is processed when submit returns"
    return anyio.current_time() - started_at


@virtual_time
async def test_callers_that_arrive_during_a_batch_share_the_next():
    step = Step()
    batcher, waited = Batcher(step), []

    async def submit_later(number):
        await anyio.sleep(number / 100)
        waited.append(await submit(batcher, step, number))

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(submit_later, number)
    assert step.runs == 2
    assert max(waited) <= 2 + GATHER_SECONDS


@virtual_time
async def test_single_caller_does_not_wait_for_others():
    step = Step()
    batcher = Batcher(step)
    for number in range(5):
        assert await submit(batcher, step, number) == 1


@virtual_time
async def test_batch_waits_for_more_callers_when_the_last_one_was_shared():
    step = Step(seconds=GATHER_SECONDS / 5)
    batcher = Batcher(step)

    async def submit_often(caller):
        for number in range(10):
            await submit(batcher, step, (caller, number))
            await anyio.sleep(caller * GATHER_SECONDS / 10)

    async with anyio.create_task_group() as group:
        for caller in range(8):
            group.start_soon(submit_often, caller)
    assert step.runs < 25, "ten for each of eight callers that arrive within a moment of each other"


@virtual_time
async def test_batches_overlap_up_to_the_concurrency():
    step = Step()
    batcher = Batcher(step, concurrency=3)

    async def submit_later(number):
        await anyio.sleep(number / 10)
        await submit(batcher, step, number)

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(submit_later, number)
    assert step.peak == 3


@virtual_time
async def test_error_of_the_step_is_raised_to_all_callers_of_its_batch_only():
    step = Step(error=OSError("full"))
    batcher, failed = Batcher(step), []

    async def expect_error(number):
        try:
            await batcher.submit(number)
        except OSError:
            failed.append(number)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(expect_error, number)
    assert sorted(failed) == list(range(5))
    step.error = None
    await submit(batcher, step, "later")


@virtual_time
async def test_error_of_an_item_is_raised_to_its_caller_only():
    batcher, failed = Batcher(Step(broken={1, 3})), []

    async def expect_own_error(number):
        try:
            await batcher.submit(number)
        except ValueError as error:
            failed.append((number, *error.args))

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(expect_own_error, number)
    assert sorted(failed) == [(1, 1), (3, 3)]


@virtual_time
async def test_added_item_is_in_the_next_batch():
    step = Step()
    batcher = Batcher(step)
    batcher.add("lazy")
    await anyio.sleep(10)
    assert not step.done
    await submit(batcher, step, "urgent")
    assert step.done == ["lazy", "urgent"]
    batcher.add("last")
    await batcher.flush()
    assert step.done == ["lazy", "urgent", "last"]
    assert not batcher.pending


@pytest.mark.parametrize("cancelled", [0, 1])
@virtual_time
async def test_cancelled_caller_leaves_no_other_waiting(cancelled):
    step = Step()
    batcher, ended, scopes = Batcher(step), [], [anyio.CancelScope(), anyio.CancelScope()]

    async def submit_in_scope(number):
        with scopes[number]:
            await submit(batcher, step, number)
        ended.append(number)

    async with anyio.create_task_group() as group:
        for number in range(2):
            group.start_soon(submit_in_scope, number)
        await anyio.sleep(0.5)
        scopes[cancelled].cancel()
    assert sorted(ended) == [0, 1]
    assert sorted(step.done) == [0, 1]


@pytest.mark.parametrize("natively", [False, True])
@virtual_time
async def test_cancelled_caller_waits_for_the_end_of_its_batch(natively):
    """The cancellation is raised afterwards."""
    step = Step()
    batcher, ended = Batcher(step), []
    scope = anyio.CancelScope()

    async def submit_in_scope():
        with scope:
            try:
                await batcher.submit("follower")
            finally:
                ended.append((anyio.current_time(), step.runs))
            await anyio.sleep(1)
            raise AssertionError("the cancellation is not lost")

    started_at = anyio.current_time()
    first = asyncio.ensure_future(batcher.submit("first"))
    await anyio.sleep(0.1)
    leader, follower = asyncio.ensure_future(batcher.submit("leader")), asyncio.ensure_future(submit_in_scope())
    await anyio.sleep(0.5)
    if natively:
        follower.cancel()
    else:
        scope.cancel()
    await asyncio.wait([first, leader, follower])
    assert ended == [(pytest.approx(started_at + 2), 2)]
    assert follower.cancelled() == natively


@pytest.mark.parametrize("waits_for", ["callers", "slot"])
@virtual_time
async def test_batch_runs_when_its_leader_is_natively_cancelled_before_it(waits_for):
    """Its followers depend on it, and no scope shields the leader from such a cancellation."""
    step = Step()
    batcher = Batcher(step)
    if waits_for == "callers":  # because the last batch was shared
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(batcher.submit, number)
    else:
        running = asyncio.ensure_future(batcher.submit(0))
        await anyio.sleep(0.1)
    leader = asyncio.ensure_future(batcher.submit("leader"))
    follower = asyncio.ensure_future(submit(batcher, step, "follower"))
    await anyio.sleep(GATHER_SECONDS / 2)
    leader.cancel()
    await follower
    assert step.done[-2:] == ["leader", "follower"]
    await asyncio.wait([leader])
    assert leader.cancelled()
    await submit(batcher, step, "later")
    if waits_for == "slot":
        await running
