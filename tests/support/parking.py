"""An exporter that parks its tasks at their first failure, and stores copies of them."""

import random
from contextlib import asynccontextmanager

import anyio

from aluma_async import Backoff, Exporter, FolderDestination
from aluma_async.exceptions import DestinationError
from aluma_async.journal.memory import MemoryJournal
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.stack import simulated

PARK_SECONDS = 3600


class Broken(MemoryDestination):
    """A destination that refuses every task until ``works`` is set."""

    works = False

    @asynccontextmanager
    async def open(self, claim):
        if not self.works:
            raise DestinationError("the column is too narrow")
        async with super().open(claim) as delivery:
            yield delivery


class World:
    """An exporter whose tasks are parked at their first failure, and its quarantine."""

    def __init__(self, path, tasks=1, *, source=SimulatedSource, faults=None, quarantine=None, **options):
        self.aluma = simulated(tasks, "small")
        self.destination, self.journal, self.events = Broken(), MemoryJournal(), []
        self.folder = QuarantineFolder(path)
        self.source = source(self.aluma, faults)
        self.options = {"park_after": 1, "park_seconds": PARK_SECONDS, "cooldown": Backoff(60, 60, jitter=0), **options}
        self.quarantine = quarantine or FolderDestination(path, on_conflict="overwrite")

    def exporter(self):
        """Return the exporter of the next process."""
        return Exporter(
            self.source,
            self.destination,
            quarantine=self.quarantine,
            quarantine_folder=self.folder.path,
            journal=self.journal,
            uniform=random.Random(0).uniform,
            on_event=self.events.append,
            **self.options,
        )

    async def run_for(self, seconds):
        exporter = self.exporter()
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            await anyio.sleep(seconds)
            exporter.stop()

    def kinds(self, *wanted):
        return [type(event) for event in self.events if isinstance(event, wanted)]

    def check_copies(self, *task_ids):
        """Check that exactly these tasks have a copy, complete and with every byte."""
        copies, problems = self.folder.copies()
        assert not problems
        assert sorted(copy.task_id for copy in copies) == sorted(task_ids)
        for copy in copies:
            assert self.folder.verify(copy) == {}
            content = [b"".join(self.folder.read_file(copy, file.number)) for file in copy.record.files]
            assert content == [data for _, _, data in self.aluma.expected(copy.task_id)]
            assert self.folder.read_specification(copy) == self.aluma.specification(copy.task_id)
