"""The limit of a destination's steps, and the workers that replace those of a silent one."""

import asyncio

import anyio
import pytest

from aluma_async.exceptions import DestinationUnavailable
from aluma_async.pipeline.destination_watch import DestinationWatch, WatchedStep
from aluma_async.pipeline.worker_pool import CLAIMS_PER_WORKER, WorkerPool
from tests.support.clock import virtual_time

MIB = 1024 * 1024


async def wait_for_destination(watch, step, seconds):
    step.running = asyncio.current_task()
    watch.steps[step] = None
    if not watch.is_looking:
        watch.look_later()
    try:
        await anyio.sleep(seconds)
    except asyncio.CancelledError:
        watch.raise_if_expired(step)
        raise
    finally:
        del watch.steps[step]


@pytest.mark.parametrize(("size", "limit"), [(0, 100), (25 * MIB // 8, 200), (50 * MIB, 1500)])
@virtual_time
async def test_step_is_cancelled_after_its_limit_which_grows_with_the_bytes(size, limit):
    watch, step = DestinationWatch(100, max_seconds=1500), WatchedStep()
    step.total = size
    await wait_for_destination(watch, step, 0.9 * limit)
    step.looks = 0
    started_at = anyio.current_time()
    with pytest.raises(DestinationUnavailable, match=f"did not respond for {limit} s"):
        await wait_for_destination(watch, step, 1.2 * limit)
    assert limit <= anyio.current_time() - started_at <= limit + 20
    assert not asyncio.current_task().cancelling()
    assert not watch.steps


@virtual_time
async def test_step_in_the_hands_of_the_exporter_is_not_cancelled():
    watch, step = DestinationWatch(100), WatchedStep()
    step.is_at_destination = False
    await wait_for_destination(watch, step, 1000)


@virtual_time
async def test_cancellation_by_others_is_not_taken_for_the_limit():
    watch = DestinationWatch(100)
    with anyio.move_on_after(50) as scope:
        await wait_for_destination(watch, WatchedStep(), 1000)
    assert scope.cancelled_caught


@pytest.mark.parametrize("workers", [0, -1])
def test_pool_refuses_fewer_than_one_worker(workers):
    """Otherwise it would wait for ever."""
    with pytest.raises(ValueError, match="less than 1"):
        WorkerPool(workers, lambda group: None)
    pool = WorkerPool(2, lambda group: None)
    with pytest.raises(ValueError, match="less than 1"):
        pool.set_workers(workers, stopping=False)
    assert pool.workers == 2


@virtual_time
async def test_pool_replaces_as_many_workers_as_there_are():
    """The additional ones are used again, so that their number is bounded."""
    started = []
    pool = WorkerPool(3, started.append)
    assert not pool.replace(), "before the start"
    async with anyio.create_task_group() as group:
        pool.open(group)
        for _ in range(10):
            assert [pool.replace() for _ in range(4)] == [True, True, True, False]
            assert pool.slots.value == 6
            for _ in range(3):
                pool.give_back()
            await anyio.sleep(1)
            assert pool.slots.value == 3
    assert len(started) == CLAIMS_PER_WORKER * 3 + 3
