"""``FleetSource``: wraps a ``TaskSource``: the nodes of a fleet share listings, and settle no claims of each other.

One node lists for all, and each node takes a part of the tasks. While the store is unavailable, each node lists alone:
its own part, and other tasks when they have been pending for a while. Complete is sent as it is, because files are
durable; Cancel and Fail are sent only for claims that certainly belong to this node.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice

import anyio
from msgspec import Struct

from aluma_async.backlog import Backlog
from aluma_async.clock import loop_time
from aluma_async.exceptions import ClaimConflict, Unavailable
from aluma_async.fleet.link import HEARTBEAT_SECONDS, FleetLink
from aluma_async.fleet.ports import MAX_ROWS, TIMEOUT_SECONDS, TURN_SECONDS, FleetUpdate, ListingInfo, ListingPage
from aluma_async.models import Claim, ExportTask, HoldRecord
from aluma_async.policy.rendezvous import owned_slots, slot_of
from aluma_async.ports import BEFORE_SENDING, TaskSource
from aluma_async.source_wrapper import SourceWrapper

OTHERS_SECONDS = 30.0
"""Seconds for which a task of another node must have been pending before a node takes it without the store."""
_PAGE_ROWS = 1000
_MIN_ROWS = MAX_ROWS // 2  # with fewer rows in the store, the node that has listed publishes more
_MAX_SEEN = 100_000


class SourceHooks(Struct, frozen=True):
    """The parts of the exporter that the source needs."""

    queue_size: Callable[[], int]
    """Returns the number of tasks that a listing may return at most."""
    is_tracked: Callable[[str], bool]
    """Returns whether a task is queued or in progress in this node."""
    merge_holds: Callable[[Sequence[HoldRecord]], Awaitable[None]]
    """Takes over holds of other nodes."""
    poll_now: Callable[[], None]
    """Ends the polling interval, if the exporter waits for it, because there are tasks, or a listing has ended."""
    on_listing: Callable[[ListingInfo], None]
    """Receives the number of all pending tasks and the oldest one, because a node lists only its own part."""


class FleetSource(SourceWrapper):
    """Wraps ``source`` for the node of ``link``; ``nodes`` returns the ids of the nodes that are alive."""

    def __init__(
        self, source: TaskSource, link: FleetLink, nodes: Callable[[], Sequence[str]], hooks: SourceHooks
    ) -> None:
        super().__init__(source)
        self._link = link
        self._nodes = nodes
        self._hooks = hooks
        self._known_listing: int | None = None  # number of the last listing at the end of the last call
        self._is_called = False
        link.listeners.append(self._end_polling_interval)
        self._rest_listing: int | None = None  # number of the listing to which the rest belongs, once it is complete
        self._clear_rest()
        self._seen: dict[str, float] = {}  # tasks of other nodes -> time when they were listed first

    async def list_pending(self) -> AsyncGenerator[Sequence[ExportTask], None]:
        """Yield pending tasks for this node. Each task is recorded as queued by it."""
        link = self._link
        waiting = {task.id for task in link.rows}
        link.records.drop_queued(lambda task_id: task_id in waiting or self._hooks.is_tracked(task_id))
        self._is_called = True
        try:
            async with aclosing(self._list()) as pages:
                async for tasks in pages:
                    yield tasks
        finally:
            self._is_called = False
        if link.update and link.is_connected:
            self._known_listing = link.update.listing.number
            self._hooks.on_listing(link.update.listing)

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task, unless another node has it."""
        if self._link.pop_refused(task.id):
            raise ClaimConflict(f"task {task.id}: another node of the fleet has it")
        return await self._source.start(task)

    async def cancel(self, task: ExportTask) -> None:
        """Cancel the claim of a task, if it belongs to this node."""
        await self._send_as_owner(task, partial(self._source.cancel, task))

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail a claimed task, if the claim belongs to this node."""
        await self._send_as_owner(task, partial(self._source.fail, task, message))

    async def run(self) -> None:
        """Publish the rest of a long listing as the other nodes take its tasks, until cancelled."""
        while True:
            update = await self._link.wait_for_update()
            if self._rest_count and self._rest_listing is not None:
                await self._publish_rest(update)

    async def _send_as_owner(self, task: ExportTask, send: Callable[[], Awaitable[None]]) -> None:
        await self._link.require_ownership(task.id)
        token = BEFORE_SENDING.set(partial(self._check_before_sending, task.id, BEFORE_SENDING.get()))
        try:
            await send()
        finally:
            BEFORE_SENDING.reset(token)

    def _check_before_sending(self, task_id: str, check: Callable[[], object]) -> None:
        """Check the claim again, because the request may have waited for a permit."""
        check()
        if not self._link.owns(task_id):
            raise Unavailable(f"task {task_id}: the request had to wait until another node may have taken the claim")

    def _end_polling_interval(self, update: FleetUpdate, _: float) -> None:
        if self._known_listing is None:  # a listing before the start of this node may be old
            self._known_listing = update.listing.number
        is_news = update.listing.number > self._known_listing or update.rows_left
        if is_news and not self._is_called:
            self._hooks.poll_now()

    # -- listing

    async def _list(self) -> AsyncGenerator[Sequence[ExportTask], None]:
        link, called_at = self._link, loop_time()
        while True:
            update = await self._take_rows()
            if link.rows:
                yield self._pop_rows()
                return
            if update is None and not link.is_connected:
                async with aclosing(self._list_alone()) as pages:
                    async for tasks in pages:
                        yield tasks
                return
            if update:
                listing = update.listing
                if listing.number > (self._known_listing or 0) and not listing.unpublished:
                    return
                waits_for_rest = listing.unpublished and loop_time() < called_at + TURN_SECONDS
                if update.lister in ("", link.node_id) and not waits_for_rest and await self._begin_listing():
                    async with aclosing(self._list_for_all()) as pages:
                        async for tasks in pages:
                            yield tasks
                    return
            await link.wait_for_update(HEARTBEAT_SECONDS)

    async def _take_rows(self) -> FleetUpdate | None:
        """Ask the store for tasks, and take over the holds of other nodes before any of them is classified."""
        link = self._link
        slots = owned_slots(link.node_id, self._nodes())
        missing = self._hooks.queue_size() - len(link.rows)
        update = await link.wait(link.begin_sync(rows=max(0, missing), slots=slots))
        holds, link.started_holds = link.started_holds, []
        if holds:
            await self._hooks.merge_holds(holds)
        return update

    def _pop_rows(self) -> list[ExportTask]:
        tasks = list(self._link.rows)
        self._link.rows.clear()
        return tasks

    async def _begin_listing(self) -> bool:
        return await self._link.attempt(
            self._link.store.begin_listing(self._link.node_id, self._link.scope), otherwise=False
        )

    async def _list_for_all(self) -> AsyncGenerator[Sequence[ExportTask], None]:
        """List, and publish the tasks as they arrive; yield those of this node at the end."""
        link = self._link
        total, oldest, is_first, is_shared, has_ended = 0, None, True, True, False
        self._clear_rest()
        link.is_listing = True
        try:
            async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
                async for tasks in pages:
                    total += len(tasks)
                    dates = [task.created_at for task in tasks if task.created_at is not None]
                    oldest = min(filter(None, (oldest, *dates)), default=None)
                    is_shared = is_shared and await self._publish(tasks, is_first=is_first)
                    is_first = False
                    if not is_shared:  # alone from here on; the next listing contains the earlier tasks
                        yield self._own_part(tasks)
            has_ended = True
        finally:
            link.is_listing = False
            if not has_ended and is_shared:
                with anyio.move_on_after(TIMEOUT_SECONDS, shield=True):
                    await self._publish_page(is_first=is_first, end="failed")
        if is_shared and await self._publish_page(
            is_first=is_first, end="complete", total=total, oldest_created_at=oldest, unpublished=self._rest_count
        ):
            update = await self._take_rows()
            self._rest_listing = update.listing.number if update else -1
            yield self._pop_rows()

    async def _list_alone(self) -> AsyncGenerator[Sequence[ExportTask], None]:
        """List without the store, and yield the part of this node."""
        before, self._seen = self._seen, {}
        async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
            async for tasks in pages:
                yield self._own_part(tasks, before)

    def _own_part(self, tasks: Sequence[ExportTask], before: dict[str, float] | None = None) -> list[ExportTask]:
        """Return the tasks of this node, and those that were listed first some time ago."""
        own, now, part = frozenset(owned_slots(self._link.node_id, self._nodes())), loop_time(), []
        for task in tasks:
            if slot_of(task.id) in own:
                part.append(task)
                continue
            seen_at = (before or self._seen).get(task.id, now)
            if len(self._seen) < _MAX_SEEN:
                self._seen[task.id] = seen_at
            if now - seen_at >= OTHERS_SECONDS:
                part.append(task)
        return part

    # -- publishing

    async def _publish(self, tasks: Sequence[ExportTask], *, is_first: bool) -> bool:
        """Publish listed tasks, or keep them if the store is full; return False if the store does not answer."""
        update = await self._link.wait(self._link.begin_sync())  # this also renews the turn
        if update is None:
            return False
        room = MAX_ROWS
        if not is_first:
            room = 0 if self._rest_count else max(0, MAX_ROWS - update.rows_left)
        rows, rest = tasks[:room], tasks[room:]
        pages = [tuple(rows[start : start + _PAGE_ROWS]) for start in range(0, len(rows), _PAGE_ROWS)]
        for page in pages or [()] * is_first:
            if not await self._publish_page(rows=page, is_first=is_first):
                return False
            is_first = False
        self._backlog.add(rest)
        self._rest_count += len(rest)
        return True

    async def _publish_rest(self, update: FleetUpdate | None) -> None:
        """Publish more of the last listing, if few of its tasks are left; forget it if it is not valid any more."""
        if update is None or update.listing.number != self._rest_listing:
            self._clear_rest()
            return
        room = MAX_ROWS - update.rows_left if update.rows_left < _MIN_ROWS else 0
        while room > 0 and self._rest_count:
            rows = tuple(islice(self._rest, min(room, _PAGE_ROWS)))
            room -= len(rows)
            self._rest_count -= len(rows)
            if not rows or not await self._publish_page(rows=rows, unpublished=self._rest_count):
                self._clear_rest()

    async def _publish_page(self, **fields: object) -> bool:
        page = ListingPage(node_id=self._link.node_id, scope=self._link.scope, **fields)  # type: ignore[arg-type]
        return await self._link.attempt(self._publish_and_confirm(page), otherwise=False)

    async def _publish_and_confirm(self, page: ListingPage) -> bool:
        await self._link.store.publish_listing(page)
        return True

    def _clear_rest(self) -> None:
        self._backlog = Backlog()  # listed tasks for which the store has no room
        self._rest, self._rest_count = self._backlog.drain(), 0
        self._rest_listing = None
