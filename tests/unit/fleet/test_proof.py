"""``FleetLink.require_ownership``: Cancel and Fail need proof that a claim belongs to this node."""

from contextlib import asynccontextmanager

import anyio
import pytest

from aluma_async.exceptions import ClaimConflict, Unavailable
from aluma_async.models import ClaimState
from aluma_async.testing import SimulatedFleetStore
from tests.support.clock import virtual_time
from tests.support.fleet import Suspendable, claim, make_link, pass_time, running


async def seconds_until_proven(link, task_id="t"):
    started_at = anyio.current_time()
    await link.require_ownership(task_id)
    return anyio.current_time() - started_at


@asynccontextmanager
async def node_with_claim(store, **options):
    """Run a node whose claim of the task "t" was reported."""
    link = make_link(store, **options)
    async with running(link):
        link.records.put_claim(claim("t"))
        await link.wait(link.begin_sync())
        yield link


async def take_over(store, taker, node_id):
    """Take over a node, as after 6 seconds of silence."""
    (node,) = [node for node in (await taker.wait(taker.begin_sync())).nodes if node.node_id == node_id]
    store.disconnect(node_id)
    return await store.take_over(taker.node_id, node)


@virtual_time
async def test_proof_costs_nothing_while_reports_are_confirmed():
    store = SimulatedFleetStore()
    async with node_with_claim(store) as link:
        await pass_time(100)
        calls = store.calls
        assert await seconds_until_proven(link) == 0
        assert store.calls == calls


@virtual_time
async def test_proof_is_a_report_after_a_suspension():
    """The event loop's clock stands still while the machine is suspended, so that no call has failed."""
    store, clock = SimulatedFleetStore(), Suspendable()
    async with node_with_claim(store, clock=clock) as link:
        await pass_time(0.3)
        clock.suspended = 600.0
        calls = store.calls
        assert await seconds_until_proven(link) == 0
        assert store.calls == calls + 1


@virtual_time
async def test_proof_fails_when_taken_over_during_a_suspension():
    store, clock = SimulatedFleetStore(), Suspendable()
    taker = make_link(store, "b")
    async with node_with_claim(store, clock=clock) as link, running(taker):
        assert await take_over(store, taker, "a")
        clock.suspended = 600.0
        with pytest.raises(ClaimConflict):
            await link.require_ownership("t")
        with pytest.raises(ClaimConflict):
            link.owns("t")


@virtual_time
async def test_proof_is_deferred_while_the_store_is_unavailable():
    store = SimulatedFleetStore()
    async with node_with_claim(store) as link:
        store.unavailable = True
        await pass_time(4)
        assert await seconds_until_proven(link) == 0, "no node takes over claims after so short a silence"
        await pass_time(4)
        with pytest.raises(Unavailable):
            await link.require_ownership("t")
        link.records.put_claim(claim("own", ClaimState.CLAIMED))
        assert await seconds_until_proven(link, "own") == 0, "no other node knows this claim"
        store.unavailable = False
        await pass_time(1)
        assert await seconds_until_proven(link) == 0


@virtual_time
async def test_proof_takes_three_seconds_after_a_silence_and_an_empty_restart():
    """The store may have forgotten that this node was taken over."""
    store = SimulatedFleetStore()
    async with node_with_claim(store) as link:
        store.unavailable = True
        await pass_time(10)
        store.restart()
        store.unavailable = False
        await link.wait_for_update()
        assert 2.5 <= await seconds_until_proven(link) <= 4.5


@virtual_time
async def test_proof_fails_when_another_node_reports_the_claim():
    store = SimulatedFleetStore()
    other = make_link(store, "b")
    async with node_with_claim(store) as link, running(other):
        store.cut_off.add("a")
        await pass_time(10)
        store.restart()
        other.records.put_claim(claim("t"))
        store.cut_off.clear()
        await pass_time(2)
        with pytest.raises(ClaimConflict):
            await link.require_ownership("t")
        await pass_time(1)
        with pytest.raises(ClaimConflict):
            await other.require_ownership("t")


@virtual_time
async def test_proof_is_immediate_when_data_is_lost_without_a_silence():
    store = SimulatedFleetStore()
    async with node_with_claim(store) as link:
        store.restart()
        await pass_time(1)
        assert await seconds_until_proven(link) == 0


@virtual_time
async def test_proof_of_loaded_claims_is_the_move_from_the_predecessor():
    """The lock of the state folder proves that the earlier process has ended."""
    store = SimulatedFleetStore()
    async with node_with_claim(store):
        pass
    successor = make_link(store, "next", "a")
    async with running(successor, claims=[claim("t")]):
        assert await seconds_until_proven(successor) == 0
        assert successor.update.moved == ()


@virtual_time
async def test_proof_of_loaded_claims_fails_when_the_predecessor_was_taken_over():
    store = SimulatedFleetStore()
    taker = make_link(store, "b")
    async with running(taker):
        async with node_with_claim(store):
            await take_over(store, taker, "a")
        successor = make_link(store, "next", "a")
        async with running(successor, claims=[claim("t")]):
            with pytest.raises(ClaimConflict):
                await successor.require_ownership("t")


@virtual_time
async def test_proof_of_loaded_claims_takes_seconds_without_the_predecessor():
    store = SimulatedFleetStore()
    successor = make_link(store, "next", "forgotten")
    async with running(successor, claims=[claim("t")]):
        assert 2.5 <= await seconds_until_proven(successor) <= 4.5


@virtual_time
async def test_proof_of_loaded_claims_is_deferred_until_the_store_is_reached():
    store = SimulatedFleetStore()
    store.unavailable = True
    successor = make_link(store, "next", "a")
    async with running(successor, claims=[claim("t")]):
        with pytest.raises(Unavailable):
            await successor.require_ownership("t")
