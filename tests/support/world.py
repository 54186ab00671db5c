"""An exporter between a simulated Aluma and a destination in memory; both share one clock."""

import asyncio
import hashlib
import random
from collections import Counter

import anyio

from aluma_async import Exporter, MemoryJournal
from aluma_async.models import ClaimRecord, ClaimState, ExportFile, ExportSpec, HoldRecord, Timestamp
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.stack import simulated


def system_time():
    """Return the virtual time as a timestamp that outlives the exporter."""
    return Timestamp("simulated", anyio.current_time(), 1e9 + anyio.current_time())


def clock_of_this_loop():
    """Return a clock like ``system_time`` that any thread may call."""
    loop = asyncio.get_running_loop()
    return lambda: Timestamp("simulated", loop.time(), 1e9 + loop.time())


def claim_record(task_id, state=ClaimState.STARTING, **fields):
    """Return a claim as the journal stores it; by default its Start was sent now."""
    return ClaimRecord(task_id, state, **{"sent_at": system_time(), **fields})


def unexportable_hold(task_id, specification):
    """Return the hold of a task that was found unexportable with this specification; it has just ended."""
    return HoldRecord(
        task_id,
        system_time(),
        0.0,
        error="UnexportableTask",
        unexportable=hashlib.sha256(specification).hexdigest(),
    )


class World:
    """A simulated Aluma, a destination and an exporter; ``events`` are all events so far, with their time.

    The next exporter, made by ``restart``, works with the same Aluma, destination and journal.
    """

    def __init__(
        self,
        tasks=10,
        *,
        faults=None,
        source=SimulatedSource,
        destination=None,
        quarantine=None,
        journal=None,
        profile="mixed",
        exporter=None,
        **behaviour,
    ):
        self.aluma = simulated(tasks, profile, **behaviour)
        self.source = source(self.aluma, faults)
        self.destination, self.quarantine = destination or MemoryDestination(), quarantine or MemoryDestination()
        self.journal = journal or MemoryJournal()
        self.timed_events = []
        self._settings = exporter or {}
        self.exporter = self.restart()

    def restart(self):
        """Make the next exporter, as if the process had been started again."""
        self.exporter = Exporter(
            self.source,
            self.destination,
            quarantine=self.quarantine,
            journal=self.journal,
            clock=clock_of_this_loop(),
            on_event=lambda event: self.timed_events.append((anyio.current_time(), event)),
            uniform=random.Random(0).uniform,
            **self._settings,
        )
        return self.exporter

    async def find_unexportable(self, specification=None):
        """Record that an earlier attempt at each task has found it unexportable, with this or its own specification."""
        for task_id in self.aluma.ids():
            await self.journal.write(unexportable_hold(task_id, specification or self.aluma.specification(task_id)))
        return self

    async def run_for(self, seconds):
        """Run the exporter for some time, then stop it and let it finish."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.exporter.run)
            await anyio.sleep(seconds)
            self.exporter.stop()

    async def run_until(self, condition, seconds):
        """Run the exporter until ``condition()`` is true, then stop it; raise ``TimeoutError`` after ``seconds``."""
        with anyio.fail_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(self.exporter.run)
                while not condition():  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                self.exporter.stop()

    def count(self, kind):
        """Return the number of events of one class."""
        return len(self.events(kind))

    def events(self, kind):
        """Return the events of one class."""
        return [event for _, event in self.timed_events if isinstance(event, kind)]

    def times(self, kind):
        """Return the times of the events of one class."""
        return [time for time, event in self.timed_events if isinstance(event, kind)]

    def check(self):
        """Check what must be true after every run."""
        for task_id in self.aluma.ids("completed"):
            expected = Counter(self.aluma.expected(task_id))
            stored = Counter((f, n, data) for (f, n, _), data in self.destination.tasks[task_id].items())
            assert stored == expected
        assert not self.aluma.ids("pending:complete_client_action"), "no task is left claimed"
        assert not self.exporter.tasks_in_progress
        assert not self.destination.open_deliveries
        assert not self.aluma.counts["requeued"]


class ImpossibleSource(SimulatedSource):
    """A source whose first task has a text that can never be exported, because it is not valid Unicode."""

    async def start(self, task):
        claim = await super().start(task)
        if task.id != self._aluma.ids()[0]:
            return claim
        bad = ExportFile(len(claim.spec.files), 0, "f", "x.txt", "content", "\ufffd", invalid_text=True)
        return type(claim)(task, ExportSpec((*claim.spec.files, bad), claim.spec.received), claim.sent_at)
