"""Wrappers that watch the edges of the pipeline: they report to the invariants, inject faults and have crash points."""

import random
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from aluma_async.clock import loop_time
from aluma_async.exceptions import DestinationError, DestinationUnavailable, JournalError, SourceError
from aluma_async.journal.memory import MemoryJournal
from aluma_async.journal.records import Record
from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.pipeline.source_wrapper import SourceWrapper
from aluma_async.ports import RequestLimiter, TaskSource
from aluma_async.testing.destination import MemoryDelivery, MemoryDestination
from aluma_async.testing.simulation.invariants import Instance, InvariantChecker
from aluma_async.testing.simulator import SimulatedAluma

T = TypeVar("T")


class WatchedAluma(SimulatedAluma):
    """Checks the destinations at the moment when a task is completed or failed."""

    checker: InvariantChecker
    saved: Callable[[str], Iterable[bytes]]
    """Returns the files of a task (by id) that are durable at the destination."""
    quarantined: Callable[[str], Iterable[bytes]]
    """Returns the files of a task (by id) that are durable in the quarantine."""

    def complete(self, task_id: str) -> None:
        """Complete a task; all its files must be at the destination."""
        completed = self.counts["complete"]
        super().complete(task_id)
        if self.counts["complete"] > completed:
            self.checker.require(
                self._contains_all(self.saved, task_id), f"{task_id} completed before all its files were durable"
            )

    def fail(self, task_id: str, message: str) -> None:
        """Fail a task; it must be unexportable, and all its files must be in the quarantine."""
        super().fail(task_id, message)
        unexportable = self.ids().index(task_id) in self.behaviour.impossible_tasks
        self.checker.require(unexportable, f"{task_id} failed although it can be exported")
        self.checker.require(
            self._contains_all(self.quarantined, task_id),
            f"{task_id} failed before all its files were in the quarantine",
        )

    def _contains_all(self, durable_files: Callable[[str], Iterable[bytes]], task_id: str) -> bool:
        return not Counter(data for _, _, data in self.expected(task_id)) - Counter(durable_files(task_id))


class WatchedSource(SourceWrapper):
    """Checks each request of a source, with crash points before and after the requests that change a task."""

    def __init__(self, source: TaskSource, instance: Instance) -> None:
        super().__init__(source)
        self._instance = instance

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        await self._instance.crash_point()
        async for tasks in self._source.list_pending():
            yield tasks

    async def start(self, task: ExportTask) -> Claim:
        return await self._change("start", self._source.start, task)

    @asynccontextmanager
    async def open_file(self, claim: Claim, file: ExportFile) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._instance.crash_point()
        async with self._source.open_file(claim, file) as chunks:
            yield chunks

    async def complete(self, task: ExportTask) -> None:
        await self._change("complete", self._source.complete, task)

    async def cancel(self, task: ExportTask) -> None:
        await self._change("cancel", self._source.cancel, task)

    async def fail(self, task: ExportTask, message: str) -> None:
        await self._change("fail", self._source.fail, task, message)

    async def state(self, task: ExportTask) -> str | None:
        with self._instance.request("get", task.id):
            return await self._source.state(task)

    async def _change(self, verb: str, send: Callable[..., Awaitable[T]], task: ExportTask, *args: str) -> T:
        await self._instance.crash_point()
        with self._instance.request(verb, task.id):
            result = await send(task, *args)
        await self._instance.crash_point()
        return result


class WatchedRequestLimiter:
    """Checks that a limiter keeps its limit, and that no request is sent during a pause that Aluma asked for."""

    def __init__(self, request_limiter: RequestLimiter, limit: int, checker: InvariantChecker) -> None:
        self._request_limiter = request_limiter
        self._limit = limit
        self._checker = checker
        self._held = 0
        self._closed_until = 0.0

    @asynccontextmanager
    async def permit(self, *, urgent: bool = False) -> AsyncIterator[float]:
        async with self._request_limiter.permit(urgent=urgent) as moment:
            self._held += 1
            self._checker.require(
                self._held <= self._limit, f"{self._held} requests in flight, and the limit is {self._limit}"
            )
            in_pause = loop_time() < self._closed_until - 1e-6
            self._checker.require(not in_pause, f"a request was sent before {self._closed_until:.3f}, during a pause")
            try:
                yield moment
            except SourceError as error:
                if error.retry_after:
                    self._closed_until = max(self._closed_until, loop_time() + error.retry_after)
                raise
            finally:
                self._held -= 1

    async def consume_bytes(self, count: int) -> None:
        await self._request_limiter.consume_bytes(count)


class WatchedJournal(MemoryJournal):
    """A journal in memory that can fail to write, with crash points before and after each write."""

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self._instance = instance

    async def flush(self) -> None:
        if self._pending:
            await self._instance.crash_point()
            if loop_time() < self._instance.journal_broken_until:
                raise JournalError("the journal's disk is full")
        await super().flush()
        await self._instance.crash_point()

    def durable(self) -> Sequence[Record]:
        """Return the records that the next process would load."""
        return list(self._durable.values())


class DestinationFaults:
    """Faults of a destination.

    Args:
        rng: Random decisions.
        broken: Probability that a step fails.
        slow: Probability that a step takes longer.
        away: Start and end of the times at which the destination is unavailable.
    """

    def __init__(self, rng: random.Random, broken: float, slow: float, away: Sequence[tuple[float, float]]) -> None:
        self._rng = rng
        self._broken = broken
        self._slow = slow
        self._away = away

    def end(self) -> None:
        """Remove all faults."""
        self._broken = self._slow = 0.0
        self._away = ()

    def raise_if_away(self) -> None:
        """Raise ``DestinationUnavailable`` if the destination is unavailable now."""
        if any(start <= loop_time() < end for start, end in self._away):
            raise DestinationUnavailable("the disk is full")

    async def inject(self) -> None:
        """Delay a step, or let it fail."""
        if self._slow and self._rng.random() < self._slow:
            await anyio.sleep(self._rng.choice((1, 20, 400, 1600)))
        self.raise_if_away()
        if self._broken and self._rng.random() < self._broken:
            raise DestinationError("cannot write a file")


class WatchedDestination:
    """A destination in memory with faults, and with crash points between its steps."""

    def __init__(self, store: MemoryDestination, instance: Instance, faults: DestinationFaults) -> None:
        self._store = store
        self._instance = instance
        self._faults = faults

    async def probe(self) -> None:
        await self._instance.crash_point()
        self._faults.raise_if_away()

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["WatchedDelivery"]:
        delivery = MemoryDelivery(self._store)
        yield WatchedDelivery(delivery, self._instance, self._faults)
        await self._instance.crash_point()
        await self._faults.inject()
        self._store.tasks[claim.task.id] = delivery.files
        await self._instance.crash_point()


class WatchedDelivery:
    """The files of one claim."""

    def __init__(self, delivery: MemoryDelivery, instance: Instance, faults: DestinationFaults) -> None:
        self._delivery = delivery
        self._instance = instance
        self._faults = faults

    def resumable_size(self, file: ExportFile) -> int | None:
        return self._delivery.resumable_size(file)

    async def omit(self, file: ExportFile) -> None:
        await self._delivery.omit(file)

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        await self._instance.crash_point()
        await self._delivery.save(file, chunks)
        await self._faults.inject()
