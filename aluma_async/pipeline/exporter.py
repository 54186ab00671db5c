"""``Exporter``: owns the queue, the producer and the workers; run, drain, stop.

It installs no signal handler, sets up no logging and holds no global state: several run side by side in one loop.
"""

import random
from collections import Counter
from contextlib import suppress

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from aluma_async.clock import loop_time, system_clock
from aluma_async.events import (
    ClaimLost,
    ClaimRefused,
    DrainStarted,
    Event,
    RunEnded,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskParked,
)
from aluma_async.exceptions import AlumaAsyncError, JournalError
from aluma_async.journal.memory import MemoryJournal
from aluma_async.models import ExportTask, Summary
from aluma_async.pipeline.claim_source import ClaimTrackingSource
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.producer import Producer
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.recovery import Recovery
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.pipeline.worker import SETTLE_TIMEOUT_SECONDS, Worker
from aluma_async.policy.backoff import Backoff, RetryPolicy
from aluma_async.policy.sizing import QUEUED_TASKS_PER_WORKER
from aluma_async.ports import Clock, Destination, Journal, OnEvent, TaskSource, Uniform

CLAIMS_PER_WORKER = 2
"""Claims in hand at most for each that is being saved: a slot is not idle while a Complete is under way."""


class Exporter:
    """Exports what waits at ``source`` into ``destination``, ``workers`` tasks at once (and as many being completed).

    ``queue_size`` tasks wait unclaimed (0: twice the workers). ``journal`` remembers what must outlive the
    process; without one Aluma's time-out ends what a crash left open. ``quarantine`` takes what a task holds
    before it is failed; without one no task is ever failed, but parked for ``park`` seconds, as is one that
    failed ``park_after`` times in a row (0: never).
    ``cooldown`` is the wait before a task that failed is tried again, ``polling`` the wait between
    listings that bring nothing. ``claim_timeout`` is Aluma's (seconds), ``drain_timeout`` how long tasks in hand
    may go on after ``stop()``. An exporter runs once.
    """

    def __init__(
        self,
        source: TaskSource,
        destination: Destination,
        *,
        workers: int = 16,
        queue_size: int = 0,
        journal: Journal | None = None,
        quarantine: Destination | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        cooldown: Backoff = Backoff(60, 3600),  # noqa: B008
        polling: Backoff = Backoff(2, 60),  # noqa: B008
        park_seconds: float = 21600,
        park_after: int = 10,
        claim_timeout: float = 1800,
        drain_timeout: float = 60,
        on_event: OnEvent | None = None,
        clock: Clock = system_clock,
        uniform: Uniform = random.uniform,
    ) -> None:
        self.destination = destination
        self._journal = journal or MemoryJournal()
        self._workers = workers
        self._drain_timeout = drain_timeout
        self._listener = on_event
        self._counts: Counter[type[Event]] = Counter()
        self._files = self._bytes = 0
        self._stop = anyio.Event()
        self._stopped = False
        self._exporting = 0
        self._slots = anyio.Semaphore(workers, fast_acquire=True)
        self._group: TaskGroup | None = None  # the workers, while they run
        self._worker_count = 0  # how many there are
        self._tracker = TaskTracker()
        self._claims = ClaimTracker(self._journal, clock, claim_timeout)
        self._cooldown = Cooldown(
            cooldown, self._journal, park_seconds=park_seconds, park_after=park_after, clock=clock, uniform=uniform
        )
        self._send, self._receive = anyio.create_memory_object_stream[ExportTask](
            queue_size or QUEUED_TASKS_PER_WORKER * workers
        )
        retrying_source = RetryingSource(
            ClaimTrackingSource(source, self._claims), retry, uniform=uniform, on_event=self._emit
        )
        transfer = FileTransfer(retrying_source, on_event=self._emit)
        self._recovery = Recovery(
            retrying_source, self._claims, self._journal, self._tracker, self._cooldown, on_event=self._emit
        )
        self._worker = Worker(
            retrying_source,
            destination,
            transfer,
            self._claims,
            self._cooldown,
            Quarantine(retrying_source, quarantine, transfer) if quarantine else None,
            self._slots,
            self._may_begin,
            claim_timeout=claim_timeout,
            on_event=self._emit,
        )
        self._producer = Producer(
            retrying_source,
            self._send,
            self._tracker,
            self._claims,
            self._cooldown,
            probe=destination.probe,
            polling=polling,
            uniform=uniform,
            on_event=self._emit,
        )

    async def run(self) -> Summary:
        """Export until ``stop()``. Raises ``SourceError``, ``DestinationError`` ``JournalError`` if it cannot begin."""
        return await self._run(until_drained=False)

    async def run_until_drained(self) -> Summary:
        """Export until nothing waits any more but what is held back.

        Raises as ``run`` does, and where Aluma or the destination cannot be used any more.
        """
        return await self._run(until_drained=True)

    def stop(self) -> None:
        """Begin to drain: claim nothing new, finish what is in hand, within ``drain_timeout``."""
        self._stopped = True
        self._stop.set()

    def set_workers(self, workers: int) -> None:
        """Export ``workers`` tasks at once from now on. What is in hand beyond that is finished first."""
        before, self._workers = self._workers, workers
        for _ in range(before, workers):
            self._slots.release()
        if self._group is None:
            for _ in range(workers, before):
                self._slots.acquire_nowait()
        elif not self._stopped:
            self._spawn_workers(self._group)
            for _ in range(workers, before):
                self._group.start_soon(self._slots.acquire)  # taken away as they become free

    @property
    def tasks_in_progress(self) -> int:
        """How many tasks are being exported."""
        return self._exporting

    async def _run(self, *, until_drained: bool) -> Summary:
        begun = loop_time()
        held_back = 0
        broken: AlumaAsyncError | None = None
        with self._receive, self._send:
            await self._recovery.load()
            try:
                await self.destination.probe()
            except AlumaAsyncError:
                await self._recovery.settle_remaining(
                    SETTLE_TIMEOUT_SECONDS
                )  # what is open can be given back all the same
                raise
            async with anyio.create_task_group() as outer:
                outer.start_soon(self._enforce_drain_timeout, outer.cancel_scope)
                outer.start_soon(self._recovery.run)
                async with anyio.create_task_group() as self._group:
                    self._spawn_workers(self._group)
                    with anyio.CancelScope() as listing:
                        outer.start_soon(self._cancel_listing_on_stop, listing)
                        try:
                            if until_drained:
                                held_back = await self._producer.run_until_drained()
                            else:
                                await self._producer.run()
                        except AlumaAsyncError as error:  # those in hand are finished first
                            broken = error
                    self._send.close()
                outer.cancel_scope.cancel()
            await self._recovery.settle_remaining(SETTLE_TIMEOUT_SECONDS)
        await self._cooldown.close()
        await self._flush()
        if broken:
            raise broken
        summary = self._summary(loop_time() - begun, held_back)
        self._emit(RunEnded(summary))
        return summary

    def _spawn_workers(self, group: TaskGroup) -> None:
        """Start as many workers as there are to be; those that are too many wait for a slot, and cost nothing."""
        for _ in range(self._worker_count, CLAIMS_PER_WORKER * self._workers):
            group.start_soon(self._worker_loop, self._receive.clone())
            self._worker_count += 1

    async def _worker_loop(self, queue: MemoryObjectReceiveStream[ExportTask]) -> None:
        with queue:
            while task := await _receive_task(queue):
                done = False
                try:
                    self._tracker.notify()
                    self._exporting += 1
                    done = await self._worker.export(task)
                except AlumaAsyncError as error:
                    self._producer.blocking_error = error
                finally:
                    self._exporting -= 1
                    self._tracker.remove(task.id, done=done)
                    self._recovery.schedule(task.id)
                if not len(self._tracker):  # nothing follows that would write along what was noted
                    await self._flush()

    def _may_begin(self, task_id: str) -> bool:
        """Decide at the last moment whether a task may be claimed."""
        if self._stopped or self._producer.blocking_error or self._recovery.is_settling(task_id):
            return False
        self._tracker.mark_started(task_id)
        return True

    async def _flush(self) -> None:
        with suppress(JournalError):
            await self._journal.flush()

    async def _cancel_listing_on_stop(self, listing: CancelScope) -> None:
        await self._stop.wait()
        self._emit(DrainStarted(self.tasks_in_progress))
        listing.cancel()

    async def _enforce_drain_timeout(self, everything: CancelScope) -> None:
        await self._stop.wait()
        await anyio.sleep(self._drain_timeout)
        everything.cancel()

    def _emit(self, event: Event) -> None:
        """Count an event and pass it on; a listener that breaks must not break an export."""
        self._counts[type(event)] += 1
        if type(event) is TaskCompleted:
            self._files += event.files
            self._bytes += event.bytes
            self._producer.on_task_completed()
        if self._listener:
            try:
                self._listener(event)
            except Exception:  # noqa: BLE001
                self._counts[Event] += 1

    def _summary(self, seconds: float, held_back: int) -> Summary:
        return Summary(
            exported=self._counts[TaskCompleted],
            files=self._files,
            bytes=self._bytes,
            failed=self._counts[TaskFailed],
            cancelled=self._counts[TaskCancelled] + self._counts[TaskParked],
            lost=self._counts[ClaimRefused] + self._counts[ClaimLost],
            held_back=held_back,
            seconds=seconds,
        )


async def _receive_task(queue: MemoryObjectReceiveStream[ExportTask]) -> ExportTask | None:
    """The next task; None at the end. What waits already is not waited for: that would be a turn of the loop."""
    with suppress(anyio.EndOfStream):
        try:
            return queue.receive_nowait()
        except anyio.WouldBlock:
            return await queue.receive()
    return None
