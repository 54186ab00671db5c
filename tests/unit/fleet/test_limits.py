"""``FleetLimits``: the nodes together keep the limits, also while the store is unavailable."""

import math

import pytest

from aluma_async.fleet.limits import FleetLimits, LimitHooks
from aluma_async.fleet.ports import Limits
from aluma_async.testing import SimulatedFleetStore
from tests.support.clock import virtual_time
from tests.support.fleet import make_link, pass_time, running

LIMITS = Limits(32, 100.0, 1e6)


class Node:
    """A node that applies its limits."""

    def __init__(self, store, name, limits=LIMITS, *, nodes=0):
        self.link = make_link(store, name)
        self.busy, self.in_flight, self.pauses, self.applied = True, 0, [], []
        hooks = LimitHooks(self.applied.append, self.pauses.append, lambda: self.in_flight, lambda: self.busy)
        self.limits = FleetLimits(self.link, limits, hooks, nodes=nodes)

    @property
    def quota(self):
        return self.applied[-1]


def make_fleet(count, **options):
    store = SimulatedFleetStore()
    return store, [Node(store, f"n{number}", **options) for number in range(count)]


def total(nodes, name="max_at_once"):
    return sum(getattr(node.quota, name) for node in nodes)


@pytest.mark.parametrize(("nodes", "first"), [(0, 1), (4, 8)])
@virtual_time
async def test_limits_of_a_node_without_a_store_are_its_expected_part(nodes, first):
    store, (node,) = make_fleet(1, nodes=nodes)
    store.unavailable = True
    async with running(node.link):
        await pass_time(10)
        assert node.quota.max_at_once == first


@virtual_time
async def test_limits_are_divided_between_the_busy_nodes():
    _, nodes = make_fleet(4)
    async with running(*(node.link for node in nodes)):
        await pass_time(8)
        assert [node.quota.max_at_once for node in nodes] == [8, 8, 8, 8]
        assert total(nodes, "max_per_second") == pytest.approx(100)
        assert total(nodes, "max_bytes_per_second") == pytest.approx(1e6)
        for node in nodes[1:]:
            node.busy = False
        await pass_time(4)
        assert [node.quota.max_at_once for node in nodes] == [29, 1, 1, 1]
        assert nodes[1].quota.max_bytes_per_second >= 1e6 / 8, "a download that begins must not sleep for hours"


@virtual_time
async def test_limits_are_never_exceeded_when_the_store_restarts_empty():
    store, nodes = make_fleet(4)
    async with running(*(node.link for node in nodes)):
        await pass_time(8)
        store.restart()
        for _ in range(50):
            await pass_time(0.2)
            assert total(nodes) <= 32
        assert total(nodes) == 32


@virtual_time
async def test_limits_stay_in_effect_while_the_store_is_unavailable():
    store, nodes = make_fleet(2)
    async with running(*(node.link for node in nodes)):
        await pass_time(8)
        store.unavailable = True
        await pass_time(60)
        assert [node.quota.max_at_once for node in nodes] == [16, 16]
        store.unavailable = False
        for _ in range(30):
            await pass_time(0.2)
            assert total(nodes) <= 32


@virtual_time
async def test_limits_of_a_dead_node_are_free_after_its_lease():
    store, nodes = make_fleet(2)
    async with running(*(node.link for node in nodes)):
        await pass_time(8)
        store.cut_off.add("n1")
        await pass_time(5)
        assert nodes[0].quota.max_at_once == 16
        await pass_time(3)
        assert nodes[0].quota.max_at_once == 32


@virtual_time
async def test_limits_do_not_use_what_another_node_has_in_flight():
    _, nodes = make_fleet(2)
    nodes[0].in_flight = 32
    async with running(nodes[0].link):
        await pass_time(8)
        async with running(nodes[1].link):
            await pass_time(5)
            assert nodes[1].quota.max_at_once == 0
            nodes[0].in_flight = 10
            await pass_time(3)
            assert nodes[1].quota.max_at_once == 16


@virtual_time
async def test_limits_follow_the_smallest_configured_one():
    store = SimulatedFleetStore()
    nodes = [Node(store, "a"), Node(store, "b", Limits(8))]
    async with running(*(node.link for node in nodes)):
        await pass_time(8)
        assert total(nodes) == 8
        nodes[1].limits.set_limits(Limits(20))
        await pass_time(4)
        assert total(nodes) == 20
        assert math.isinf(Node(store, "c", Limits(8)).quota.max_per_second)


@virtual_time
async def test_limits_pause_all_nodes_within_a_moment():
    _, nodes = make_fleet(3)
    async with running(*(node.link for node in nodes)):
        await pass_time(2)
        nodes[0].limits.record_pause(30.0)
        await pass_time(0)
        assert nodes[0].pauses == []
        assert [round(node.pauses[0]) for node in nodes[1:]] == [30, 30]
        await pass_time(40)
        assert [len(node.pauses) for node in nodes] == [0, 1, 1], "the nodes do not extend the pause of each other"


@virtual_time
async def test_limits_pause_when_the_notice_is_lost():
    store, nodes = make_fleet(2)
    store.loses_notices = True
    async with running(*(node.link for node in nodes)):
        await pass_time(2)
        nodes[0].limits.record_pause(30.0)
        await pass_time(1.1)
        assert len(nodes[1].pauses) == 1
