"""``MemoryDestination``: a ``Destination`` that keeps all files in memory, for tests."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aluma_async.exceptions import AlreadyExported, DestinationUnavailable
from aluma_async.models import Claim, ExportFile


class MemoryDestination:
    """Keeps the content of each committed file in ``tasks[task id][(folder, filename, number)]``."""

    def __init__(self) -> None:
        self.tasks: dict[str, dict[tuple[str, str, int], bytes]] = {}
        self.open_deliveries = 0
        self.unavailable = False
        """Whether every save, commit and probe raises ``DestinationUnavailable``; set by a test."""

    def contents(self, task_id: str) -> list[bytes]:
        """Return the content of each file of a task."""
        return list(self.tasks.get(task_id, {}).values())

    async def probe(self) -> None:
        """Raise ``DestinationUnavailable`` if ``unavailable`` is set."""
        if self.unavailable:
            raise DestinationUnavailable("the memory destination is set to unavailable")

    async def verify(self, receipt: str) -> bool:
        """Return whether the files of a delivery are still there."""
        return any(receipt == _receipt(task_id, files) for task_id, files in self.tasks.items())

    def commit(self, claim: Claim, delivery: "MemoryDelivery") -> None:
        """Make the files of a delivery visible and issue their receipt."""
        files = delivery.files
        if not claim.may_replace:
            earlier = self.tasks.get(claim.task.id, {})
            if any(earlier[key] != files[key] for key in earlier.keys() & files.keys()):
                raise AlreadyExported(f"task {claim.task.id}")
            files = earlier | files
        self.tasks[claim.task.id] = files
        delivery.receipt = _receipt(claim.task.id, files)

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["MemoryDelivery"]:
        """Open a delivery; leaving the block commits its files."""
        delivery = MemoryDelivery(self)
        self.open_deliveries += 1
        try:
            yield delivery
            await self.probe()
            self.commit(claim, delivery)
        finally:
            self.open_deliveries -= 1


class MemoryDelivery:
    """The files of one claim before they are committed."""

    def __init__(self, destination: MemoryDestination) -> None:
        self._destination = destination
        self.receipt = ""
        """Set at the commit."""
        self.files: dict[tuple[str, str, int], bytes] = {}

    def resumable_size(self, file: ExportFile) -> int | None:  # noqa: ARG002 - the port has it
        return None

    async def omit(self, file: ExportFile) -> None:
        """Leave a file out."""
        self.files.pop((file.folder, file.filename, file.number), None)

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage a file."""
        await self._destination.probe()
        self.files[file.folder, file.filename, file.number] = b"".join([chunk async for chunk in chunks])


def _receipt(task_id: str, files: Mapping[tuple[str, str, int], bytes]) -> str:
    """Return a text without names that is different for each content."""
    digest = hashlib.sha256(repr((task_id, sorted(files.items()))).encode())
    return digest.hexdigest()
