"""``Cooldown``: which tasks must not be tried again yet, and how often each has failed.

A time-to-live cache, as Aluma's guide advises. It forgets a task some time after its cool-down, so that the
next failure counts as the first again. It does not survive the process.
"""

from typing import Any

import anyio
from aiocache import SimpleMemoryCache

from aluma_async.policy.retry import Patience
from aluma_async.ports import Uniform


class Cooldown:
    """Cool-downs that grow with each failure of a task, after ``patience``."""

    def __init__(self, patience: Patience, uniform: Uniform) -> None:
        self._patience = patience
        self._uniform = uniform
        # Holds (failures, end of the cool-down) by task id. Its 5 s time-out would make an error of a slow moment.
        self._cache: Any = SimpleMemoryCache(timeout=None)
        self._ids: set[str] = set()  # what may be in the cache: most tasks never fail, and need not ask

    async def failures(self, task_id: str) -> int:
        """How often in a row the task has failed."""
        failures, _ = await self._entry(task_id)
        return failures

    async def holds(self, task_id: str) -> bool:
        """Whether the task is to be left alone now."""
        _, until = await self._entry(task_id)
        return anyio.current_time() < until

    async def hold(self, task_id: str, at_least: float = 0.0) -> tuple[int, float]:
        """Count one more failure; return their number and the seconds for which the task is held back from now."""
        failures = await self.failures(task_id) + 1
        delay = max(self._patience.delay(failures, self._uniform), at_least)
        self._ids.add(task_id)
        entry = (failures, anyio.current_time() + delay)
        await self._cache.set(task_id, entry, ttl=delay + self._patience.maximum)
        return failures, delay

    async def forget(self, task_id: str) -> None:
        """Let the task's failures not count any more."""
        if task_id in self._ids:
            self._ids.discard(task_id)
            await self._cache.delete(task_id)

    async def clear(self) -> None:
        """Forget everything, and leave no timer in the event loop."""
        for task_id in list(self._ids):
            await self.forget(task_id)

    async def _entry(self, task_id: str) -> tuple[int, float]:
        if task_id not in self._ids:
            return 0, 0.0
        entry: tuple[int, float] | None = await self._cache.get(task_id)
        if entry is None:
            self._ids.discard(task_id)
        return entry or (0, 0.0)
