"""``FailBreaker``: limits the tasks that are failed automatically, because Fail deletes a task permanently.

A defect of the exporter, a proxy, or a change at Aluma can make every task look as if it could never be exported. So
at most ``MAX_FAILED_TASKS`` tasks of a kind are failed until the administrator confirms (``aluma-async fail``). An
export frees no place, because a task without such a text proves nothing about those that have one. A kind is a project,
the destinations, and the reason. A place is reserved in one step, so that the number of workers does not matter, and
recorded before Fail is sent, so that a restart does not matter. It does not decide which errors are reasons to fail a
task.
"""

from collections.abc import Iterable
from contextlib import suppress

from aluma_async.exceptions import AlumaAsyncError, DestinationError, FailConfirmed
from aluma_async.models import BreakerRecord, Claim
from aluma_async.ports import Destination, Journal

MAX_FAILED_TASKS = 3
"""Number of tasks of a kind that are failed automatically, at most."""


class FailBreaker:
    """The tasks that were failed automatically, or are about to be. ``destination`` may name those of a claim."""

    def __init__(self, journal: Journal, destination: Destination) -> None:
        self._journal = journal
        self._destination = destination
        self._places: dict[str, BreakerRecord] = {}  # by task id, so that a repeated attempt takes no second place
        self._reported: set[tuple[str, ...]] = set()

    def load(self, records: Iterable[BreakerRecord]) -> None:
        """Take over the places of an earlier process."""
        self._places = {record.task_id: record for record in records}

    def reserve(self, claim: Claim, error: AlumaAsyncError) -> bool:
        """Reserve a place for a task; return whether there was one. It never waits.

        A task whose Fail the administrator has confirmed needs no place.
        """
        if isinstance(error, FailConfirmed):
            return True
        place = self._place(claim, error)
        taken = sum(other.kind == place.kind for other in self._places.values() if other.task_id != place.task_id)
        if taken >= MAX_FAILED_TASKS:
            return False
        self._places[place.task_id] = place
        return True

    def report_once(self, claim: Claim, error: AlumaAsyncError) -> bool:
        """Return whether a refusal is the first one of its kind in this process."""
        kind = self._place(claim, error).kind
        is_first = kind not in self._reported
        self._reported.add(kind)
        return is_first

    async def record(self, task_id: str) -> None:
        """Record the place of a task durably. Raises ``JournalError``; Fail must not be sent then."""
        if place := self._places.get(task_id):
            await self._journal.write(place)

    def give_back(self, task_id: str) -> None:
        """Free the place of a task, because Fail was not sent."""
        if self._places.pop(task_id, None):
            self._journal.delete(BreakerRecord, task_id)

    def _place(self, claim: Claim, error: AlumaAsyncError) -> BreakerRecord:
        return BreakerRecord(claim.task.id, type(error).__name__, claim.task.project_id, self._destinations(claim))

    def _destinations(self, claim: Claim) -> tuple[str, ...]:
        names_of = getattr(self._destination, "destinations_for", None)
        with suppress(DestinationError):  # a file without a route
            return tuple(names_of(claim)) if names_of else ()
        return ()
