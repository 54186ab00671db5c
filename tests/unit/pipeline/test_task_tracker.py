"""``TaskTracker``: one owner for each claim, and a memory of the tasks that were settled a moment ago."""

import anyio

from aluma_async.pipeline.task_tracker import TaskTracker
from tests.support.clock import virtual_time


@virtual_time
async def test_worker_cannot_start_a_task_while_recovery_settles_its_claim():
    tracker = TaskTracker()
    assert tracker.mark_settling("t")
    assert tracker.is_settling("t")
    assert not tracker.mark_started("t")
    assert tracker.mark_started("other")
    tracker.clear_settling("t")
    assert not tracker.is_settling("t")
    assert tracker.mark_started("t")


@virtual_time
async def test_recovery_cannot_settle_a_claim_that_has_an_owner():
    tracker = TaskTracker()
    tracker.mark_started("worker's")
    tracker.mark_settling("recovery's")
    assert not tracker.mark_settling("worker's")
    assert not tracker.mark_settling("recovery's")
    tracker.remove("worker's", done=False)
    assert tracker.mark_settling("worker's")


@virtual_time
async def test_settled_task_is_blocked_for_the_time_of_the_memory():
    """Aluma may still list a task whose Complete it has accepted; a task that was not settled is free at once."""
    tracker = TaskTracker()
    for task_id in ("done", "tried"):
        tracker.add(task_id)
        assert tracker.blocks(task_id)
        tracker.remove(task_id, done=task_id == "done")
    assert tracker.blocks("done")
    assert not tracker.blocks("tried")
    assert len(tracker) == 0
    await anyio.sleep(59)
    assert tracker.blocks("done")
    tracker.remove("other", done=False)
    assert tracker.blocks("done")
    await anyio.sleep(1)
    assert not tracker.blocks("done")


@virtual_time
async def test_waiter_wakes_when_its_condition_holds_and_not_before():
    tracker = TaskTracker()
    tracker.add("a")
    tracker.add("b")
    ended = []

    async def wait():
        await tracker.wait_until(lambda: not len(tracker))
        ended.append(anyio.current_time())

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        for task_id in ("a", "b"):
            await anyio.sleep(1)
            assert not ended
            tracker.remove(task_id, done=False)
    assert ended
