"""When to stop failing tasks: a mistake of ours, or a change at Aluma, looks like a row of tasks that are all fatal."""

from collections import Counter

MAX_CONSECUTIVE_FAILURES = 3


class CircuitBreaker:
    """Lets so many tasks be failed for one reason as long as nothing is exported in between."""

    def __init__(self) -> None:
        self._failed: Counter[str] = Counter()

    def allows(self, reason: str) -> bool:
        """Whether one more task may be failed for this reason."""
        return self._failed[reason] < MAX_CONSECUTIVE_FAILURES

    def record_failure(self, reason: str) -> bool:
        """Take note that a task was failed; return whether it was the last one for now."""
        self._failed[reason] += 1
        return not self.allows(reason)

    def record_success(self) -> None:
        """Take note that a task was exported: exports are possible, so what fails is the tasks' own fault."""
        self._failed.clear()
