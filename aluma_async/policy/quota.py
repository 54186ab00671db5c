"""Leased limits: which part of one limit a node of a fleet may use. Pure: the store passes the shares of all nodes.

A node reports each second what it wants and what it holds: its quota, or its requests in flight if they are more. What
it holds stays reserved until it has reported less, so that the sum never exceeds the limit, also if a reply is lost. A
quota therefore grows only from the free part. A reservation ends ``LEASE_SECONDS`` after the node's last report.

After a loss of data the store does not know the other nodes' quotas. It is *learning* for ``LEARNING_SECONDS``: no node
gets more than it holds.
"""

import math
from collections.abc import Mapping

from msgspec import Struct

LEASE_SECONDS = 6.0
"""Seconds after a node's last report in which its quota is reserved."""
LEARNING_SECONDS = 3.0
"""Seconds after a loss of data in which no quota grows: every node reports at least once in them."""
MAX_SILENCE_SECONDS = 2.5
"""Seconds without any report, after which the quotas of all nodes may have been forgotten."""


class Share(Struct, frozen=True, gc=False):
    """The part of one limit that a node wants and has. An unlimited amount is infinite."""

    wanted: float
    """The amount that the node can use now."""
    reserved: float
    """The amount that it may be using: its quota, or what it holds if that is more."""


def fair_share(limit: float, wanted: Mapping[str, float], node_id: str, *, whole: bool) -> float:
    """Return a node's part of a limit: no node gets more than it wants, and the rest is divided equally.

    Args:
        limit: The limit of all nodes.
        wanted: The amount that each node wants.
        node_id: The node.
        whole: Whether only whole numbers are useful (requests in flight); the parts still add up to the limit.
    """
    left, count = limit, len(wanted)
    for amount, node in sorted((amount, node) for node, amount in wanted.items()):
        part = left / count
        part = min(amount, math.floor(part) if whole else part)
        if node == node_id:
            return part
        left, count = left - part, count - 1
    return 0.0


def grant(
    limit: float, node_id: str, wanted: float, held: float, others: Mapping[str, Share], *, learning: bool, whole: bool
) -> float:
    """Return the quota of a node until its next report.

    Args:
        limit: The limit of all nodes; infinite for none.
        node_id: The node.
        wanted: The amount that it can use now.
        held: The amount that it may be using now.
        others: The shares of the other nodes, without those whose lease has ended.
        learning: Whether the store may not know all quotas.
        whole: Whether only whole numbers are useful.
    """
    if math.isinf(limit):
        return limit
    amounts = {node: share.wanted for node, share in others.items()} | {node_id: wanted}
    target = fair_share(limit, amounts, node_id, whole=whole)
    if whole:
        target = max(target, min(held, 1.0))  # so that a node can settle its claims
    if learning:
        target = min(target, held)
    free = limit - sum(share.reserved for share in others.values())
    return max(0.0, min(target, free))


def unshared(limit: float, nodes: int, *, whole: bool) -> float:
    """Return what a node uses that never had a quota: its part of the limit if ``nodes`` is known, otherwise little."""
    if math.isinf(limit):
        return limit
    part = limit / nodes if nodes > 0 else min(limit, 1.0)
    return max(1.0, math.floor(part)) if whole else part
