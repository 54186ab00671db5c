"""``Producer``: lists what waits and feeds it into the queue, unclaimed; decides when to list again."""

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from aluma_async.events import ClaimingPaused, ClaimingResumed, ClaimingStillPaused, ListingFailed, TasksListed
from aluma_async.exceptions import AlumaAsyncError, DestinationError, JournalError, SourceError
from aluma_async.models import ExportTask
from aluma_async.pipeline.backlog import Backlog
from aluma_async.pipeline.claim_tracker import Ledger
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.task_tracker import Desk
from aluma_async.policy.backoff import Backoff
from aluma_async.ports import OnEvent, TaskSource, Uniform


class Producer:
    """Lists again at once as long as tasks get exported, else after waits that grow (``polling``)."""

    def __init__(
        self,
        source: TaskSource,
        queue: MemoryObjectSendStream[ExportTask],
        desk: Desk,
        ledger: Ledger,
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
        self._desk = desk
        self._ledger = ledger
        self._cooldown = cooldown
        self._polling = polling
        self._uniform = uniform
        self._on_event = on_event
        self._exported = False
        self._trials = 0  # so many tasks go one by one, after a time in which none could be saved
        self._suspect = ""
        self._suspects_wait = False
        self.trouble: AlumaAsyncError | None = None
        """What concerns all tasks; until it has passed, what is queued is not worth a try."""

    def exported(self) -> None:
        """Take note that a task was exported: there may be more to list, and nothing is in the way any more."""
        self._exported = True
        if self._trials:
            self._trials -= 1
            if not self._trials:
                self._on_event(ClaimingResumed())

    async def run_until_drained(self) -> int:
        """Feed until a listing holds nothing new; return how many tasks were held back. Raises what is in the way."""
        while True:
            busy = len(self._desk)  # a task that is in hand while we list may be back a moment later
            backlog, listed = await self._list()
            if not (listed.admitted or busy):
                return listed.held_back
            await self._feed(backlog)
            await self._desk.until(lambda: not len(self._desk))
            self._raise_trouble()

    async def run(self) -> None:
        """Feed until cancelled. Raises ``SourceError`` if the first listing fails; later ones are made again."""
        idle, begun = 0, False
        while True:
            try:
                await self._ready()
                backlog, _ = await self._list()
                begun = True
                await self._feed(backlog)
                await self._desk.until(self._low_water)
                self._raise_trouble()
            except (SourceError, DestinationError, JournalError) as error:
                if not begun:
                    raise
                idle += 1
                delay = self._polling.delay(idle, self._uniform)
                if isinstance(error, SourceError):
                    self._on_event(ListingFailed(error, delay))
                else:
                    self._on_event(ClaimingStillPaused(error, delay) if self._trials else ClaimingPaused(error))
                    self._exported = False  # what was exported before says nothing of now
                    self._trials = int(self._queue.statistics().max_buffer_size)
                await anyio.sleep(delay)
                continue
            if self._exported:
                self._exported, idle = False, 0
                if self._trials:  # all that was fed is decided, and something went well: no more need be tried
                    self._trials = 0
                    self._on_event(ClaimingResumed())
            else:
                idle += 1
                with anyio.move_on_after(self._polling.delay(idle, self._uniform)):
                    await self._desk.until(self._next_suspect)

    async def _ready(self) -> None:
        """See whether files can be saved again, if they could not. Raises ``DestinationUnavailable``."""
        if isinstance(self.trouble, DestinationError):
            await self._probe()

    def _raise_trouble(self) -> None:
        if self.trouble:
            raise self.trouble

    def _next_suspect(self) -> bool:
        return self._suspects_wait and not self._desk.in_hand(self._suspect)

    def _low_water(self) -> bool:
        queue = self._queue.statistics()
        return queue.current_buffer_used <= queue.max_buffer_size // 2

    async def _list(self) -> tuple[Backlog, TasksListed]:
        backlog, listed, admitted, held_back, parked = Backlog(), 0, 0, 0, 0
        oldest: float | None = None
        suspects: list[tuple[int, ExportTask]] = []
        await self._cooldown.lift()
        async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
            async for tasks in pages:
                new = []
                for task in tasks:
                    if self._desk.has(task.id):
                        pass
                    elif self._ledger.holds(task.id) or await self._cooldown.holds(task.id):
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
        if suspects and not self._desk.in_hand(self._suspect):
            # A crash must say which of them it was: one at a time, and first the one that is suspected least.
            first = min(suspects, key=lambda suspect: suspect[0])
            suspects.remove(first)
            self._suspect = first[1].id
            backlog.add([first[1]])
            admitted += 1
        self._suspects_wait = bool(suspects)
        held_back += len(suspects)
        self.trouble = None
        event = TasksListed(listed, admitted, held_back, oldest, parked)
        self._on_event(event)
        return backlog, event

    async def _feed(self, backlog: Backlog) -> None:
        for task in backlog.drain():
            if self.trouble:
                break
            # Looked at again: a listing may hold a task twice, and much may have happened since.
            held = self._desk.has(task.id) or self._ledger.holds(task.id)
            if not held and not await self._cooldown.holds(task.id):
                self._desk.take(task.id)
                await self._enqueue(task)
                if self._trials:  # one task shows whether it goes again; a whole queue would fail with it
                    await self._desk.until(lambda: not len(self._desk))

    async def _enqueue(self, task: ExportTask) -> None:
        """Put a task into the queue. A full one is filled up again when it is half empty: one wait for many tasks."""
        try:
            self._queue.send_nowait(task)
        except anyio.WouldBlock:
            await self._desk.until(self._low_water)
            await self._queue.send(task)
