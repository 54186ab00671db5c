"""``Producer``: lists what waits and feeds it into the queue, unclaimed; decides when to list again."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from aluma_async.events import ClaimingPaused, ClaimingResumed, ClaimingStillPaused, ListingFailed, TasksListed
from aluma_async.exceptions import AlumaAsyncError, DestinationError, JournalError, SourceError
from aluma_async.models import ExportTask
from aluma_async.pipeline.backlog import Backlog
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.policy.backoff import Backoff
from aluma_async.ports import OnEvent, TaskSource, Uniform


class Producer:
    """Lists again at once as long as tasks get exported, else after waits that grow (``polling``)."""

    def __init__(
        self,
        source: TaskSource,
        queue: MemoryObjectSendStream[ExportTask],
        tracker: TaskTracker,
        claims: ClaimTracker,
        cooldown: Cooldown,
        *,
        probe: Callable[[], Awaitable[None]],
        polling: Backoff,
        uniform: Uniform,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._probe = probe
        self._queue = queue
        self._tracker = tracker
        self._claims = claims
        self._cooldown = cooldown
        self._polling = polling
        self._uniform = uniform
        self._on_event = on_event
        self._exported = False
        self._canary_tasks_left = 0  # so many tasks go one by one, after a time in which none could be saved
        self._crash_suspect = ""
        self._suspects_pending = False
        self.blocking_error: AlumaAsyncError | None = None
        """What concerns all tasks; until it has passed, what is queued is not worth a try."""

    def on_task_completed(self) -> None:
        """Take note that a task was exported: there may be more to list, and nothing is in the way any more."""
        self._exported = True
        if self._canary_tasks_left:
            self._canary_tasks_left -= 1
            if not self._canary_tasks_left:
                self._on_event(ClaimingResumed())

    async def run_until_drained(self) -> int:
        """Feed until a listing holds nothing new; return how many tasks were held back. Raises what is in the way."""
        while True:
            busy = len(self._tracker)  # a task that is in hand while we list may be back a moment later
            backlog, listed = await self._list()
            if not (listed.admitted or busy):
                return listed.held_back
            await self._feed(backlog)
            await self._tracker.wait_until(lambda: not len(self._tracker))
            self._raise_if_blocked()

    async def run(self) -> None:
        """Feed until cancelled. Raises ``SourceError`` if the first listing fails; later ones are made again."""
        idle, begun = 0, False
        while True:
            try:
                await self._probe_if_blocked()
                backlog, _ = await self._list()
                begun = True
                await self._feed(backlog)
                await self._tracker.wait_until(self._queue_has_room)
                self._raise_if_blocked()
            except (SourceError, DestinationError, JournalError) as error:
                if not begun:
                    raise
                idle += 1
                delay = self._polling.delay(idle, self._uniform)
                if isinstance(error, SourceError):
                    self._on_event(ListingFailed(error, delay))
                else:
                    self._on_event(
                        ClaimingStillPaused(error, delay) if self._canary_tasks_left else ClaimingPaused(error)
                    )
                    self._exported = False  # what was exported before says nothing of now
                    self._canary_tasks_left = int(self._queue.statistics().max_buffer_size)
                await anyio.sleep(delay)
                continue
            if self._exported:
                self._exported, idle = False, 0
                if (
                    self._canary_tasks_left
                ):  # all that was fed is decided, and something went well: no more need be tried
                    self._canary_tasks_left = 0
                    self._on_event(ClaimingResumed())
            else:
                idle += 1
                with anyio.move_on_after(self._polling.delay(idle, self._uniform)):
                    await self._tracker.wait_until(self._may_try_next_suspect)

    async def _probe_if_blocked(self) -> None:
        """See whether files can be saved again, if they could not. Raises ``DestinationUnavailable``."""
        if isinstance(self.blocking_error, DestinationError):
            await self._probe()

    def _raise_if_blocked(self) -> None:
        if self.blocking_error:
            raise self.blocking_error

    def _may_try_next_suspect(self) -> bool:
        return self._suspects_pending and self._crash_suspect not in self._tracker

    def _queue_has_room(self) -> bool:
        queue = self._queue.statistics()
        return queue.current_buffer_used <= queue.max_buffer_size // 2

    async def _list(self) -> tuple[Backlog, TasksListed]:
        backlog, listed, admitted, held_back, parked = Backlog(), 0, 0, 0, 0
        oldest: float | None = None
        suspects: list[tuple[int, ExportTask]] = []
        await self._cooldown.apply_releases()
        async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
            async for tasks in pages:
                new = []
                for task in tasks:
                    if self._tracker.blocks(task.id):
                        pass
                    elif self._claims.may_hold_claim(task.id) or await self._cooldown.holds(task.id):
                        held_back += 1
                        parked += await self._cooldown.parked(task.id)
                    elif crashes := await self._cooldown.suspects(task.id):
                        suspects.append((crashes, task))
                    else:
                        new.append(task)
                backlog.add(new)
                listed += len(tasks)
                admitted += len(new)
                dates = [task.created_at for task in tasks if task.created_at is not None]
                oldest = min(filter(None, (oldest, *dates)), default=None)
        if suspects and self._crash_suspect not in self._tracker:
            # A crash must say which of them it was: one at a time, and first the one that is suspected least.
            first = min(suspects, key=lambda suspect: suspect[0])
            suspects.remove(first)
            self._crash_suspect = first[1].id
            backlog.add([first[1]])
            admitted += 1
        self._suspects_pending = bool(suspects)
        held_back += len(suspects)
        self.blocking_error = None
        event = TasksListed(listed, admitted, held_back, oldest, parked)
        self._on_event(event)
        return backlog, event

    async def _feed(self, backlog: Backlog) -> None:
        for task in backlog.drain():
            if self.blocking_error:
                break
            # Looked at again: a listing may hold a task twice, and much may have happened since.
            held = self._tracker.blocks(task.id) or self._claims.may_hold_claim(task.id)
            if not held and not await self._cooldown.holds(task.id):
                self._tracker.add(task.id)
                await self._enqueue(task)
                if self._canary_tasks_left:  # one task shows whether it goes again; a whole queue would fail with it
                    await self._tracker.wait_until(lambda: not len(self._tracker))

    async def _enqueue(self, task: ExportTask) -> None:
        """Put a task into the queue. A full one is filled up again when it is half empty: one wait for many tasks."""
        try:
            self._queue.send_nowait(task)
        except anyio.WouldBlock:
            await self._tracker.wait_until(self._queue_has_room)
            await self._queue.send(task)
