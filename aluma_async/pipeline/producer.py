"""``Producer``: lists what waits and feeds it into the queue, unclaimed; decides when to list again."""

from contextlib import aclosing

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from aluma_async.events import ListingFailed, QueueListed
from aluma_async.exceptions import SourceError
from aluma_async.models import ExportTask
from aluma_async.pipeline.backlog import Backlog
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.desk import Desk
from aluma_async.policy.retry import Patience
from aluma_async.ports import OnEvent, TaskSource, Uniform


class Producer:
    """Lists again at once as long as tasks get exported, else after waits that grow (``polling``)."""

    def __init__(
        self,
        source: TaskSource,
        queue: MemoryObjectSendStream[ExportTask],
        desk: Desk,
        cooldown: Cooldown,
        *,
        polling: Patience,
        uniform: Uniform,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._queue = queue
        self._desk = desk
        self._cooldown = cooldown
        self._polling = polling
        self._uniform = uniform
        self._on_event = on_event
        self._exported = False
        self.trouble: SourceError | None = None
        """Why Aluma cannot be asked for tasks; until a listing succeeds, what is queued is not worth a try."""

    def exported(self) -> None:
        """Take note that a task was exported: there may be more to list."""
        self._exported = True

    async def run_until_drained(self) -> int:
        """Feed until a listing holds nothing new; return how many tasks were cooling down. Raises ``SourceError``."""
        while True:
            backlog, listed = await self._list()
            if not listed.admitted:
                return listed.held_back
            await self._feed(backlog)
            await self._desk.until(lambda: not len(self._desk))
            self._raise_trouble()

    async def run(self) -> None:
        """Feed until cancelled. Raises ``SourceError`` if the first listing fails; later ones are made again."""
        idle, begun = 0, False
        while True:
            self._exported = False
            try:
                backlog, _ = await self._list()
                begun = True
                await self._feed(backlog)
                await self._desk.until(self._low_water)
                self._raise_trouble()
            except SourceError as error:
                if not begun:
                    raise
                idle += 1
                delay = self._polling.delay(idle, self._uniform)
                self._on_event(ListingFailed(error, delay))
                await anyio.sleep(delay)
                continue
            if self._exported:
                idle = 0
            else:
                idle += 1
                await anyio.sleep(self._polling.delay(idle, self._uniform))

    def _raise_trouble(self) -> None:
        if self.trouble:
            raise self.trouble

    def _low_water(self) -> bool:
        queue = self._queue.statistics()
        return queue.current_buffer_used <= queue.max_buffer_size // 2

    async def _list(self) -> tuple[Backlog, QueueListed]:
        backlog, listed, admitted, held_back = Backlog(), 0, 0, 0
        oldest: float | None = None
        async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
            async for tasks in pages:
                cooling = {task.id for task in tasks if await self._cooldown.holds(task.id)}
                new = [task for task in tasks if task.id not in cooling and not self._desk.has(task.id)]
                backlog.add(new)
                listed += len(tasks)
                admitted += len(new)
                held_back += len(cooling)
                dates = [task.created_at for task in tasks if task.created_at is not None]
                oldest = min(filter(None, (oldest, *dates)), default=None)
        self.trouble = None
        event = QueueListed(listed, admitted, held_back, oldest)
        self._on_event(event)
        return backlog, event

    async def _feed(self, backlog: Backlog) -> None:
        for task in backlog.drain():
            if self.trouble:
                break
            # Looked at again: a listing may hold a task twice, and much may have happened since.
            if not self._desk.has(task.id) and not await self._cooldown.holds(task.id):
                self._desk.take(task.id)
                await self._queue.send(task)
