"""``Slots``: limits how many files of all tasks a server receives at once, so that a hanging request stops no others.

A server may hang on one name or folder. A file that takes longer than ``patience`` no longer occupies one of the normal
slots; further files of its delivery share other slots. A delivery begins with one file at a time, and with each
finished file it may process one more.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

_MIN_BYTES_PER_SECOND = 100_000
"""Speed below which a big file counts as slow."""


class Slots:
    """The slots for all deliveries."""

    def __init__(self, limit: int, patience: float) -> None:
        """``patience``: seconds after which a small file is slow."""
        self.limit, self.patience = limit, patience
        self.normal, self.slow = anyio.Semaphore(limit), anyio.Semaphore(limit)

    def share(self) -> "Share":
        """Return the slots of one delivery."""
        return Share(self)


class Share:
    """The slots that the files of one delivery use."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._own, self._size = anyio.Semaphore(1), 1
        self._is_slow = False

    @asynccontextmanager
    async def slot(self, size: int) -> AsyncIterator[None]:
        """Wait for a slot for a file of some size, and hold it during the block."""
        async with self._own:
            await self.slots.normal.acquire()
            if self._is_slow:
                self.slots.normal.release()
                async with self.slots.slow:
                    yield
            else:
                occupied = _Occupied(self)
                seconds = self.slots.patience + size / _MIN_BYTES_PER_SECOND
                timer = asyncio.get_running_loop().call_later(seconds, occupied.leave)
                try:
                    yield
                finally:
                    timer.cancel()
                    occupied.release()
        if self._size < self.slots.limit:
            self._size += 1
            self._own.release()

    def use_slow_slots(self) -> None:
        """Process the next files in the slots for slow deliveries."""
        self._is_slow = True


class _Occupied:
    """A normal slot that a file occupies until it is processed, or is slow."""

    def __init__(self, share: Share) -> None:
        self._share: Share | None = share

    def leave(self) -> None:
        """Release the slot because the file is slow."""
        if self._share:
            self._share.use_slow_slots()
        self.release()

    def release(self) -> None:
        """Release the slot unless it was released before."""
        if self._share:
            self._share.slots.normal.release()
        self._share = None
