"""``Throttle``: one limit, one rate and one pause for all requests of an exporter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from aluma_async.events import RequestsHeldBack
from aluma_async.exceptions import RateLimited, SourceError
from aluma_async.policy.pacing import Pace
from aluma_async.policy.retry import doubled
from aluma_async.ports import OnEvent, Uniform

LONGEST_PAUSE = 3600.0
"""Seconds; a Retry-After of more than this is not believed."""
_UNTOLD_PAUSE = (5.0, 300.0)  # first and longest pause after a 429 that does not say how long
_SHORTEST_SLEEP = 0.01  # a clock's resolution must not turn a wait into a busy loop


class Throttle:
    """Hands out permits (``ports.Permits``): at most ``max_at_once``, at most ``max_per_second``, none in a pause.

    0 means no limit for the rates (requests a second; bytes a second). Permits are given in the order asked for.
    """

    def __init__(
        self,
        max_at_once: int,
        *,
        max_per_second: float = 0,
        max_bytes_per_second: float = 0,
        uniform: Uniform,
        on_event: OnEvent,
    ) -> None:
        self._permits = anyio.CapacityLimiter(max_at_once)
        self._pace = Pace(max_per_second) if max_per_second else None
        self._bytes = Pace(max_bytes_per_second, burst=max_bytes_per_second) if max_bytes_per_second else None
        self._turn = anyio.Lock()
        self._open_at = 0.0
        self._refusals = 0
        self._uniform = uniform
        self._on_event = on_event

    @property
    def in_flight(self) -> int:
        """How many permits are held now."""
        return self._permits.borrowed_tokens

    @asynccontextmanager
    async def permit(self) -> AsyncIterator[None]:
        """Wait for the right to send one request, and hold it until its answer has been read."""
        holder = object()
        await self._permits.acquire_on_behalf_of(holder)
        try:
            # Only the first in line sleeps; the others wait for their turn, so that none is overtaken.
            if self._turn.locked() or self._wait() > 0:
                async with self._turn:
                    while (wait := self._wait()) > 0:  # noqa: ASYNC110 - a pause may grow while it is slept
                        await anyio.sleep(max(wait, _SHORTEST_SLEEP))
            if self._pace:
                self._pace.take(anyio.current_time())
            yield
            self._refusals = 0
        except SourceError as error:
            self._note(error)
            raise
        finally:
            self._permits.release_on_behalf_of(holder)

    async def received(self, count: int) -> None:
        """Account for bytes downloaded; waits if they came faster than allowed."""
        if self._bytes:
            self._bytes.take(anyio.current_time(), count)
            if (wait := self._bytes.wait(anyio.current_time())) > 0:
                await anyio.sleep(wait)

    def _wait(self) -> float:
        """Seconds until the next request may leave."""
        now = anyio.current_time()
        return max(self._open_at - now, self._pace.wait(now) if self._pace else 0.0)

    def _note(self, error: SourceError) -> None:
        """Begin a pause if the error asks for one."""
        now = anyio.current_time()
        pause = error.retry_after
        if pause is None and isinstance(error, RateLimited) and now >= self._open_at:
            # Those refused in the same moment count as one, or sixteen workers would cause the longest pause at once.
            self._refusals += 1
            pause = self._uniform(1.0, doubled(*_UNTOLD_PAUSE, self._refusals))
        if pause is None:
            return
        pause = min(pause, LONGEST_PAUSE)
        until = now + pause + self._uniform(0, min(1.0, pause / 10))
        if until > self._open_at:
            self._open_at = until
            self._on_event(RequestsHeldBack(pause))
