"""A step that is dear serves all who wait for it, and nobody waits for more than two of them."""

import asyncio

import anyio
import pytest

from aluma_async.concurrency.batcher import GATHER_SECONDS, Batcher
from aluma_async.testing import run_virtual


class Step:
    """Takes a second or so for all items of a batch; fails them all, or those in ``broken``."""

    def __init__(self, error=None, seconds=1.0, broken=()):
        self.seconds, self.error, self.broken = seconds, error, broken
        self.done, self.runs = [], 0
        self.now = self.peak = 0

    async def __call__(self, batch):
        self.runs += 1
        self.now += 1
        self.peak = max(self.peak, self.now)
        await anyio.sleep(self.seconds)
        self.now -= 1
        if self.error:
            raise self.error
        self.done += batch.items
        batch.errors = {item: ValueError(item) for item in batch.items if item in self.broken}


async def ask(step, batcher, number):
    begun = anyio.current_time()
    await batcher.submit(number)
    assert number in step.done, "the item is processed when submit returns"
    return anyio.current_time() - begun


def test_those_who_come_while_one_is_under_way_share_the_next():
    async def main():
        step = Step()
        batcher, waited = Batcher(step), []

        async def one(number):
            await anyio.sleep(number / 100)
            waited.append(await ask(step, batcher, number))

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(one, number)
        assert step.runs == 2
        assert max(waited) <= 2 + GATHER_SECONDS

    run_virtual(main)


def test_a_worker_that_is_alone_waits_for_nobody():
    async def main():
        step = Step()
        batcher = Batcher(step)
        for number in range(5):
            assert await ask(step, batcher, number) == 1

    run_virtual(main)


def test_once_they_are_shared_a_moment_is_waited_for_others():
    async def main():
        step = Step(seconds=GATHER_SECONDS / 5)
        batcher = Batcher(step)

        async def often(first):
            for number in range(10):
                await ask(step, batcher, (first, number))
                await anyio.sleep(first * GATHER_SECONDS / 10)

        async with anyio.create_task_group() as group:
            for first in range(8):
                group.start_soon(often, first)
        assert step.runs < 25, "ten for each of eight, that come within a moment of each other"

    run_virtual(main)


def test_several_may_overlap_where_that_is_allowed():
    async def main():
        step = Step()
        batcher = Batcher(step, concurrency=3)

        async def one(number):
            await anyio.sleep(number / 10)
            await ask(step, batcher, number)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        assert step.peak == 3

    run_virtual(main)


def test_an_error_is_everybodys_who_shared_it_and_nobody_elses():
    async def main():
        step = Step(error=OSError("full"))
        batcher, failed = Batcher(step), []

        async def one():
            try:
                await batcher.flush()
            except OSError:
                failed.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(one)
        assert len(failed) == 5
        step.error = None
        await ask(step, batcher, "later")

    run_virtual(main)


@pytest.mark.parametrize("who", [0, 1])
def test_one_who_is_cancelled_leaves_nobody_waiting(who):
    async def main():
        step = Step()
        batcher, done, scopes = Batcher(step), [], [anyio.CancelScope(), anyio.CancelScope()]

        async def one(number):
            with scopes[number]:
                await ask(step, batcher, number)
            done.append(number)

        async with anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(one, number)
            await anyio.sleep(0.5)
            scopes[who].cancel()
        assert sorted(done) == [0, 1]
        assert sorted(step.done) == [0, 1]

    run_virtual(main)


@pytest.mark.parametrize("natively", [False, True])
def test_one_who_is_cancelled_waits_for_the_end_nevertheless(natively):
    async def main():
        step = Step()
        batcher, ended = Batcher(step), []

        async def one():
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                try:
                    await batcher.flush()
                finally:
                    ended.append((anyio.current_time(), step.runs))
                await anyio.sleep(1)
                raise AssertionError("the cancellation is not lost")

        begun, scopes = anyio.current_time(), []
        first = asyncio.ensure_future(batcher.flush())
        await anyio.sleep(0.1)
        leader, follower = asyncio.ensure_future(batcher.flush()), asyncio.ensure_future(one())
        await anyio.sleep(0.5)
        if natively:
            follower.cancel()
        else:
            scopes[0].cancel()
        await asyncio.wait([first, leader, follower])
        assert ended == [(pytest.approx(begun + 2), 2)]
        assert follower.cancelled() == natively

    run_virtual(main)


def test_submit_raises_the_error_of_its_own_item_only():
    async def main():
        batcher, failed = Batcher(Step(broken={1, 3})), []

        async def one(number):
            try:
                await batcher.submit(number)
            except ValueError as error:
                failed.append((number, *error.args))

        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(one, number)
        assert sorted(failed) == [(1, 1), (3, 3)]

    run_virtual(main)


def test_added_item_is_in_the_next_batch():
    async def main():
        step = Step()
        batcher = Batcher(step)
        batcher.add("later")
        await anyio.sleep(10)
        assert not step.done
        await ask(step, batcher, "now")
        assert step.done == ["later", "now"]
        batcher.add("last")
        await batcher.flush()
        assert step.done == ["later", "now", "last"]
        assert not batcher.pending

    run_virtual(main)


@pytest.mark.parametrize("waits_for", ["callers", "slot"])
def test_batch_runs_when_its_leader_is_cancelled_natively_before_it_starts(waits_for):
    async def main():
        step = Step()
        batcher = Batcher(step)
        if waits_for == "callers":
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(batcher.submit, number)
        else:
            first = asyncio.ensure_future(batcher.submit(0))
            await anyio.sleep(0.1)
        leader = asyncio.ensure_future(batcher.submit("a"))
        follower = asyncio.ensure_future(ask(step, batcher, "b"))
        await anyio.sleep(GATHER_SECONDS / 2)
        leader.cancel()
        await follower
        assert step.done[-2:] == ["a", "b"]
        await asyncio.wait([leader])
        assert leader.cancelled()
        await ask(step, batcher, "c")
        if waits_for == "slot":
            await first

    run_virtual(main)
