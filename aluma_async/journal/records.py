"""The records of a journal, and the changes to them that every journal collects for its next write."""

from typing import Any, TypeAlias

from aluma_async.models import BreakerRecord, ClaimRecord, HoldRecord

Record: TypeAlias = ClaimRecord | HoldRecord | BreakerRecord
Key: TypeAlias = tuple[type[Record], str]
Change: TypeAlias = tuple[Key, Record | None]
"""The new value of a record; None deletes it."""


def to_change(record: Record) -> Change:
    """Return the change that stores a record."""
    return (type(record), record.task_id), record


class ChangeCollector:
    """``write``, ``put`` and ``delete`` of a ``Journal``; a subclass adds ``flush``.

    ``pending`` is the list to which changes are appended; other items may be in it, too.
    """

    def __init__(self, pending: list[Any]) -> None:
        self._pending = pending

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
        raise NotImplementedError
