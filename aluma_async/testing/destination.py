"""``MemoryDestination``: a ``Destination`` that keeps what it is given, for tests and for those who embed."""

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager

from aluma_async.exceptions import DestinationUnavailable
from aluma_async.models import Claim, ExportFile


class MemoryDestination:
    """Holds the files of each delivered task: ``tasks[task id][(folder, filename, number)]`` is their bytes."""

    def __init__(self) -> None:
        self.tasks: dict[str, dict[tuple[str, str, int], bytes]] = {}
        self.open_deliveries = 0
        self.unavailable = False
        """Set to let it refuse everything."""

    def contents(self, task_id: str) -> list[bytes]:
        """The bytes of each file of a task."""
        return list(self.tasks.get(task_id, {}).values())

    async def probe(self) -> None:
        """Refuse if ``unavailable``."""
        if self.unavailable:
            raise DestinationUnavailable("the memory destination is switched off")

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["MemoryDelivery"]:
        """Begin to deliver; leaving the block makes all files visible at once."""
        delivery = MemoryDelivery(self)
        self.open_deliveries += 1
        try:
            yield delivery
            await self.probe()
            self.tasks[claim.task.id] = delivery.files
        finally:
            self.open_deliveries -= 1


class MemoryDelivery:
    """The files of one claim."""

    def __init__(self, destination: MemoryDestination) -> None:
        self._destination = destination
        self.files: dict[tuple[str, str, int], bytes] = {}

    def resumable_size(self, file: ExportFile) -> int | None:  # noqa: ARG002 - the port has it
        return None

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Keep a file."""
        await self._destination.probe()
        self.files[file.folder, file.filename, file.number] = b"".join([chunk async for chunk in chunks])
