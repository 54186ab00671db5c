"""Fails tasks after the administrator has confirmed it (``aluma-async fail``), through the normal pipeline.

``ConfirmedSource`` lists only these tasks, and ``ConfirmedDestination`` raises ``FailConfirmed`` for each. So the
exporter does what it does after any fatal error: it claims the task, requires a complete copy in the quarantine,
records that the task is being failed, and sends Fail. ``ConfirmedJournal`` is that of the state folder, but these tasks
are not on hold. A task whose Export Specification is not the one in its copy is released, because something else was
confirmed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress

from msgspec import Struct
from msgspec.structs import replace

from aluma_async.concurrency.threads import run_in_thread
from aluma_async.exceptions import BadSpecification, DestinationError, FailConfirmed
from aluma_async.journal.records import Record
from aluma_async.models import BreakerRecord, Claim, ExportSpec, ExportTask, HoldRecord
from aluma_async.ports import Clock, Delivery, Destination, Journal, TaskSource, VerifyingDestination
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.source_wrapper import SourceWrapper


class ConfirmedTask(Struct, frozen=True):
    """A task that the administrator wants to fail."""

    copy: Copy
    reason: str
    """Class name of the error for which it was parked."""
    message: str


class ConfirmedJournal:
    """Wraps ``journal``; the tasks with the ids ``task_ids`` are not on hold."""

    def __init__(self, journal: Journal, task_ids: Sequence[str], clock: Clock) -> None:
        self._journal = journal
        self._task_ids = frozenset(task_ids)
        self._clock = clock
        self._places: list[BreakerRecord] = []
        self.write = journal.write
        self.put = journal.put
        self.delete = journal.delete
        self.flush = journal.flush

    async def load(self) -> Sequence[Record]:
        """Return all records; the holds of these tasks have ended."""
        records = await self._journal.load()
        self._places = [record for record in records if isinstance(record, BreakerRecord)]
        return [self._without_hold(record) for record in records]

    async def pop_released(self) -> Sequence[str]:
        """Return nothing: the next exporter ends these holds."""
        return ()

    def reset_breaker(self, reason: str, project_id: str, destinations: tuple[str, ...]) -> None:
        """Let tasks of a kind be failed automatically again."""
        for place in self._places:
            if (place.reason, place.project_id, place.destinations) == (reason, project_id, destinations):
                self._journal.delete(BreakerRecord, place.task_id)

    def _without_hold(self, record: Record) -> Record:
        if isinstance(record, HoldRecord) and record.task_id in self._task_ids:
            return replace(record, since=self._clock(), seconds=0.0)
        return record


class ConfirmedSource(SourceWrapper):
    """Wraps ``source``: lists and claims only ``tasks``, by id. ``destination`` names the destinations of a claim."""

    def __init__(
        self,
        source: TaskSource,
        tasks: Mapping[str, ConfirmedTask],
        folder: QuarantineFolder,
        journal: ConfirmedJournal,
        destination: "ConfirmedDestination",
    ) -> None:
        super().__init__(source)
        self._tasks = tasks
        self._folder = folder
        self._journal = journal
        self._destination = destination

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """Yield the tasks that are pending."""
        async for tasks in self._source.list_pending():
            yield [task for task in tasks if task.id in self._tasks]

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task. Raises ``BadSpecification`` if its copy is that of another Export Specification."""
        confirmed = self._tasks[task.id]
        # Before Start, because an error after it must not look as if the task were not claimed.
        stored = await run_in_thread(self._folder.read_specification, confirmed.copy)
        claim = await self._source.start(task)
        if claim.spec.received != stored:
            raise BadSpecification(
                f"task {task.id}: its Export Specification has changed since its copy was stored",
                hint="Run 'aluma-async retry' for it, so that it is exported, or copied again.",
                received=claim.spec.received,
            )
        self._journal.reset_breaker(confirmed.reason, task.project_id, self._destination.destinations_for(claim))
        # Text that is not valid Unicode must not be failed as such, but because it is confirmed.
        files = tuple(replace(file, invalid_text=False) for file in claim.spec.files)
        return replace(claim, spec=ExportSpec(files, claim.spec.received))


class ConfirmedDestination:
    """A destination for ``tasks``, by id, that refuses them. ``destination`` is the one they would be exported to."""

    def __init__(self, destination: Destination, tasks: Mapping[str, ConfirmedTask]) -> None:
        self._destination = destination
        self._tasks = tasks

    async def probe(self) -> None:
        """Accept every state of the destination, because nothing is stored."""

    def open(self, claim: Claim) -> AbstractAsyncContextManager[Delivery]:
        """Raise ``FailConfirmed``."""
        confirmed = self._tasks[claim.task.id]
        raise FailConfirmed(f"confirmed by the administrator: {confirmed.reason}: {confirmed.message}")

    def destinations_for(self, claim: Claim) -> tuple[str, ...]:
        """Return the names of the destinations of a claim's files, as far as they are known."""
        names_of = getattr(self._destination, "destinations_for", None)
        with suppress(DestinationError):
            return tuple(names_of(claim)) if names_of else ()
        return ()

    async def verify(self, receipt: str) -> bool:
        """Return whether the files of a claim that an exporter has left are there."""
        await self._destination.probe()
        return isinstance(self._destination, VerifyingDestination) and await self._destination.verify(receipt)
