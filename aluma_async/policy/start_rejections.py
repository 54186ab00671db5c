"""``StartRejections``: the projects whose tasks may not be started for now. Pure: time and chance are arguments.

Aluma or a proxy may refuse Start for a reason that is not the task's state: a missing permission, an outage. If that
concerns all tasks, one attempt after each pause is enough; if it concerns one project or task, the others go on.
"""

from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from aluma_async.policy.backoff import Backoff

_HOLD = Backoff(2, 300)
_TRIAL_SECONDS = 60.0


class Reaction(NamedTuple):
    """What follows from a rejected Start."""

    pause: bool
    """Whether it may concern all tasks, so that all claiming pauses."""
    blame: bool
    """Whether it may concern this task, so that it counts as a failure of the task."""


class _Hold(Struct):
    count: int = 0
    """Number of rejections in a row."""
    until: float = float("-inf")
    on_trial: bool = False
    """Whether one task was admitted after the end of the hold."""


class StartRejections:
    """Holds the tasks of a project after a rejected Start, longer with each further one in a row."""

    def __init__(self) -> None:
        self.held: dict[str, _Hold] = {}
        """The projects that are held or on trial, by id; most of the time empty."""
        self._all_rejected = False  # whether no Start was accepted since the last rejection

    def record(self, project: str, now: float, uniform: Callable[[float, float], float]) -> Reaction:
        """Record a rejected Start."""
        hold = self.held.setdefault(project, _Hold())
        reaction = Reaction(pause=not hold.count or self._all_rejected, blame=not self._all_rejected)
        if hold.on_trial or hold.until <= now:  # rejections of the same moment count as one
            hold.count += 1
            hold.until = now + _HOLD.delay(hold.count, uniform)
            hold.on_trial = False
        self._all_rejected = True
        return reaction

    def record_accepted(self, project: str) -> None:
        """Record a Start that was accepted while projects are held."""
        self._all_rejected = False
        self.held.pop(project, None)

    def holds(self, project: str, now: float) -> bool:
        """Return whether no task of the project may be started yet."""
        return project in self.held and now < self.held[project].until

    def begin_trial(self, project: str, now: float) -> bool:
        """Return whether a task may be started now; the first one of a project after a hold goes alone."""
        if hold := self.held.get(project):
            if now < hold.until:
                return False
            hold.until, hold.on_trial = now + _TRIAL_SECONDS, True
        return True
