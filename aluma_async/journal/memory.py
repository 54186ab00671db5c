"""``MemoryJournal``: a ``Journal`` that lives as long as the object."""

from collections.abc import Sequence

from aluma_async.journal.records import ChangeCollector, Key, Record


class MemoryJournal(ChangeCollector):
    """A journal for tests, and for embedded exporters that need not survive a crash.

    It loses as much as a disk does: changes that were not written yet are lost when the process ends. An exporter that
    is started with the same object represents the next process.
    """

    def __init__(self) -> None:
        super().__init__([])
        self._durable: dict[Key, Record] = {}
        self._released: list[str] = []

    async def load(self) -> Sequence[Record]:
        """Return the durable records."""
        self._pending.clear()
        return list(self._durable.values())

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
