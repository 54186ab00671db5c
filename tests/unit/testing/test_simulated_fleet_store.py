"""``SimulatedFleetStore``: its switches cause the failures that their names promise."""

import anyio
import pytest

from aluma_async.exceptions import FleetStoreError
from aluma_async.fleet.ports import FleetClaim, NodeReport, RecordState
from aluma_async.testing import SimulatedFleetStore
from tests.support.clock import virtual_time


def report(sequence, *claims, node_id="a"):
    return NodeReport(node_id=node_id, sequence=sequence, claims=claims)


async def failing_seconds(store, sequence):
    """Return the seconds until a call fails."""
    started_at = anyio.current_time()
    with pytest.raises(FleetStoreError):
        await store.sync(report(sequence))
    return anyio.current_time() - started_at


@virtual_time
async def test_simulated_fleet_store_fails_at_once_when_unavailable():
    store = SimulatedFleetStore()
    store.unavailable = True
    assert await failing_seconds(store, 1) == 0
    store.unavailable = False
    assert (await store.sync(report(1))).stored_sequence == 0, "the report that failed was not applied"


@virtual_time
async def test_simulated_fleet_store_does_not_answer_a_node_that_is_cut_off():
    store = SimulatedFleetStore()
    store.cut_off.add("a")
    assert await failing_seconds(store, 1) == 1
    assert (await store.sync(report(1, node_id="b"))).nodes == ()


@virtual_time
async def test_simulated_fleet_store_executes_a_slow_request_late():
    store = SimulatedFleetStore()
    store.request_delay = 3.0
    assert await failing_seconds(store, 1) == 1
    store.request_delay = 0.0
    assert (await store.sync(report(2))).stored_sequence == 0
    await anyio.sleep(3)
    assert (await store.sync(report(3))).stored_sequence == 2, "the late request is ignored"


@virtual_time
async def test_simulated_fleet_store_loses_a_slow_reply():
    store = SimulatedFleetStore()
    store.reply_delay = 1.5
    assert await failing_seconds(store, 1) == 1
    store.reply_delay = 0.0
    assert (await store.sync(report(2))).stored_sequence == 1, "the request was executed"


@virtual_time
async def test_simulated_fleet_store_has_a_new_epoch_after_an_empty_restart():
    store = SimulatedFleetStore()
    first = await store.sync(report(1))
    async with store.subscribe("a") as notices:
        store.restart()
        assert [notice async for notice in notices] == [], "the subscription has ended"
        second = await store.sync(report(2))
    assert (second.epoch != first.epoch, second.stored_sequence) == (True, 0)


@virtual_time
async def test_simulated_fleet_store_returns_old_data_after_lost_writes():
    """The epoch is the same; only the sequence number shows the loss."""
    store = SimulatedFleetStore()
    first = await store.sync(report(1))
    content = store.save()
    await store.sync(report(2, FleetClaim("t", RecordState.CLAIMED)))
    store.lose_writes(content)
    second = await store.sync(report(3))
    assert (second.epoch, second.stored_sequence) == (first.epoch, 1)


@virtual_time
async def test_simulated_fleet_store_ends_the_presence_of_a_node():
    store = SimulatedFleetStore()
    await store.sync(report(1))
    async with store.subscribe("a"):
        (node,) = (await store.sync(report(1, node_id="b"))).nodes
        assert node.is_present
        store.disconnect("a")
        (node,) = (await store.sync(report(2, node_id="b"))).nodes
        assert not node.is_present
