"""``Slots``: slow files do not occupy the slots of other deliveries."""

import anyio
import pytest

from aluma_async.destinations.common.slots import Slots
from tests.support.clock import virtual_time

LIMIT, PATIENCE = 4, 5.0


class Load:
    """Files that occupy slots; ``most`` is the largest number at once."""

    def __init__(self):
        self.now = self.most = 0
        self.done = []

    async def process(self, share, seconds, size=0, name=""):
        async with share.slot(size):
            self.now += 1
            self.most = max(self.most, self.now)
            await anyio.sleep(seconds)
            self.now -= 1
        self.done.append(name)


@virtual_time
async def test_slots_limit_all_deliveries_together():
    slots, load = Slots(LIMIT, PATIENCE), Load()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            share = slots.share()
            for _ in range(10):
                group.start_soon(load.process, share, 1)
    assert load.most == LIMIT
    assert anyio.current_time() == pytest.approx(100 / LIMIT, abs=2)


@virtual_time
async def test_delivery_gets_all_slots_after_its_first_files():
    slots, load = Slots(LIMIT, PATIENCE), Load()
    share = slots.share()
    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(load.process, share, 1)
    assert load.most == LIMIT
    assert anyio.current_time() <= 40 / LIMIT + 2


@virtual_time
async def test_healthy_delivery_waits_a_bounded_time_for_slow_ones():
    """However many files are slow: each delivery begins with one, and loses its slot after ``patience``."""
    slots, load = Slots(LIMIT, PATIENCE), Load()
    async with anyio.create_task_group() as group:
        for _ in range(2 * LIMIT):
            share = slots.share()
            for _ in range(100):
                group.start_soon(load.process, share, 10_000)
        await anyio.sleep(0.1)
        await load.process(slots.share(), 1, name="healthy")
        assert anyio.current_time() < 2 * PATIENCE + 2
        assert load.most <= 3 * LIMIT
        group.cancel_scope.cancel()


@virtual_time
async def test_slow_deliveries_share_a_bounded_number_of_other_slots():
    slots, load = Slots(LIMIT, PATIENCE), Load()
    async with anyio.create_task_group() as group:
        for _ in range(20):
            share = slots.share()
            for _ in range(20):
                group.start_soon(load.process, share, 20)
    assert load.most <= LIMIT * (20 / PATIENCE + 1) + LIMIT
    assert len(load.done) == 400
    assert (slots.normal.value, slots.slow.value) == (LIMIT, LIMIT)


@virtual_time
async def test_big_file_is_not_slow_while_it_is_as_fast_as_expected():
    slots, load = Slots(LIMIT, PATIENCE), Load()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(load.process, slots.share(), 60, 100_000_000)
    assert load.most == LIMIT


@virtual_time
async def test_cancelled_file_releases_its_slot():
    slots, load = Slots(1, PATIENCE), Load()
    share = slots.share()
    for seconds in (1, 2 * PATIENCE):
        with anyio.move_on_after(seconds):
            await load.process(share, 100)
    await load.process(share, 1)
    assert (slots.normal.value, slots.slow.value) == (1, 1)
