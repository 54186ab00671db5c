"""``Carrier``: brings the files of a claim into a destination, several at once, each begun anew if it breaks."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator

import anyio

from aluma_async.events import BytesReceived, FileSaved
from aluma_async.exceptions import deciding
from aluma_async.models import Claim, ExportFile
from aluma_async.pipeline.resilient import Resilient
from aluma_async.ports import Delivery, Destination, OnEvent

_REPORT_BYTES = 1024 * 1024
_REPORT_SECONDS = 10.0


class Carrier:
    """Carries at most ``files_at_once`` downloads of one task at a time."""

    def __init__(self, source: Resilient, *, files_at_once: int = 4, on_event: OnEvent) -> None:
        self._source = source
        self._files_at_once = files_at_once
        self._on_event = on_event

    async def carry(self, claim: Claim, destination: Destination) -> int:
        """Deliver all files of a claim, durably; return their bytes. Raises ``SourceError``, ``DestinationError``."""
        sizes: list[int] = []
        try:
            async with destination.open(claim) as delivery:
                # What came with the specification first: it waits for nobody.
                for file in claim.spec.files:
                    if file.source == "content":
                        sizes.append(await self._save(claim, file, delivery))
                downloads = [file for file in claim.spec.files if file.source == "url"]
                queue = iter(downloads)
                if len(downloads) <= 1:
                    await self._save_all(claim, queue, delivery, sizes)
                else:
                    async with anyio.create_task_group() as group:
                        for _ in downloads[: self._files_at_once]:
                            group.start_soon(self._save_all, claim, queue, delivery, sizes)
        except BaseExceptionGroup as group:
            raise deciding(group) from None
        return sum(sizes)

    async def _save_all(self, claim: Claim, queue: Iterator[ExportFile], delivery: Delivery, sizes: list[int]) -> None:
        for file in queue:  # shared: each takes the next that nobody has taken
            if (size := delivery.kept(file)) is not None:
                sizes.append(size)
                continue
            sizes.append(
                await self._source.repeat(
                    f"download file {file.number} of task {claim.task.id}",
                    lambda file=file: self._save(claim, file, delivery),  # type: ignore[misc]
                )
            )

    async def _save(self, claim: Claim, file: ExportFile, delivery: Delivery) -> int:
        if file.source == "content":
            data = file.content.encode()
            await delivery.save(file, _once(data))
            size = len(data)
            self._on_event(BytesReceived(claim.task, file, size))
        else:
            meter = _Meter(claim, file, self._on_event)
            async with self._source.open_file(claim, file) as chunks:
                await delivery.save(file, meter.over(chunks))
            size = meter.total
        self._on_event(FileSaved(claim.task, file, size))
        return size


class _Meter:
    """Counts bytes that pass, and tells of them a MiB at a time, or now and then if they come slowly."""

    def __init__(self, claim: Claim, file: ExportFile, on_event: OnEvent) -> None:
        self._task = claim.task
        self._file = file
        self._on_event = on_event
        self.total = 0

    async def over(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        told, told_at = 0, 0.0
        async for chunk in chunks:
            if self.total > told:  # never of a file in one piece, which so needs no clock
                now = anyio.current_time()
                told_at = told_at or now
                if self.total - told >= _REPORT_BYTES or now - told_at >= _REPORT_SECONDS:
                    self._on_event(BytesReceived(self._task, self._file, self.total - told))
                    told, told_at = self.total, now
            self.total += len(chunk)
            yield chunk
        if self.total > told:
            self._on_event(BytesReceived(self._task, self._file, self.total - told))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
