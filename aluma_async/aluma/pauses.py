"""``PauseVerifier``: finds out whether a pause that Aluma asked for concerns one task or all requests.

A server, or a proxy or a store behind it, can answer 429 or 503 with a long Retry-After to the requests about one task,
while it answers all others. A listing is about no task. If it succeeds in the pause, only that task waits.
"""

import anyio

from aluma_async.aluma import responses
from aluma_async.aluma.listing import HEAD_BYTES, is_listing
from aluma_async.aluma.transport import ApiTransport
from aluma_async.aluma.urls import Target
from aluma_async.clock import loop_time
from aluma_async.exceptions import SourceError
from aluma_async.ports import RequestLimiter

_DELAY_SECONDS = 1.0
"""Wait before the test, so that requests refused at the same moment share it."""
_MAX_FRUITLESS_TESTS = 3
_TIMEOUT_SECONDS = 10.0


class PauseVerifier:
    """Tests pauses by the head of a listing, at most one at a time and one for each pause."""

    def __init__(self, transport: ApiTransport, listing: Target) -> None:
        self._transport = transport
        self._listing = listing
        self._lock = anyio.Lock()
        self._succeeded_at = float("-inf")
        self.fruitless_tests = 0
        """Number of successful tests after which no request that changes a task has succeeded."""

    async def verify(self, error: SourceError) -> None:
        """Set ``error.spares_others`` if the pause that ``error`` asks for is only that of its task; end the pause.

        A cancellation does not interrupt it, so that the caller can handle the error.
        """
        limiter = self._transport.request_limiter
        asks_for_pause = error.operation and (error.retry_after or error.overloaded)
        if asks_for_pause and limiter.pause_is_unverified and not error.spares_others:
            refused_at = loop_time()
            with anyio.CancelScope(shield=True), anyio.move_on_after(_TIMEOUT_SECONDS):
                async with self._lock:
                    if limiter.pause_is_unverified:  # otherwise it was tested while this request waited
                        await self._test(limiter)
            error.spares_others = self._succeeded_at >= refused_at

    async def _test(self, limiter: RequestLimiter) -> None:
        # If Aluma refuses to change any task, but lists them, each end of the pause brings further refusals.
        await anyio.sleep(_DELAY_SECONDS * 2**self.fruitless_tests)
        if limiter.pause_is_unverified and await self._is_answered():
            self._succeeded_at = loop_time()
            self.fruitless_tests = min(self.fruitless_tests + 1, _MAX_FRUITLESS_TESTS)
            limiter.end_pause()

    async def _is_answered(self) -> bool:
        try:
            async with self._transport.get("test a pause", self._listing, probe=True) as response:
                head = b""
                while len(head) < HEAD_BYTES and (chunk := await responses.read_chunk("test a pause", response)):
                    head += chunk
                return is_listing(head)
        except SourceError:
            return False
