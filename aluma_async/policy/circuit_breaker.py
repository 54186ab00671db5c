"""When to stop failing tasks: a mistake of ours, or a change at Aluma, looks like a row of tasks that are all fatal."""

from collections import Counter

FAILS_IN_A_ROW = 3


class Breaker:
    """Lets so many tasks be failed for one reason as long as nothing is exported in between."""

    def __init__(self) -> None:
        self._failed: Counter[str] = Counter()

    def lets(self, reason: str) -> bool:
        """Whether one more task may be failed for this reason."""
        return self._failed[reason] < FAILS_IN_A_ROW

    def failed(self, reason: str) -> bool:
        """Take note that a task was failed; return whether it was the last one for now."""
        self._failed[reason] += 1
        return not self.lets(reason)

    def exported(self) -> None:
        """Take note that a task was exported: exports are possible, so what fails is the tasks' own fault."""
        self._failed.clear()
