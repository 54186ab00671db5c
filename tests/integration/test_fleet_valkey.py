"""The Valkey store with a real server that is killed, stopped, emptied, or slow."""

import subprocess
import sys
import time
from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async.exceptions import FleetStoreError
from aluma_async.fleet.ports import FleetClaim, NodeReport, NoticeKind, RecordState
from tests.support.clock import real_time
from tests.support.fleet import claim, make_link, running
from tests.support.valkey import valkey_server

CLAIM = FleetClaim("t", RecordState.CLAIMED, remaining=1800.0)
PREFIX = "test:{fleet}"
SUBSCRIBER = """
import anyio, sys
from aluma_async.fleet.stores.valkey import ValkeyFleetStore
async def main():
    async with ValkeyFleetStore(sys.argv[1], sys.argv[2]).subscribe("other"):
        print("subscribed", flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


@pytest.fixture
def server():
    with valkey_server() as running_server:
        yield running_server


@asynccontextmanager
async def opened(server):
    from aluma_async.fleet.stores.valkey import ValkeyFleetStore  # the server's fixture has checked that it can be

    store = ValkeyFleetStore(server.url, PREFIX)
    try:
        yield store
    finally:
        await store.aclose()


def start_subscriber(server):
    """Start a process that subscribes as the node "other"."""
    return subprocess.Popen([sys.executable, "-c", SUBSCRIBER, server.url, PREFIX], stdout=subprocess.PIPE, text=True)


def report(sequence, *claims, node_id="a", **fields):
    return NodeReport(node_id=node_id, sequence=sequence, claims=claims, **fields)


@real_time
async def test_valkey_store_has_a_new_epoch_after_an_empty_restart(server):
    """The script is loaded again, and no call is executed twice."""
    async with opened(server) as store:
        first = await store.sync(report(1, CLAIM))
        server.kill()
        with pytest.raises(FleetStoreError):
            await store.sync(report(2))
        server.start()
        second = await store.sync(report(3))
        assert (second.epoch != first.epoch, second.stored_sequence) == (True, 0)
        assert (await store.sync(report(4))).stored_sequence == 3


@pytest.mark.parametrize("command", ["FLUSHALL", "SCRIPT FLUSH"])
@real_time
async def test_valkey_store_continues_after_a_command_of_the_administrator(command, server):
    from redis import Redis

    async with opened(server) as store:
        first = await store.sync(report(1, CLAIM))
        with Redis.from_url(server.url) as client:
            client.execute_command(*command.split())
        second = await store.sync(report(2))
        assert (second.epoch == first.epoch) == (command == "SCRIPT FLUSH")


@real_time
async def test_valkey_store_raises_in_time_and_repeats_nothing_when_stopped(server):
    """The request that was not answered is executed once when the server continues."""
    async with opened(server) as store:
        await store.sync(report(1))
        server.stop()
        started_at = time.monotonic()
        with pytest.raises(FleetStoreError):
            await store.sync(report(2))
        assert time.monotonic() - started_at < 3, "one second, with a margin for a busy machine"
        with pytest.raises(FleetStoreError):
            await store.begin_listing("a")
        server.resume()
        assert (await store.sync(report(3))).stored_sequence == 2


@real_time
async def test_valkey_store_raises_its_own_error_when_there_is_no_server(server):
    async with opened(server) as store:
        server.kill()
        for call in (lambda: store.sync(report(1)), store.inspect, lambda: store.release_holds(["t"])):
            with pytest.raises(FleetStoreError):
                await call()
        with pytest.raises(FleetStoreError):
            async with store.subscribe("a"):
                pass


@real_time
async def test_valkey_store_ends_the_subscription_when_the_server_is_gone(server):
    """A node then subscribes again; it would otherwise not be present any more."""
    async with opened(server) as store, store.subscribe("a") as notices:
        server.kill()
        with anyio.fail_after(10), pytest.raises(FleetStoreError):
            await anext(notices)


@real_time
async def test_valkey_store_shows_whether_a_process_is_present(server):
    """A killed process is absent at once, a stopped one stays present."""
    async with opened(server) as store:
        await store.sync(report(1, node_id="other"))
        other = start_subscriber(server)
        with other:
            assert other.stdout.readline().strip() == "subscribed"
            sequence = iter(range(1, 1000))

            async def is_present():
                (node,) = (await store.sync(report(next(sequence)))).nodes
                return node.is_present

            assert await is_present()
            other.kill()
            other.wait()
            await anyio.sleep(0.2)
            assert not await is_present()


@real_time
async def test_valkey_store_delivers_a_pause_within_a_moment(server):
    async with opened(server) as store, store.subscribe("b") as notices:
        await anyio.sleep(0.1)
        started_at = time.monotonic()
        await store.sync(report(1, pause=30.0))
        assert (await anext(notices)).kind is NoticeKind.PAUSE
        assert time.monotonic() - started_at < 1


@real_time
async def test_link_is_connected_again_after_a_restart_of_the_server(server):
    async with opened(server) as store:
        link = make_link(store)
        async with running(link):
            link.records.put_claim(claim("t"))
            await link.wait(link.begin_sync())
            server.kill()
            while link.is_connected:  # noqa: ASYNC110
                await anyio.sleep(0.05)
            server.start()
            with anyio.fail_after(5):
                while not link.is_connected:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            await anyio.sleep(2)
            (node,) = (await store.inspect()).nodes
            assert (node.claims, node.is_present) == (1, True)
