"""Every store of a fleet keeps the contract of ``FleetStore``."""

from itertools import cycle

import pytest

from aluma_async.fleet.stores.sqlite import SqliteFleetStore
from aluma_async.testing import SimulatedFleetStore, check_fleet_store
from tests.support.clock import ShiftedClock, real_time, virtual_time
from tests.support.fleet_process import remote_store


@virtual_time
async def test_simulated_store_keeps_the_contract_of_a_fleet_store():
    store = SimulatedFleetStore()
    await check_fleet_store(lambda: store)


@real_time
async def test_sqlite_store_keeps_the_contract_of_a_fleet_store(tmp_path):
    clock, opened = ShiftedClock(), []

    def connect():
        opened.append(SqliteFleetStore(tmp_path, clock=clock))
        return opened[-1]

    try:
        await check_fleet_store(connect, advance=clock.advance)
    finally:
        for store in opened:
            store.close()


@pytest.mark.slow
@real_time
async def test_sqlite_store_keeps_the_contract_in_two_processes(tmp_path):
    """Each node's calls are made by another process than those of the node before it."""
    clock = ShiftedClock()
    async with remote_store(tmp_path, clock) as one, remote_store(tmp_path, clock) as two:
        stores = cycle([one, two])
        await check_fleet_store(lambda: next(stores), advance=clock.advance)
