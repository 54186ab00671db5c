"""``SimulatedFleetStore``: a store of a fleet in memory, in the time of the event loop, that can fail on demand."""

import sqlite3
from asyncio import get_running_loop
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from aluma_async import sqlite_file
from aluma_async.clock import loop_time
from aluma_async.exceptions import FleetStoreError
from aluma_async.fleet.ports import (
    TIMEOUT_SECONDS,
    FleetClaim,
    FleetUpdate,
    FleetView,
    ListingPage,
    NodeReport,
    Notice,
    NoticeKind,
)
from aluma_async.fleet.stores.tables import FleetTables
from aluma_async.policy.liveness import NodeSnapshot

T = TypeVar("T")

_ADMINISTRATOR = ""  # the caller of methods that have no node


class SimulatedFleetStore:
    """A ``FleetStore`` that several nodes of one event loop use.

    Set the attributes at any time; they apply to calls that begin later.
    """

    def __init__(self) -> None:
        self.unavailable = False
        """Whether every call fails at once."""
        self.cut_off: set[str] = set()
        """Ids of the nodes whose calls are not answered. Their subscriptions stay open: see ``disconnect``."""
        self.request_delay = self.reply_delay = 0.0
        """Seconds that a request and its reply travel. A call fails after one second; its request arrives anyway."""
        self.loses_notices = False
        """Whether no notice arrives."""
        self.skew = 0.0
        """Seconds by which the store's clock differs from that of the event loop."""
        self.calls = 0
        """Number of calls that have reached the store."""
        self._subscribers: dict[str, MemoryObjectSendStream[Notice]] = {}
        self._notices = 0
        self._open(None)

    def save(self) -> bytes:
        """Return the content, for ``restart`` and ``lose_writes``."""
        return self._database.serialize()

    def restart(self, content: bytes | None = None) -> None:
        """Restart the server with an earlier content, or empty. All subscriptions end."""
        self._open(content)
        for node_id in list(self._subscribers):
            self.disconnect(node_id)

    def lose_writes(self, content: bytes) -> None:
        """Replace the content by an earlier one, as a failover to a replica that lags does."""
        self._open(content)

    def disconnect(self, node_id: str) -> None:
        """End the subscription of a node, as the end of its process or a reset connection does."""
        if stream := self._subscribers.pop(node_id, None):
            stream.close()

    async def sync(self, report: NodeReport) -> FleetUpdate:
        def step() -> FleetUpdate:
            update, notices = self._tables.sync(report, self._now())
            self._notify(notices, report.node_id)
            return update

        return await self._call(report.node_id, step)

    async def begin_listing(self, node_id: str, scope: str = "") -> bool:
        return await self._call(node_id, lambda: self._tables.begin_listing(node_id, scope, self._now()))

    async def publish_listing(self, page: ListingPage) -> None:
        def step() -> None:
            self._notify(self._tables.publish_listing(page, self._now()), page.node_id)

        await self._call(page.node_id, step)

    async def take_over(self, node_id: str, dead: NodeSnapshot) -> Sequence[FleetClaim]:
        return await self._call(node_id, lambda: self._tables.take_over(node_id, dead, self._now()))

    async def release_holds(self, task_ids: Sequence[str]) -> None:
        def step() -> None:
            self._notify(self._tables.release_holds(task_ids, self._now()), _ADMINISTRATOR)

        await self._call(_ADMINISTRATOR, step)

    async def inspect(self) -> FleetView:
        return await self._call(_ADMINISTRATOR, lambda: self._tables.inspect(self._now()))

    @asynccontextmanager
    async def subscribe(self, node_id: str) -> AsyncIterator[AsyncIterator[Notice]]:
        await self._call(node_id, lambda: None)
        send: MemoryObjectSendStream[Notice]
        receive: MemoryObjectReceiveStream[Notice]
        send, receive = anyio.create_memory_object_stream(16)
        self._subscribers[node_id] = send
        with send, receive:
            try:
                yield receive
            finally:
                if self._subscribers.get(node_id) is send:
                    del self._subscribers[node_id]

    def _open(self, content: bytes | None) -> None:
        self._database = sqlite_file.connect(":memory:", (), timeout=0)
        if content:
            self._database.deserialize(content)
        self._tables = FleetTables(self._database, self._subscribers.__contains__)

    def _now(self) -> float:
        return loop_time() + self.skew

    async def _call(self, node_id: str, step: Callable[[], T]) -> T:
        if self.unavailable:
            await anyio.lowlevel.checkpoint()
            raise FleetStoreError("simulated store: not available")
        if node_id in self.cut_off:
            await anyio.sleep(TIMEOUT_SECONDS)
            raise FleetStoreError("simulated store: no answer")
        if self.request_delay >= TIMEOUT_SECONDS:
            get_running_loop().call_later(self.request_delay, self._execute, step)
            await anyio.sleep(TIMEOUT_SECONDS)
            raise FleetStoreError("simulated store: no answer; the request arrives later")
        await anyio.sleep(self.request_delay)
        result = self._execute(step)
        await anyio.sleep(min(self.reply_delay, TIMEOUT_SECONDS - self.request_delay))
        if self.request_delay + self.reply_delay > TIMEOUT_SECONDS:
            raise FleetStoreError("simulated store: no answer; the request was executed")
        return result

    def _execute(self, step: Callable[[], T]) -> T:
        self.calls += 1
        try:
            return step()
        except sqlite3.Error as error:
            raise FleetStoreError(f"simulated store: {error}") from error

    def _notify(self, notices: Sequence[NoticeKind], sender: str) -> None:
        for kind in () if self.loses_notices else notices:
            self._notices += 1
            for node_id, stream in self._subscribers.items():
                if node_id != sender:
                    with suppress(anyio.WouldBlock, anyio.BrokenResourceError):
                        stream.send_nowait(Notice(kind, self._notices))
