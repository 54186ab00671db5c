"""``Desk``: what is in hand, from the queue to the last word said about it. It does no I/O."""

from collections.abc import Callable
from itertools import islice

import anyio

from aluma_async.clock import loop_time

SETTLED_SECONDS = 60.0
"""How long a task that was settled is not taken again: Aluma accepts a Complete (202) before it is done."""


class Desk:
    """Keeps a task from being taken twice, and tells the producer when something moves."""

    def __init__(self) -> None:
        self._in_hand: set[str] = set()
        self._at_work: set[str] = set()
        self._settled: dict[str, float] = {}
        self._awaited: Callable[[], bool] | None = None
        self._arrived = anyio.Event()

    def __len__(self) -> int:
        """How many tasks are in hand: queued or being exported."""
        return len(self._in_hand)

    def has(self, task_id: str) -> bool:
        """Whether the task is in hand or was settled a moment ago."""
        until = self._settled.get(task_id)
        return task_id in self._in_hand or (until is not None and loop_time() < until)

    def in_hand(self, task_id: str) -> bool:
        """Whether somebody is at work on a task, or about to be."""
        return task_id in self._in_hand

    def at_work(self, task_id: str) -> bool:
        """Whether a worker has begun with a task, so that it may be claimed."""
        return task_id in self._at_work

    def begin(self, task_id: str) -> None:
        """Take note that a worker begins with a task that is in hand."""
        self._at_work.add(task_id)

    def take(self, task_id: str) -> None:
        """Put a task into hand."""
        self._in_hand.add(task_id)

    def release(self, task_id: str, *, settled: bool) -> None:
        """Take a task out of hand; ``settled``: Aluma will not offer it again."""
        self._in_hand.discard(task_id)
        self._at_work.discard(task_id)
        now = loop_time()
        if settled:
            self._settled[task_id] = now + SETTLED_SECONDS
        for oldest, until in list(islice(self._settled.items(), 2)):  # two out for one in: it cannot grow without end
            if until <= now:
                del self._settled[oldest]
        self.moved()

    def moved(self) -> None:
        """Wake the one who waits in ``until``, if what it waits for has come."""
        if self._awaited and self._awaited():
            self._arrived.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds; it is looked at whenever something moved. For one waiter at a time."""
        while not condition():
            self._awaited, self._arrived = condition, anyio.Event()
            try:
                await self._arrived.wait()
            finally:
                self._awaited = None
