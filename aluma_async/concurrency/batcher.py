"""``Rounds``: one run of a dear step (a sync, a hop into a thread) for all who wait for it, not one for each."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")

GATHER_SECONDS = 0.001
"""How long a run waits for others to join once the last one was shared: a hop into a thread costs a tenth of that,
and the loop gets through what a handful of workers do in that time."""


class Batcher:
    """Runs ``step`` for whoever asks; those who ask before a run has begun share it. ``at_once`` runs overlap."""

    def __init__(self, step: Callable[[], Awaitable[None]], *, concurrency: int = 1) -> None:
        self._step = step
        self._slots = anyio.Semaphore(concurrency, fast_acquire=True)
        self._next: _Batch | None = None
        self._last_batch_was_shared = False

    async def submit(self) -> None:
        """Return when a run that began after this call has ended; raise what it raised.

        Nobody is cancelled meanwhile: it is waited for as in a shielded scope.
        """
        batch = self._next
        if batch:
            batch.members += 1
            try:
                await batch.ended.wait()
            except asyncio.CancelledError:  # a scope is dearer than most waits: only one who is cancelled has one
                with anyio.CancelScope(shield=True):
                    await batch.ended.wait()
                if anyio.current_effective_deadline() > -math.inf:  # of no scope, which would say it again
                    raise
        else:
            batch = self._next = _Batch()
            with anyio.CancelScope(shield=True):
                await self._run_leader(batch)
        if batch.error:
            raise batch.error

    async def _run_leader(self, batch: "_Batch") -> None:
        try:
            if self._last_batch_was_shared:
                await anyio.sleep(GATHER_SECONDS)
            async with self._slots:
                self._next = None  # from here on it is too late to join
                self._last_batch_was_shared = batch.members > 1
                await self._step()
        except Exception as error:  # noqa: BLE001 - raised to all who joined
            batch.error = error
        finally:
            batch.ended.set()


async def wait_uncancelled(future: "asyncio.Future[T]") -> T:
    """Wait for a step in a thread, which goes on whether or not anybody waits; only within a shielded scope.

    A cancellation from outside of any scope, which none keeps out, is raised when the step has ended well.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])  # which does not cancel it
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled and not future.exception():
        raise cancelled
    return future.result()


class _Batch:
    """A run to come."""

    def __init__(self) -> None:
        self.members = 1
        self.ended = asyncio.Event()
        self.error: Exception | None = None
