"""``Ownership``: whether a node may still settle its claims with Cancel or Fail. Pure: times are arguments.

Another node takes over the claims of this one only after ``SILENCE_SECONDS`` without a report. A claim is *shared* once
a report that contains it was sent, with or without a reply; others cannot be taken over. A store that has lost data may
also have forgotten that this node was taken over, so that the claims from before a silence are *doubtful* until all
nodes had the time to report theirs.
"""

from collections.abc import Iterable

from aluma_async.models import Timestamp
from aluma_async.policy.lease import lease_age
from aluma_async.policy.liveness import SILENCE_SECONDS

DOUBT_SECONDS = 3.0
"""Seconds of connection, from a full report on, after which another node's claim of a task would be known."""


class Ownership:
    """The claims of one node that other nodes may know."""

    def __init__(self) -> None:
        self.shared: set[str] = set()
        """Tasks whose claims other nodes may know."""
        self.lost: set[str] = set()
        """Tasks whose claims another node has taken over, or also has."""
        self._doubtful: set[str] = set()
        self._confirmed_at: Timestamp | None = None
        self._connected_since: float | None = None

    def confirm(self, sent_at: Timestamp, now: float, *, lost_data: bool) -> None:
        """Record that the store has applied a report; the first one after a failure is a full one.

        Args:
            sent_at: Time when it was sent.
            now: The same on the event loop's clock.
            lost_data: Whether the store has lost data since the report before, or was not known.
        """
        if self._connected_since is None:
            self._connected_since = now
        if lost_data and self.is_silent(sent_at):
            self._doubtful |= self.shared
            self._connected_since = now
        self._confirmed_at = sent_at
        if self._doubtful and now - self._connected_since >= DOUBT_SECONDS:
            self._doubtful.clear()

    def disconnect(self) -> None:
        """Record that a report failed."""
        self._connected_since = None

    def is_silent(self, now: Timestamp) -> bool:
        """Return whether other nodes may have taken over the claims of this one since its last report."""
        return self._confirmed_at is None or lease_age(self._confirmed_at, now) >= SILENCE_SECONDS

    def is_doubtful(self, task_id: str) -> bool:
        """Return whether another node may have taken over a claim, and the store has forgotten it."""
        return task_id in self._doubtful

    def is_proven(self, task_id: str, now: Timestamp) -> bool:
        """Return whether a claim certainly belongs to this node."""
        if task_id in self.lost:
            return False
        return task_id not in self.shared or not (task_id in self._doubtful or self.is_silent(now))

    def lose(self, task_ids: Iterable[str]) -> None:
        """Record that claims belong to another node, or to another node as well."""
        lost = self.shared.intersection(task_ids)
        self.lost |= lost
        self.shared -= lost

    def forget(self, task_id: str) -> None:
        """Record that a claim has ended, or that a new one begins."""
        self.shared.discard(task_id)
        self.lost.discard(task_id)
        self._doubtful.discard(task_id)
