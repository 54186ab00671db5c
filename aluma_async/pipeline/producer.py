"""``Producer``: lists pending tasks and feeds them into the queue, unclaimed; decides when to list again."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from aluma_async.backlog import Backlog
from aluma_async.clock import loop_time
from aluma_async.events import ListingFailed, TasksListed
from aluma_async.exceptions import (
    AlumaAsyncError,
    DestinationError,
    JournalError,
    JournalLost,
    RequestRejected,
    SourceError,
)
from aluma_async.models import ExportTask
from aluma_async.pipeline.admission import Admission, Classification
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.gone_tasks import MAX_FINAL_LOOKUPS, GoneTasks
from aluma_async.pipeline.listed_projects import ListedProjects
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.policy.backoff import Backoff
from aluma_async.ports import OnEvent, TaskSource, Uniform

MAX_REJECTIONS = 3
"""Number of pauses in a row after rejected requests, with which a run until drained ends."""


class SharedListing(NamedTuple):
    """The last listing of several exporters that share the pending tasks."""

    total: int | None
    """Number of pending tasks; None: each exporter counts its own part."""
    oldest_created_at: float | None
    """Creation time of the oldest task, in seconds since 1970."""


class Producer:
    """Lists again at once while tasks are being completed, otherwise after growing delays (``polling``)."""

    def __init__(
        self,
        source: TaskSource,
        queue: MemoryObjectSendStream[ExportTask],
        admission: Admission,
        tracker: TaskTracker,
        cooldown: Cooldown,
        claims: ClaimTracker,
        *,
        probe: Callable[[], Awaitable[None]],
        polling: Backoff,
        uniform: Uniform,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._queue = queue
        self._admission = admission
        self._tracker = tracker
        self._cooldown = cooldown
        self._probe = probe
        self._polling = polling
        self._uniform = uniform
        self._on_event = on_event
        self._projects = ListedProjects()
        self.gone = GoneTasks(source, cooldown, tracker, claims, on_event)
        """Reports the tasks on hold that Aluma has deleted."""
        self._must_poll = False
        self._shared: SharedListing | None = None
        self._listed: set[str] = set()  # tasks of the last listing that had failed before

    async def run_until_drained(self) -> int:
        """Feed until a listing contains nothing new; return the number of tasks on hold.

        Raises the blocking error; a rejected request only if it is rejected again after pauses.
        """
        admission = self._admission
        rejections = 0
        while True:
            busy = len(self._tracker)  # counted before listing: a task in progress may be pending again a moment later
            completed = admission.completed
            backlog, listed = await self._list()
            if not (listed.admitted or busy):
                await self.gone.report(self._listed, MAX_FINAL_LOOKUPS)
                return listed.held_back
            await self._feed(backlog)
            await self._tracker.wait_until(lambda: not len(self._tracker))
            if admission.completed > completed:
                rejections = 0
            if isinstance(admission.blocking_error, RequestRejected) and rejections < MAX_REJECTIONS:
                rejections += 1
                delay = self._polling.delay(rejections, self._uniform)
                admission.pause(admission.blocking_error, delay)
                await anyio.sleep(delay)
            else:
                self._raise_if_blocked()

    async def run(self) -> None:
        """Feed until cancelled. Raises ``SourceError`` if the first listing fails; later listings are retried.

        Raises ``JournalLost`` at any time.
        """
        admission = self._admission
        idle, completed, has_listed = 0, 0, False
        while True:
            try:
                await self._check_blocked()
                backlog, listed = await self._list()
                has_listed = True
                await self.gone.report(self._listed)
                if not listed.listed:
                    admission.resume()
                await self._feed(backlog)
                await self._tracker.wait_until(self._queue_has_room)
                self._raise_if_blocked()
            except (SourceError, DestinationError, JournalError) as error:
                if not has_listed or isinstance(error, JournalLost):
                    raise
                idle += 1
                delay = self._polling.delay(idle, self._uniform)
                if isinstance(error, SourceError) and not self._is_rejection(error):
                    self._on_event(ListingFailed(error, delay))
                else:
                    admission.pause(error, delay)
                    completed = admission.completed  # tasks completed before the error do not show that it has passed
                await anyio.sleep(delay)
                if not isinstance(error, DestinationError):  # which a probe will end
                    admission.blocking_error = None
                continue
            if admission.completed > completed:
                completed, idle = admission.completed, 0
                admission.resume()
            else:
                idle += 1
                with anyio.move_on_after(self._polling.delay(idle, self._uniform)):
                    await self._tracker.wait_until(self._ends_polling_wait)

    def poll_now(self) -> None:
        """End the wait for the next listing, because another exporter has listed tasks."""
        self._must_poll = True
        self._tracker.notify()

    def show_listing(self, listing: SharedListing) -> None:
        """Report a listing that several exporters share, instead of the part of this one."""
        self._shared = listing

    def _ends_polling_wait(self) -> bool:
        return self._must_poll or self._admission.may_try_next_suspect()

    async def _check_blocked(self) -> None:
        """Check whether files can be saved again, if they could not; raise any other error that came while waiting."""
        if isinstance(self._admission.blocking_error, DestinationError):
            await self._probe()
        else:
            self._raise_if_blocked()

    def _is_rejection(self, error: AlumaAsyncError) -> bool:
        """Return whether a request of a worker was rejected, instead of the listing."""
        return isinstance(error, RequestRejected) and error is self._admission.blocking_error

    def _raise_if_blocked(self) -> None:
        if self._admission.blocking_error:
            raise self._admission.blocking_error

    def _queue_has_room(self) -> bool:
        queue = self._queue.statistics()
        return queue.current_buffer_used <= queue.max_buffer_size // 2

    async def _list(self) -> tuple[Backlog, TasksListed]:
        backlog, listed, admitted, on_hold, parked = Backlog(), 0, 0, 0, 0
        oldest: float | None = None
        parked_dates: list[float] = []
        suspects: list[tuple[int, ExportTask]] = []
        failed_before: list[ExportTask] = []
        queued: list[ExportTask] = []
        self._listed = held = set()
        self._must_poll = False
        projects = ListedProjects()
        await self._cooldown.apply_releases()
        async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
            async for tasks in pages:
                new = []
                for task in tasks:
                    entry = await self._cooldown.get(task.id)
                    if entry.failures or entry.crashes:
                        held.add(task.id)
                    match self._admission.classify(task, entry):
                        case Classification.ADMIT if entry.failures:
                            failed_before.append(task)
                        case Classification.ADMIT:
                            new.append(task)
                        case Classification.IN_PROGRESS:
                            queued.append(task)
                        case Classification.CRASH_SUSPECT:
                            suspects.append((entry.crashes, task))
                        case Classification.ON_HOLD:
                            on_hold += 1
                        case Classification.PARKED:
                            on_hold += 1
                            parked += 1
                            if task.created_at is not None:
                                parked_dates.append(task.created_at)
                if self._admission.newest_first:
                    backlog.add(new[::-1], first=True)
                else:
                    backlog.add(new)
                projects.add(tasks)
                listed += len(tasks)
                admitted += len(new)
                dates = [task.created_at for task in tasks if task.created_at is not None]
                oldest = min(filter(None, (oldest, *dates)), default=None)
        # Last, so that the first trial after a pause is a task that can succeed.
        backlog.add(failed_before)
        admitted += len(failed_before)
        if suspect := self._admission.pick_suspect(suspects):
            backlog.add([suspect])
            admitted += 1
        on_hold += len(suspects) - bool(suspect)
        if shared := self._shared:  # its rows are only the tasks for this exporter that are not on hold
            oldest, listed = shared.oldest_created_at, listed if shared.total is None else shared.total
            on_hold, parked = await self._cooldown.count_active(of_others=shared.total is not None)
        projects.end()
        self._projects = projects
        self._admission.relist(map(projects.certain, queued))
        self._admission.blocking_error = None
        event = TasksListed(listed, admitted, on_hold, oldest, parked, min(parked_dates, default=None))
        self._on_event(event)
        return backlog, event

    async def _feed(self, backlog: Backlog) -> None:
        rejections = self._admission.rejections
        for task in backlog.drain():
            if self._admission.blocking_error:
                break
            task = self._projects.certain(task)
            # Classified again: a listing may contain a task twice, and much may have changed since.
            entry = await self._cooldown.get(task.id)
            if self._admission.classify(task, entry) in (Classification.ADMIT, Classification.CRASH_SUSPECT):
                if rejections.held and not rejections.begin_trial(task.project_id, loop_time()):
                    continue
                if entry.needs_copy:
                    self._admission.copy_only.add(task.id)
                else:
                    self._admission.copy_only.discard(task.id)
                self._tracker.add(task.id)
                await self._enqueue(task)
                if self._admission.canary_tasks_left:  # one task at a time, so that a further error costs only one
                    await self._tracker.wait_until(lambda: not len(self._tracker))

    async def _enqueue(self, task: ExportTask) -> None:
        """Put a task into the queue; wait until a full queue is half empty, so that many tasks share one wait."""
        try:
            self._queue.send_nowait(task)
        except anyio.WouldBlock:
            await self._tracker.wait_until(self._queue_has_room)
            await self._queue.send(task)


async def receive_task(queue: MemoryObjectReceiveStream[ExportTask]) -> ExportTask | None:
    """Return the next task, or None at the end; without a turn of the event loop if a task is already queued."""
    with suppress(anyio.EndOfStream):
        try:
            return queue.receive_nowait()
        except anyio.WouldBlock:
            return await queue.receive()
    return None
