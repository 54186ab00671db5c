"""``WorkerPool``: starts the workers of an exporter, and limits how many of them save a task at the same time."""

from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

CLAIMS_PER_WORKER = 2
"""Claims per worker at most: while one task is being completed, the next one can already be saved."""


class WorkerPool:
    """Workers for ``workers`` tasks that are saved at the same time; ``start`` starts one in a task group."""

    def __init__(self, workers: int, start: Callable[[TaskGroup], None]) -> None:
        _check(workers)
        self.slots = anyio.Semaphore(workers, fast_acquire=True)
        """One for each task that may be saved at the same time."""
        self.workers = workers
        """Number of tasks that may be saved at the same time."""
        self._start = start
        self._group: TaskGroup | None = None  # of the workers, while they run
        self._started = 0
        self._replaced = self._spare = 0

    def open(self, group: TaskGroup) -> None:
        """Start the workers."""
        self._group = group
        self._start_missing(group)

    def close(self) -> None:
        """Start no further worker, because the group has ended."""
        self._group = None

    def set_workers(self, workers: int, *, stopping: bool) -> None:
        """Change the number of tasks that are saved at the same time. Raises ``ValueError``."""
        _check(workers)
        before, self.workers = self.workers, workers
        for _ in range(before, workers):
            self.slots.release()
        if self._group is None:
            for _ in range(workers, before):
                self.slots.acquire_nowait()
        elif not stopping:
            self._start_missing(self._group)
            for _ in range(workers, before):
                self._group.start_soon(self.slots.acquire)  # removed as they become free

    def replace(self) -> bool:
        """Let another worker work in place of one that does not return; False if as many were replaced as there are."""
        if self._group is None or self._replaced >= self.workers:
            return False
        self._replaced += 1
        self.slots.release()
        if self._spare:
            self._spare -= 1
        else:
            self._start(self._group)
        return True

    def give_back(self) -> None:
        """Let a worker that was replaced work again. The additional one stays, and waits for a slot."""
        self._replaced -= 1
        self._spare += 1
        if self._group:
            self._group.start_soon(self.slots.acquire)

    def _start_missing(self, group: TaskGroup) -> None:
        """Start the missing workers; surplus ones wait for a slot and cost nothing."""
        for _ in range(self._started, CLAIMS_PER_WORKER * self.workers):
            self._start(group)
            self._started += 1


def _check(workers: int) -> None:
    if workers < 1:
        raise ValueError(f"workers: {workers} is less than 1")
