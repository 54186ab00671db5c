"""``MemoryJournal``: a ``Journal`` that lives as long as the object; and the ``Records`` that every journal keeps."""

from collections.abc import Sequence
from typing import TypeAlias

from aluma_async.models import ClaimRecord, HoldRecord

Record: TypeAlias = ClaimRecord | HoldRecord
Key: TypeAlias = tuple[type[Record], str]
Change: TypeAlias = tuple[Key, Record | None]
"""What a record becomes; None: nothing."""


def to_change(record: Record) -> Change:
    """The change that keeps a record."""
    return (type(record), record.task_id), record


class MemoryJournal:
    """For tests, and for those who embed an exporter and need no memory over a crash.

    It is as forgetful as a disk: what was only noted is lost if the process ends before the next write, and
    an exporter that begins on the same object is the next process.
    """

    def __init__(self) -> None:
        self._durable: dict[Key, Record] = {}
        self._pending: list[Change] = []
        self._released: list[str] = []

    async def load(self) -> Sequence[Record]:
        """Return what is durable."""
        self._pending.clear()
        return list(self._durable.values())

    async def write(self, *records: Record) -> None:
        """Keep records, durably."""
        self._pending += map(to_change, records)
        await self.flush()

    def put(self, record: Record) -> None:
        """Keep a record with the next write."""
        self._pending.append(to_change(record))

    def delete(self, kind: type[Record], task_id: str) -> None:
        """Drop a record with the next write."""
        self._pending.append(((kind, task_id), None))

    async def flush(self) -> None:
        """Make durable what waits."""
        for key, record in self._pending:
            if record is None:
                self._durable.pop(key, None)
            else:
                self._durable[key] = record
        self._pending.clear()

    async def pop_released(self) -> Sequence[str]:
        """Ids given to ``release``."""
        released, self._released = self._released, []
        return released

    def release(self, task_id: str) -> None:
        """Lift a task's hold, as an operator does."""
        self._released.append(task_id)
