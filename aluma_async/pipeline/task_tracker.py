"""``TaskTracker``: the tasks that are queued or in progress, and those that were settled a moment ago.

It keeps a task from being exported twice at the same time, and its claim from being used by a worker while recovery
settles it. It does no I/O.
"""

from collections.abc import Callable
from itertools import islice

import anyio

from aluma_async.clock import loop_time

DONE_MEMORY_SECONDS = 60.0
"""Seconds for which a settled task is not admitted again: Aluma accepts a Complete (202) before it has executed it,
so the task may still be listed."""


class TaskTracker:
    """Tracks queued and running tasks, and wakes the producer when the set changes."""

    def __init__(self) -> None:
        self._tracked: set[str] = set()
        self._started: set[str] = set()
        self._settling: set[str] = set()
        self._done_until: dict[str, float] = {}
        self._condition: Callable[[], bool] | None = None
        self._condition_met = anyio.Event()

    def __len__(self) -> int:
        """Return the number of tasks that are queued or in progress."""
        return len(self._tracked)

    def __contains__(self, task_id: str) -> bool:
        """Return whether the task is queued or in progress."""
        return task_id in self._tracked

    def blocks(self, task_id: str) -> bool:
        """Return whether the task must not be queued: it is queued, in progress, or was settled a moment ago."""
        until = self._done_until.get(task_id)
        return task_id in self._tracked or (until is not None and loop_time() < until)

    def is_queued(self, task_id: str) -> bool:
        """Return whether the task is queued, and no worker has begun with it."""
        return task_id in self._tracked and task_id not in self._started

    @property
    def has_queued(self) -> bool:
        """Whether tasks are queued, and no worker has begun with them."""
        return len(self._tracked) > len(self._started)

    def mark_started(self, task_id: str) -> bool:
        """Record that a worker is about to claim the task; return False if recovery is settling a claim of it."""
        if task_id in self._settling:
            return False
        self._started.add(task_id)
        return True

    def mark_settling(self, task_id: str) -> bool:
        """Record that recovery settles a claim of the task; return False if a worker or recovery already owns it."""
        if task_id in self._started or task_id in self._settling:
            return False
        self._settling.add(task_id)
        return True

    def is_settling(self, task_id: str) -> bool:
        """Return whether recovery is settling a claim of the task."""
        return task_id in self._settling

    def clear_settling(self, task_id: str) -> None:
        """Record that recovery is not settling a claim of the task any more."""
        self._settling.discard(task_id)

    def add(self, task_id: str) -> None:
        """Track a task."""
        self._tracked.add(task_id)

    def remove(self, task_id: str, *, done: bool) -> None:
        """Stop tracking a task; ``done``: Aluma will not offer it again."""
        self._tracked.discard(task_id)
        self._started.discard(task_id)
        now = loop_time()
        if done:
            self._done_until[task_id] = now + DONE_MEMORY_SECONDS
        # Each call adds at most one entry and looks at the two oldest, so the expired ones never pile up.
        for oldest, until in list(islice(self._done_until.items(), 2)):
            if until <= now:
                del self._done_until[oldest]
        self.notify()

    def notify(self) -> None:
        """Wake the waiter in ``wait_until`` if its condition holds."""
        if self._condition and self._condition():
            self._condition_met.set()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is checked after each ``notify``. Only one caller may wait at a time."""
        while not condition():
            self._condition, self._condition_met = condition, anyio.Event()
            try:
                await self._condition_met.wait()
            finally:
                self._condition = None
