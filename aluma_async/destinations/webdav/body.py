"""The body of an upload, and the time limit of a request: it ends when no byte is transferred for a while."""

from collections.abc import AsyncIterator

import anyio
import anyio.to_thread

from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile

_BYTES_PER_SECOND = 1024 * 1024
"""Lowest speed at which a server is expected to copy or scan a big file on PUT and MOVE."""
_MAX_REQUEST_SECONDS = 600.0
"""Longest wait for a response about a big file."""
_STALLED_SECONDS = 120.0
"""Longest time without progress of an upload or download."""
_MIN_BYTES_PER_SECOND = 16 * 1024
"""Lowest speed of the line for a small file, of which no progress is known."""
_PART_BYTES = 64 * 1024


class ProgressDeadline:
    """Cancels a request that makes no progress."""

    def __init__(self, seconds: float, size: int) -> None:
        seconds = min(seconds + size / _BYTES_PER_SECOND, _MAX_REQUEST_SECONDS)
        self._extension = max(seconds, _STALLED_SECONDS)
        self.scope = anyio.move_on_after(seconds + min(size, BLOCK) / _MIN_BYTES_PER_SECOND)

    def extend(self) -> None:
        """Report that a part of a big body was transferred."""
        self.scope.deadline = anyio.current_time() + self._extension


class Body:
    """The content of a file. Restarts for each request, because aiohttp repeats a PUT whose connection breaks."""

    def __init__(self, data: SpooledFile, limit: ProgressDeadline) -> None:
        self._data, self._limit = data.data, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._data.seek(0)
        while block := await anyio.to_thread.run_sync(self._data.read, BLOCK):
            for start in range(0, len(block), _PART_BYTES):
                yield block[start : start + _PART_BYTES]
                self._limit.extend()
