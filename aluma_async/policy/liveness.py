"""``Liveness``: which other nodes of a fleet are dead, as one node observes it. Pure: the time is an argument.

A node is dead when all three are true:

1. Its sequence number has not changed for ``SILENCE_SECONDS`` on the observer's own monotonic clock.
2. The watch was unbroken meanwhile: the store kept its epoch, and the observer reached it at least every
   ``MAX_GAP_SECONDS``. After a failure of the store, all nodes would seem silent.
3. Its presence was seen open in this watch, and is closed now. A process that is stopped or busy keeps it open.

Without the third, as after a power loss, a node is dead after ``silent_seconds``.
"""

from collections.abc import Iterable

from msgspec import Struct

SILENCE_SECONDS = 6.0
"""Seconds without a heartbeat after which a node whose presence has closed is dead."""
MAX_GAP_SECONDS = 2.5
"""Seconds between two observations after which a watch starts from the beginning."""


class NodeSnapshot(Struct, frozen=True, gc=False):
    """One node, as the store shows it to another."""

    node_id: str
    sequence: int
    """The number of its last report."""
    is_present: bool
    """Whether its subscription is open."""


class _Watch(Struct):
    """What is known about one node since the watch began."""

    snapshot: NodeSnapshot
    since: float
    """Time when this sequence number was seen first."""
    was_present: bool


class Liveness:
    """The watch of one node over the others; ``silent_seconds`` applies to nodes whose presence is not known."""

    def __init__(self, silent_seconds: float) -> None:
        self._silent_seconds = silent_seconds
        self._watches: dict[str, _Watch] = {}
        self._epoch = ""
        self._observed_at = float("-inf")

    def observe(self, now: float, epoch: str, nodes: Iterable[NodeSnapshot]) -> None:
        """Take over what a report to the store returned; ``now`` is the time when the report was sent."""
        if epoch != self._epoch or now - self._observed_at > MAX_GAP_SECONDS:
            self.restart()
        self._epoch, self._observed_at = epoch, now
        watches = {}
        for node in nodes:
            watch = self._watches.get(node.node_id)
            if watch is None:
                watch = _Watch(node, now, was_present=node.is_present)
            elif watch.snapshot.sequence != node.sequence:
                watch.since = now
            watch.snapshot = node
            watch.was_present = watch.was_present or node.is_present
            watches[node.node_id] = watch
        self._watches = watches

    def restart(self) -> None:
        """Start the watch from the beginning, because it was interrupted."""
        self._watches.clear()
        self._observed_at = float("-inf")

    def dead(self, now: float) -> list[NodeSnapshot]:
        """Return the nodes that are dead, as they were observed last; none if the watch has a gap."""
        if now - self._observed_at > MAX_GAP_SECONDS:
            return []
        return [watch.snapshot for watch in self._watches.values() if self._is_dead(watch)]

    def active(self) -> list[str]:
        """Return the ids of the nodes that were heard of within ``SILENCE_SECONDS``."""
        return [
            node_id for node_id, watch in self._watches.items() if self._observed_at - watch.since < SILENCE_SECONDS
        ]

    def _is_dead(self, watch: _Watch) -> bool:
        # Until the last observation only, because nothing is known about the time since.
        silence = self._observed_at - watch.since
        if watch.was_present and not watch.snapshot.is_present:
            return silence >= SILENCE_SECONDS
        return silence >= self._silent_seconds
