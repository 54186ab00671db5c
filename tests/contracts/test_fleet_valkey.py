"""The Valkey store keeps the contract of ``FleetStore``, on a real server."""

import anyio
import pytest

from aluma_async.testing import check_fleet_store
from tests.support.clock import real_time
from tests.support.valkey import valkey_server

pytestmark = pytest.mark.slow


@real_time
async def test_valkey_store_keeps_the_contract_of_a_fleet_store():
    """The server's clock cannot be put forward, so that this takes as long as the times of the contract."""
    with valkey_server() as server:
        from aluma_async.fleet.stores.valkey import ValkeyFleetStore

        opened = []

        def connect():
            opened.append(ValkeyFleetStore(server.url, "test:{fleet}"))
            return opened[-1]

        try:
            await check_fleet_store(connect, advance=anyio.sleep)
        finally:
            for store in opened:
                await store.aclose()
