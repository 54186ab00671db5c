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


class Rounds:
    """Runs ``step`` for whoever asks; those who ask before a run has begun share it. ``at_once`` runs overlap."""

    def __init__(self, step: Callable[[], Awaitable[None]], *, at_once: int = 1) -> None:
        self._step = step
        self._turns = anyio.Semaphore(at_once, fast_acquire=True)
        self._next: _Round | None = None
        self._crowded = False

    async def join(self) -> None:
        """Return when a run that began after this call has ended; raise what it raised.

        Nobody is cancelled meanwhile: it is waited for as in a shielded scope.
        """
        coming = self._next
        if coming:
            coming.joined += 1
            try:
                await coming.ended.wait()
            except asyncio.CancelledError:  # a scope is dearer than most waits: only one who is cancelled has one
                with anyio.CancelScope(shield=True):
                    await coming.ended.wait()
                if anyio.current_effective_deadline() > -math.inf:  # of no scope, which would say it again
                    raise
        else:
            coming = self._next = _Round()
            with anyio.CancelScope(shield=True):
                await self._lead(coming)
        if coming.error:
            raise coming.error

    async def _lead(self, coming: "_Round") -> None:
        try:
            if self._crowded:
                await anyio.sleep(GATHER_SECONDS)
            async with self._turns:
                self._next = None  # from here on it is too late to join
                self._crowded = coming.joined > 1
                await self._step()
        except Exception as error:  # noqa: BLE001 - raised to all who joined
            coming.error = error
        finally:
            coming.ended.set()


async def whole(begun: "asyncio.Future[T]") -> T:
    """Wait for a step in a thread, which goes on whether or not anybody waits; only within a shielded scope.

    A cancellation from outside of any scope, which none keeps out, is raised when the step has ended well.
    """
    cancelled: asyncio.CancelledError | None = None
    while not begun.done():
        try:
            await asyncio.wait([begun])  # which does not cancel it
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled and not begun.exception():
        raise cancelled
    return begun.result()


class _Round:
    """A run to come."""

    def __init__(self) -> None:
        self.joined = 1
        self.ended = asyncio.Event()
        self.error: Exception | None = None
