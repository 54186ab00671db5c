"""``Desk``: what is in hand, from the queue to the last word said about it. It does no I/O."""

from collections.abc import Callable
from itertools import islice

import anyio

from aluma_async.clock import loop_time

DONE_MEMORY_SECONDS = 60.0
"""How long a task that was settled is not taken again: Aluma accepts a Complete (202) before it is done."""


class TaskTracker:
    """Keeps a task from being taken twice, and tells the producer when something moves."""

    def __init__(self) -> None:
        self._tracked: set[str] = set()
        self._started: set[str] = set()
        self._done_until: dict[str, float] = {}
        self._condition: Callable[[], bool] | None = None
        self._condition_met = anyio.Event()

    def __len__(self) -> int:
        """How many tasks are in hand: queued or being exported."""
        return len(self._tracked)

    def blocks(self, task_id: str) -> bool:
        """Whether the task is in hand or was settled a moment ago."""
        until = self._done_until.get(task_id)
        return task_id in self._tracked or (until is not None and loop_time() < until)

    def __contains__(self, task_id: str) -> bool:
        """Whether somebody is at work on a task, or about to be."""
        return task_id in self._tracked

    def is_started(self, task_id: str) -> bool:
        """Whether a worker has begun with a task, so that it may be claimed."""
        return task_id in self._started

    def mark_started(self, task_id: str) -> None:
        """Take note that a worker begins with a task that is in hand."""
        self._started.add(task_id)

    def add(self, task_id: str) -> None:
        """Put a task into hand."""
        self._tracked.add(task_id)

    def remove(self, task_id: str, *, done: bool) -> None:
        """Take a task out of hand; ``settled``: Aluma will not offer it again."""
        self._tracked.discard(task_id)
        self._started.discard(task_id)
        now = loop_time()
        if done:
            self._done_until[task_id] = now + DONE_MEMORY_SECONDS
        for oldest, until in list(
            islice(self._done_until.items(), 2)
        ):  # two out for one in: it cannot grow without end
            if until <= now:
                del self._done_until[oldest]
        self.notify()

    def notify(self) -> None:
        """Wake the one who waits in ``until``, if what it waits for has come."""
        if self._condition and self._condition():
            self._condition_met.set()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever something moved. For one waiter at a time."""
        while not condition():
            self._condition, self._condition_met = condition, anyio.Event()
            try:
                await self._condition_met.wait()
            finally:
                self._condition = None
