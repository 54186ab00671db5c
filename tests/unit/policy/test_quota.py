"""Leased limits: the sum of what nodes may use never exceeds the limit, and each node gets a fair part."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aluma_async.policy import quota
from aluma_async.policy.quota import Share, fair_share, grant, unshared

NODES = st.sampled_from("abcde")


class Nodes:
    """Nodes that lease parts of one limit, as a store and its clients do. A lost reply changes only the store."""

    def __init__(self, limit, *, whole=True):
        self.limit, self.whole = limit, whole
        self.quota, self.shares = {}, {}

    def report(self, node, wanted, *, in_flight=0.0, reply_lost=False, learning=False):
        held = max(self.quota.get(node, 0.0), in_flight)
        others = {name: share for name, share in self.shares.items() if name != node}
        granted = grant(self.limit, node, wanted, held, others, learning=learning, whole=self.whole)
        self.shares[node] = Share(wanted, max(granted, held))
        if not reply_lost:
            self.quota[node] = granted
        return granted


@given(st.integers(1, 40), st.booleans(), st.lists(st.tuples(NODES, st.integers(0, 40), st.booleans()), max_size=80))
def test_grant_never_exceeds_the_limit_also_if_replies_are_lost(limit, whole, reports):
    nodes = Nodes(limit, whole=whole)
    for node, wanted, reply_lost in reports:
        nodes.report(node, wanted, reply_lost=reply_lost)
        assert sum(nodes.quota.values()) <= limit + 1e-9
        assert all(quota >= 0 for quota in nodes.quota.values())


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("limit", "count"), [(32, 8), (32, 5), (7, 3), (5, 5)])
def test_grant_divides_the_whole_limit_within_three_reports(limit, count, whole):
    nodes = Nodes(limit, whole=whole)
    nodes.report("n0", limit)
    for _ in range(3):
        for number in range(count):
            nodes.report(f"n{number}", limit)
    assert sum(nodes.quota.values()) == pytest.approx(limit)
    assert max(nodes.quota.values()) - min(nodes.quota.values()) <= (1 if whole else 1e-6)


def test_grant_gives_the_part_of_idle_nodes_to_busy_ones():
    nodes = Nodes(32)
    for _ in range(3):
        nodes.report("busy", 32)
        nodes.report("idle", 1)
    assert nodes.quota == {"busy": 31, "idle": 1}


def test_grant_keeps_requests_in_flight_reserved_until_they_end():
    nodes = Nodes(32)
    nodes.report("a", 32)
    nodes.report("b", 32)
    nodes.report("a", 32, in_flight=32)
    assert nodes.report("b", 32) == 0
    nodes.report("a", 32, in_flight=20)
    assert nodes.report("b", 32) == 12


def test_grant_does_not_grow_while_the_store_is_learning():
    nodes = Nodes(32)
    nodes.quota["a"] = 4.0
    assert nodes.report("a", 32, learning=True) == 4
    assert nodes.report("new", 32, learning=True) == 0
    assert nodes.report("a", 32) > 4


@pytest.mark.parametrize("name", ["a", "z"])
def test_grant_leaves_a_node_one_request_for_its_claims(name):
    """More nodes than requests: a node that already has a part can still settle its claims, whatever its name is."""
    nodes = Nodes(2)
    nodes.report(name, 2)
    for other in "bcde":
        nodes.report(other, 2)
    assert nodes.report(name, 2) == 1
    assert sum(nodes.quota.values()) <= 2


def test_grant_is_infinite_without_a_limit():
    assert grant(math.inf, "a", math.inf, 0.0, {"b": Share(math.inf, math.inf)}, learning=True, whole=False) == math.inf


@given(st.integers(0, 50), st.dictionaries(NODES, st.integers(0, 60), min_size=1))
def test_fair_share_adds_up_to_the_limit_or_the_demand(limit, wanted):
    parts = {node: fair_share(limit, wanted, node, whole=True) for node in wanted}
    assert sum(parts.values()) == min(limit, sum(wanted.values()))
    assert all(part <= wanted[node] for node, part in parts.items())
    assert fair_share(limit, wanted, "unknown", whole=True) == 0


@pytest.mark.parametrize(
    ("limit", "nodes", "whole", "part"),
    [(32, 4, True, 8), (32, 5, True, 6), (2, 4, True, 1), (32, 0, True, 1), (0.5, 0, False, 0.5), (10, 4, False, 2.5)],
)
def test_unshared_is_the_part_of_the_expected_nodes(limit, nodes, whole, part):
    assert unshared(limit, nodes, whole=whole) == part


def test_unshared_is_infinite_without_a_limit():
    assert unshared(math.inf, 0, whole=False) == math.inf


def test_quotas_are_learned_in_more_time_than_a_node_may_be_silent():
    """Each node has reported when the store grants more than it knows to be free, and long before a lease ends."""
    assert (quota.MAX_SILENCE_SECONDS, quota.LEARNING_SECONDS) == (2.5, 3.0)
    assert quota.LEARNING_SECONDS < quota.LEASE_SECONDS
