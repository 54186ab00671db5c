"""``Partition``: the tasks that one of several processes exports, decided by each process alone.

All processes together have each task exactly once. If their number changes, a task changes its process only if its new
process is new, or its old one does not exist any more (rendezvous hashing). Shares are equal on average, not exactly.
"""

import hashlib

from msgspec import Struct

_MASK = (1 << 64) - 1


class Partition(Struct, frozen=True):
    """The tasks of process ``number``, counted from 1, of ``count`` processes."""

    number: int
    count: int

    def contains(self, task_id: str) -> bool:
        """Return whether the process exports a task."""
        return process_of(task_id, self.count) == self.number


def process_of(task_id: str, count: int) -> int:
    """Return the number of the process that exports a task.

    Ids that differ only in case have the same process, because their copies may need the same folder.
    """
    text = task_id.casefold().encode(errors="surrogatepass")
    value = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
    return max(range(1, count + 1), key=lambda number: _mix(value ^ _mix(number)))


def _mix(value: int) -> int:
    """Return a number in which each bit depends on all bits of ``value`` (the finalizer of SplitMix64)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
