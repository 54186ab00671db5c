"""Group commit: callers that arrive before a batch starts share one run of an expensive step (an fsync, a thread hop).

Every item is in exactly one batch, and its caller waits until that batch has ended, even if the caller is cancelled.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import anyio

Item = TypeVar("Item", bound=Hashable)
T = TypeVar("T")

GATHER_SECONDS = 0.001
"""Delay before a batch, so that more callers can join it, if the previous batch had several. A thread hop takes a tenth
of it, and the event loop can bring a handful of workers to the same point in this time."""


class Batch(Generic[Item]):
    """The items of one run."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.errors: dict[Item, Exception] = {}
        """Errors that concern single items; the step adds them."""
        self.error: Exception | None = None
        """The error that concerns all items: what the step raised."""
        self.callers = 1
        self.ended = asyncio.Event()


class Batcher(Generic[Item]):
    """Collects items and runs ``step`` for all that are pending.

    Args:
        step: Processes the items of a batch. What it raises is raised to every caller of the batch, and an error that
            it adds to ``errors`` to the caller who submitted that item. It must finish even if its task is natively
            cancelled (``Task.cancel``, from which no scope shields): see ``wait_uncancelled``.
        concurrency: How many batches may run at the same time.
    """

    def __init__(self, step: Callable[[Batch[Item]], Awaitable[None]], *, concurrency: int = 1) -> None:
        self.pending: list[Item] = []
        """The items of the next batch, in order."""
        self.add: Callable[[Item], None] = self.pending.append  # a method would cost a second call per item
        """Adds an item to the next batch without waiting for it. A later ``submit`` or ``flush`` starts that batch."""
        self._step = step
        self._slots = anyio.Semaphore(concurrency, fast_acquire=True)
        self._next: Batch[Item] | None = None
        self._last_batch_was_shared = False

    async def submit(self, item: Item) -> None:
        """Add an item and wait until its batch has ended. Raises the error of the item or of the batch."""
        self.add(item)
        batch = await self.flush()
        if batch.errors and (error := batch.errors.get(item)):
            raise error

    async def flush(self) -> Batch[Item]:
        """Run the step for all pending items and wait until it has ended; raise what it raised.

        A cancelled caller also waits, as in a shielded scope.
        """
        batch = self._next
        if batch:
            batch.callers += 1
            try:
                await batch.ended.wait()
            except asyncio.CancelledError:
                # Entering a CancelScope costs more than this wait usually takes, so shield only after a cancellation.
                with anyio.CancelScope(shield=True):
                    await batch.ended.wait()
                if anyio.current_effective_deadline() > -math.inf:  # a native cancellation: no scope raises it again
                    raise
        else:
            batch = self._next = Batch()
            with anyio.CancelScope(shield=True):
                await self._run_leader(batch)
        if batch.error:
            raise batch.error
        return batch

    async def _run_leader(self, batch: Batch[Item]) -> None:
        """Run a batch in the task of its first caller."""
        cancelled = await self._wait_for_slot()
        try:
            self._next = None  # callers that arrive from here on need another batch
            batch.items = self.pending[:]
            del self.pending[:]
            self._last_batch_was_shared = batch.callers > 1
            await self._step(batch)
        except Exception as error:  # noqa: BLE001 - raised to every caller of the batch
            batch.error = error
        finally:
            self._slots.release()
            batch.ended.set()
        if cancelled:
            raise cancelled

    async def _wait_for_slot(self) -> asyncio.CancelledError | None:
        """Wait for more callers and for a free slot.

        Return a native cancellation instead of raising it, because the other callers of the batch depend on its leader.
        """
        cancelled: asyncio.CancelledError | None = None
        if self._last_batch_was_shared:
            try:
                await anyio.sleep(GATHER_SECONDS)
            except asyncio.CancelledError as error:
                cancelled = error
        while True:
            try:
                await self._slots.acquire()
            except asyncio.CancelledError as error:
                cancelled = error
            else:
                return cancelled


async def wait_uncancelled(future: "asyncio.Future[T]") -> T:
    """Wait for a step in a thread, which cannot be interrupted. Call it only within a shielded scope.

    A native cancellation, from which no scope shields, is raised after the step has ended, unless the step failed.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])  # this does not cancel the future
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled and not future.exception():
        raise cancelled
    return future.result()
