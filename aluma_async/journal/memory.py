"""``MemoryJournal``: a ``Journal`` that lives as long as the object; and the records of every journal."""

from collections.abc import Sequence
from typing import TypeAlias

from aluma_async.models import ClaimRecord, HoldRecord

Record: TypeAlias = ClaimRecord | HoldRecord
Key: TypeAlias = tuple[type[Record], str]
Change: TypeAlias = tuple[Key, Record | None]
"""The new value of a record; None deletes it."""


def to_change(record: Record) -> Change:
    """Return the change that stores a record."""
    return (type(record), record.task_id), record


class MemoryJournal:
    """A journal for tests, and for embedded exporters that need not survive a crash.

    It loses as much as a disk does: changes that were not written yet are lost when the process ends. An exporter that
    is started with the same object represents the next process.
    """

    def __init__(self) -> None:
        self._durable: dict[Key, Record] = {}
        self._pending: list[Change] = []
        self._released: list[str] = []

    async def load(self) -> Sequence[Record]:
        """Return the durable records."""
        self._pending.clear()
        return list(self._durable.values())

    async def write(self, *records: Record) -> None:
        """Store records durably, with all earlier changes."""
        self._pending += map(to_change, records)
        await self.flush()

    def put(self, record: Record) -> None:
        """Store a record with the next write."""
        self._pending.append(to_change(record))

    def delete(self, kind: type[Record], task_id: str) -> None:
        """Delete a record with the next write."""
        self._pending.append(((kind, task_id), None))

    async def flush(self) -> None:
        """Make all pending changes durable."""
        for key, record in self._pending:
            if record is None:
                self._durable.pop(key, None)
            else:
                self._durable[key] = record
        self._pending.clear()

    async def pop_released(self) -> Sequence[str]:
        """Return the ids that were passed to ``release`` since the last call."""
        released, self._released = self._released, []
        return released

    def release(self, task_id: str) -> None:
        """Release the hold of a task, as ``aluma-async retry`` does."""
        self._released.append(task_id)
