"""``LimitedCalls``: calls code of another party that may never return, not even when it is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")

CANCEL_SECONDS = 5.0
"""Seconds in which a call has to end after its cancellation."""


class Outcome(Generic[T]):
    """The result of a call, or its exception of any kind."""

    result: T
    error: BaseException | None = None


class LimitedCalls(Generic[T]):
    """Runs each call in an asyncio task of its own. A call that ignores its cancellation is abandoned.

    While an abandoned call has not returned, no further one is started, so that their number is bounded.
    """

    def __init__(self) -> None:
        self._abandoned: asyncio.Task[None] | None = None

    async def run(self, call: Callable[[], Awaitable[T]], seconds: float) -> Outcome[T]:
        """Return the outcome of a call. Raises ``TimeoutError`` if it does not end in time."""
        if self._abandoned and not self._abandoned.done():
            raise TimeoutError
        outcome: Outcome[T] = Outcome()
        task = asyncio.create_task(_record(call, outcome))
        try:
            done, _ = await asyncio.wait([task], timeout=seconds)
        finally:
            if not task.done():
                await self._end(task)
        if not done:
            raise TimeoutError
        if task.cancelled():  # before it has begun
            outcome.error = asyncio.CancelledError()
        return outcome

    async def _end(self, task: "asyncio.Task[None]") -> None:
        task.cancel()
        self._abandoned = task
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task], timeout=CANCEL_SECONDS)


async def _record(call: Callable[[], Awaitable[T]], outcome: Outcome[T]) -> None:
    """Record every exception, because asyncio lets some of them end the event loop."""
    try:
        outcome.result = await call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001
        outcome.error = error
