"""``NodeHooks``: the parts of an exporter that several exporters which share their work need of each other."""

from collections.abc import Iterable

from aluma_async.models import ClaimRecord, HoldRecord
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.producer import Producer, SharedListing
from aluma_async.pipeline.recovery import Recovery
from aluma_async.pipeline.task_tracker import TaskTracker


class NodeHooks:
    """Connects the tasks, holds, claims and listings of an exporter with those of others."""

    def __init__(self, tracker: TaskTracker, cooldown: Cooldown, producer: Producer, recovery: Recovery) -> None:
        self._tracker = tracker
        self._cooldown = cooldown
        self._producer = producer
        self._recovery = recovery

    def is_busy(self) -> bool:
        """Return whether tasks are queued or in progress."""
        return len(self._tracker) > 0

    def is_tracked(self, task_id: str) -> bool:
        """Return whether a task is queued or in progress."""
        return task_id in self._tracker

    async def merge_holds(self, holds: Iterable[HoldRecord]) -> None:
        """Apply holds that other exporters have begun."""
        await self._cooldown.merge(holds)

    def poll_now(self) -> None:
        """End the wait for the next listing."""
        self._producer.poll_now()

    def show_listing(self, total: int | None, oldest_created_at: float | None) -> None:
        """Report a shared listing; without a total, each exporter counts its own part."""
        self._producer.show_listing(SharedListing(total, oldest_created_at))

    def add_orphaned(self, claim: ClaimRecord, *, is_interrupted: bool) -> None:
        """Release a claim of an exporter that has ended; ``is_interrupted``: its task counts one more crash."""
        self._recovery.add_orphaned(claim, is_interrupted=is_interrupted)
