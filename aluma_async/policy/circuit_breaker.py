"""``CircuitBreaker``: stops failing tasks after several failures in a row.

A defect of the exporter or a change at Aluma makes every task fail, and Fail deletes a task permanently.
"""

from collections import Counter

MAX_CONSECUTIVE_FAILURES = 3


class CircuitBreaker:
    """Allows ``MAX_CONSECUTIVE_FAILURES`` failed tasks per reason until a task is exported."""

    def __init__(self) -> None:
        self._failed: Counter[str] = Counter()

    def allows(self, reason: str) -> bool:
        """Return whether another task may be failed for this reason."""
        return self._failed[reason] < MAX_CONSECUTIVE_FAILURES

    def record_failure(self, reason: str) -> bool:
        """Record a failed task; return whether it was the last one that is allowed."""
        self._failed[reason] += 1
        return not self.allows(reason)

    def record_success(self) -> None:
        """Record an exported task: exports work, so that failures are due to the tasks themselves."""
        self._failed.clear()
