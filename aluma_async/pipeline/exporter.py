"""``Exporter``: owns the queue, the producer and the workers, and runs, drains and stops them.

It installs no signal handler, configures no logging and has no global state, so that several exporters can run in one
event loop.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import CancelScope
from anyio.abc import TaskGroup

from aluma_async.clock import loop_time, system_clock
from aluma_async.events import DrainStarted, RunEnded
from aluma_async.exceptions import AlumaAsyncError, JournalError
from aluma_async.journal.memory import MemoryJournal
from aluma_async.models import ExportTask, Snapshot, Summary
from aluma_async.pipeline.admission import Admission
from aluma_async.pipeline.breaker import FailBreaker
from aluma_async.pipeline.claim_source import ClaimTrackingSource
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.defect import UNEXPECTED_END, run_again_if_cancelled
from aluma_async.pipeline.destination_probe import DestinationProbe
from aluma_async.pipeline.destination_watch import DestinationWatch
from aluma_async.pipeline.failure import FailureHandler
from aluma_async.pipeline.lease_deadline import LeaseDeadline
from aluma_async.pipeline.node_hooks import NodeHooks
from aluma_async.pipeline.producer import Producer, receive_task
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.recovery import Recovery
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.run_counts import RunCounts
from aluma_async.pipeline.settlement import IDLE_SETTLE_TIMEOUT_SECONDS, SETTLE_TIMEOUT_SECONDS
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.pipeline.throttle import Outage
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.pipeline.worker import Worker
from aluma_async.pipeline.worker_pool import WorkerPool
from aluma_async.policy.backoff import Backoff, RetryPolicy
from aluma_async.policy.sizing import QUEUED_TASKS_PER_WORKER
from aluma_async.ports import OTHERS_WAIT, BeforeComplete, Clock, Destination, Journal, OnEvent, TaskSource, Uniform
from aluma_async.quarantine.folder import QuarantineFolder


class Exporter:
    """Exports pending tasks of a source to a destination. An exporter runs once.

    Args:
        source: Lists, claims and settles tasks.
        destination: Receives the files.
        workers: Number of tasks saved at the same time; as many more may be waiting for their Complete.
        queue_size: Number of unclaimed tasks in the queue; 0 for twice the workers.
        journal: Persists open claims and cool-downs. Without one, claims left by a crash expire at Aluma.
        quarantine: Receives a copy of a task before it is failed, and of a parked task. Without one, tasks are parked
            instead of failed, and have no copy.
        quarantine_folder: The folder that ``quarantine`` stores into. With it, the copy of a parked task is refreshed
            while it is incomplete, and removed when the task is exported.
        quarantine_max_bytes: Maximum size of that folder; 0 for no limit.
        retry: Attempts and delays of a single request.
        cooldown: Delay before a failed task is exported again.
        polling: Delay between listings that bring no new task.
        park_seconds: Seconds for which a task is parked.
        park_after: Number of failures in a row after which a task is parked; 0 for never.
        claim_timeout: Length of Aluma's lease in seconds.
        drain_timeout: Seconds for which claimed tasks may continue after ``stop()``.
        source_id: The API and the client that claim tasks. Claims and holds of others are left alone.
        before_complete: Awaited when a task's files are durable; if it raises, the task is released and cools down.
        destination_timeout: Seconds for which the destination may make no progress; more for large or many files.
        on_event: Receives every event.
        clock: Returns the time for records that outlive the process.
        uniform: Returns a random number between two bounds.
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
        quarantine_folder: Path | None = None,
        quarantine_max_bytes: int = 0,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        cooldown: Backoff = Backoff(60, 3600),  # noqa: B008
        polling: Backoff = Backoff(2, 60),  # noqa: B008
        park_seconds: float = 21600,
        park_after: int = 10,
        claim_timeout: float = 1800,
        drain_timeout: float = 60,
        source_id: str = "",
        before_complete: BeforeComplete | None = None,
        destination_timeout: float = 300,
        on_event: OnEvent | None = None,
        clock: Clock = system_clock,
        uniform: Uniform = random.uniform,
    ) -> None:
        self.destination = destination
        self.outage: Callable[[], Outage] = lambda: Outage(0.0)
        """Returns for how long no request to Aluma has succeeded, as far as ``open_exporter`` knows it."""
        self._probe = DestinationProbe(destination)
        self._journal = journal or MemoryJournal()
        self._has_run = False
        self._drain_timeout = drain_timeout
        self._counts = RunCounts(on_event)
        self._emit = self._counts.emit
        self._stop = anyio.Event()
        self._starting = CancelScope()
        self._settle_seconds = SETTLE_TIMEOUT_SECONDS
        self._exporting = 0
        self._pool = WorkerPool(workers, self._start_worker)
        self._tracker = TaskTracker()
        self._cooldown = Cooldown(
            cooldown, self._journal, clock, uniform, source_id, park_seconds=park_seconds, park_after=park_after
        )
        queue_size = queue_size or QUEUED_TASKS_PER_WORKER * workers
        self._send, self._receive = anyio.create_memory_object_stream[ExportTask](queue_size)
        self._claims = claims = ClaimTracker(self._journal, clock, claim_timeout, source_id)
        breaker = FailBreaker(self._journal, destination)
        self._admission = Admission(
            self._tracker, claims, self._pool.slots, canary_tasks=queue_size, on_event=self._emit
        )
        self._counts.on_task_completed = self._admission.on_task_completed
        tracking = ClaimTrackingSource(source, claims)
        retrying = RetryingSource(tracking, retry, uniform=uniform, on_event=self._emit)
        lease = LeaseDeadline(claims, claim_timeout)
        watch = DestinationWatch(
            destination_timeout,
            self._pool.replace,
            self._pool.give_back,
            max_seconds=lease.seconds,
            on_event=self._emit,
        )
        self._recovery = Recovery(
            retrying, claims, self._journal, self._tracker, self._cooldown, breaker, on_event=self._emit
        )
        self._quarantine: Quarantine | None = None
        if quarantine:
            self._quarantine = Quarantine(
                retrying,
                quarantine,
                folder=QuarantineFolder(quarantine_folder) if quarantine_folder else None,
                max_bytes=quarantine_max_bytes,
                on_event=self._emit,
            )
            tracking.has_copy = self._quarantine.has_copy
        transfer = FileTransfer(
            retrying,
            lease_check=lease.check_of,
            watch=watch,
            copied=self._quarantine.task_ids if self._quarantine else (),
            hashes=self._quarantine.exported_hashes if self._quarantine else None,
            before_complete=before_complete,
            on_event=self._emit,
        )
        failures = FailureHandler(
            retrying,
            claims,
            self._cooldown,
            self._quarantine,
            lease,
            self._admission,
            self._probe,
            breaker,
            uniform=uniform,
            on_event=self._emit,
        )
        self._worker = Worker(
            retrying, destination, transfer, claims, self._admission, failures, lease, on_event=self._emit
        )
        self._producer = Producer(
            retrying,
            self._send,
            self._admission,
            self._tracker,
            self._cooldown,
            claims,
            probe=self._probe.run_in_pause,
            polling=polling,
            uniform=uniform,
            on_event=self._emit,
        )
        self.node_hooks = NodeHooks(self._tracker, self._cooldown, self._producer, self._recovery)
        """What other exporters that share the work need of this one."""

    async def run(self) -> Summary:
        """Export until ``stop()``. Raises ``SourceError``, ``DestinationError``, ``JournalError`` if it cannot run."""
        return await self._run(until_drained=False)

    async def run_until_drained(self) -> Summary:
        """Export until no task is pending but those on hold.

        Raises as ``run`` does, and also if Aluma or the destination becomes unavailable.
        """
        return await self._run(until_drained=True)

    def stop(self) -> None:
        """Start draining: claim no new task, and finish the claimed ones within ``drain_timeout``."""
        self._admission.stopping = True
        if not self._exporting:  # recovery has tried to settle the claims that are open now
            self._settle_seconds = IDLE_SETTLE_TIMEOUT_SECONDS
        self._stop.set()
        self._starting.cancel()

    def set_workers(self, workers: int) -> None:
        """Save ``workers`` tasks at the same time from now on; tasks in progress are finished first.

        Raises ``ValueError`` if it is less than 1.
        """
        self._pool.set_workers(workers, stopping=self._admission.stopping)

    @property
    def workers(self) -> int:
        """Number of tasks saved at the same time."""
        return self._pool.workers

    @property
    def tasks_in_progress(self) -> int:
        """Number of tasks in progress."""
        return self._exporting

    def snapshot(self) -> Snapshot:
        """Return the state of this exporter at this moment."""
        draining = self._admission.stopping
        return self._counts.snapshot(workers=self.workers, tasks_in_progress=self._exporting, draining=draining)

    async def _run(self, *, until_drained: bool) -> Summary:
        if self._has_run:
            raise RuntimeError("an exporter runs once; create another one")
        self._has_run = True
        started_at = loop_time()
        with self._receive, self._send, self._counts.running():
            await self._start()
            held_back, error = 0, None
            if not self._starting.cancelled_caught:  # otherwise no claim was verified, so that none may be settled
                held_back, error = await self._export(until_drained=until_drained)
                await self._recovery.settle_remaining(self._settle_seconds)
        await self._finish()
        summary = self._counts.summary(
            gone=self._producer.gone.count,
            deferred=self._claims.count_unsettled(),
            held_back=held_back,
            seconds=loop_time() - started_at,
        )
        self._emit(RunEnded(summary))
        if error:
            raise error
        return summary

    async def _start(self) -> None:
        """Take over the records of an earlier process, and check the destination."""
        # First, so that no task is listed before the tracker knows the claims of the earlier process.
        await self._recovery.load()
        if self._quarantine:
            await self._quarantine.load()
        with self._starting:  # a server that does not answer must not delay a stop
            try:
                await self._probe.run()
            except AlumaAsyncError:
                await self._recovery.verify(None, self._quarantine)
                # Settling needs no destination, and the next run may come after the leases have expired.
                await self._recovery.settle_remaining(self._settle_seconds)
                raise
            await self._recovery.verify(self.destination, self._quarantine)

    async def _export(self, *, until_drained: bool) -> tuple[int, AlumaAsyncError | None]:
        """Run producer, workers and recovery; return the number of tasks on hold and the error that ended listing."""
        cancelled = AlumaAsyncError(UNEXPECTED_END)
        result: tuple[int, AlumaAsyncError | None] = 0, cancelled  # of a listing that is cancelled
        async with anyio.create_task_group() as watchers:
            watchers.start_soon(self._enforce_drain_timeout, watchers.cancel_scope)
            watchers.start_soon(self._recovery.run)
            if self._quarantine:
                watchers.start_soon(self._quarantine.run)
            async with anyio.create_task_group() as group:
                self._pool.open(group)
                with anyio.CancelScope() as listing:
                    # Not in the group of the workers, which would wait for a stop that may never come.
                    watchers.start_soon(self._cancel_listing_on_stop, listing)
                    result = await self._produce(until_drained=until_drained)
                # Only after listing has ended, because the producer may still be sending. Workers end at the end of the
                # queue; the tasks that remain in it are skipped, since ``Admission`` refuses them.
                self._send.close()
            # From here on ``set_workers`` must not start workers in a group that has ended.
            self._pool.close()
            # After the workers, because they hand claims over to recovery until their end; and before ``_finish``,
            # because a claim must not be settled twice at the same time.
            watchers.cancel_scope.cancel()
        return (0, None) if self._stop.is_set() and result[1] is cancelled else result

    async def _produce(self, *, until_drained: bool) -> tuple[int, AlumaAsyncError | None]:
        """Run the producer; return its error instead of raising it, so that tasks in progress are finished first."""
        try:
            if until_drained:
                return await self._producer.run_until_drained(), None
            await self._producer.run()
        except AlumaAsyncError as error:
            return 0, error
        return 0, None

    async def _finish(self) -> None:
        """Remove the copies of exported tasks, and make all records durable."""
        if self._quarantine:
            await self._quarantine.discard_exported()
        await self._cooldown.close()
        await self._flush()

    def _start_worker(self, group: TaskGroup) -> None:
        group.start_soon(run_again_if_cancelled, self._worker_loop)

    async def _worker_loop(self) -> None:
        OTHERS_WAIT.set(self._admission.others_wait)
        while task := await receive_task(self._receive):
            await self._export_task(task)

    async def _export_task(self, task: ExportTask) -> None:
        done = False
        try:
            self._tracker.notify()
            self._exporting += 1
            done = await self._worker.export(task)
        except AlumaAsyncError as error:
            self._admission.blocking_error = error
        finally:
            self._exporting -= 1
            self._tracker.remove(task.id, done=done)
            self._recovery.schedule(task.id)
        if not len(self._tracker):  # no write follows that would include the pending changes
            await self._flush()

    async def _flush(self) -> None:
        with suppress(JournalError):
            await self._journal.flush()

    async def _cancel_listing_on_stop(self, listing: CancelScope) -> None:
        await self._stop.wait()
        self._emit(DrainStarted(self.tasks_in_progress))
        listing.cancel()

    async def _enforce_drain_timeout(self, scope: CancelScope) -> None:
        await self._stop.wait()
        await anyio.sleep(self._drain_timeout)
        scope.cancel()
