"""``FleetLink``: the connection of one node to its fleet's store.

One task sends all reports: one a second, and at once when a caller waits for it. Changes that arrive during a call
travel in the next one. After a failed call the node is disconnected: it tries again each second, and no caller waits.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import anyio

from aluma_async.clock import loop_time
from aluma_async.exceptions import ClaimConflict, FleetStoreError, Unavailable
from aluma_async.fleet.identity import Identity
from aluma_async.fleet.ownership import DOUBT_SECONDS
from aluma_async.fleet.ports import (
    INTENDED,
    TIMEOUT_SECONDS,
    FleetStore,
    FleetUpdate,
    NodeReport,
    RecordState,
)
from aluma_async.fleet.records import Changes, NodeRecords
from aluma_async.models import ClaimRecord, ExportTask, HoldRecord, Timestamp
from aluma_async.ports import Clock

T = TypeVar("T")

HEARTBEAT_SECONDS = 1.0
"""Seconds between two reports, and between two attempts while the store is unavailable."""
FULL_REPORT_SECONDS = 5.0
"""Seconds between two reports of all records."""
_PROOF_SECONDS = DOUBT_SECONDS + 2 * HEARTBEAT_SECONDS
_GUARD_SECONDS = TIMEOUT_SECONDS + 0.25  # the store answers earlier; without heartbeats the node would seem dead


class Round:
    """One report, and the callers that wait for its update."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.update: FleetUpdate | None = None
        """The update; None if the store did not answer."""


class FleetLink:
    """The connection of a node.

    Args:
        store: The store of the fleet.
        identity: The id of the node; after its claims were taken over, it continues under another one.
        claim_timeout: Length of Aluma's lease in seconds.
        clock: Returns the time, including suspension of the machine.
        scope: Names the filters of the node's listings.
    """

    def __init__(
        self, store: FleetStore, identity: Identity, *, claim_timeout: float, clock: Clock, scope: str = ""
    ) -> None:
        self.node_id = identity.node_id
        self.records = NodeRecords(claim_timeout, clock)
        self.scope = scope
        self.is_connected = False
        """Whether the last report was applied."""
        self.update: FleetUpdate | None = None
        """The last update, also while disconnected."""
        self.is_listing = False
        """Whether this node is listing for all nodes."""
        self.rows: deque[ExportTask] = deque()
        """Tasks that the store has given to this node; the receiver removes them."""
        self.started_holds: list[HoldRecord] = []
        """Holds of other nodes; the receiver removes them."""
        self.ended_holds: list[str] = []
        """Tasks whose hold another node has ended; the receiver removes them."""
        self.reporters: list[Callable[[], Mapping[str, Any]]] = []
        """Each returns further fields of a report."""
        self.listeners: list[Callable[[FleetUpdate, float], None]] = []
        """Called with each update, and the event loop's time when its report was sent."""
        self.store = store
        self._identity = identity
        self._clock = clock
        self._loaded: frozenset[str] = frozenset()
        self._refused: set[str] = set()
        self._is_loaded = anyio.Event()
        self._sequence = self._acknowledged = self._revision = self._min_position = 0
        self._epoch = ""
        self._has_failed = False
        self._needs_full = True
        self._sent_at = self._full_at = float("-inf")
        self._wanted_rows, self._slots = 0, ()  # type: tuple[int, tuple[int, ...]]
        self._next = Round()
        self._wakeup = anyio.Event()
        self._subscription = anyio.CancelScope()

    def load(self, claims: Sequence[ClaimRecord]) -> None:
        """Take over the claims of an earlier process, whose folder is locked. Call it once, before any report."""
        self._identity.store()
        self._loaded = self.records.load(claims)
        self._is_loaded.set()

    def pop_refused(self, task_id: str) -> bool:
        """Return, once, whether another node has a task that this node is about to start."""
        is_refused = task_id in self._refused
        self._refused.discard(task_id)
        return is_refused

    # -- ownership

    async def require_ownership(self, task_id: str) -> None:
        """Wait until a claim certainly belongs to this node.

        Raises ``ClaimConflict`` if it belongs to another node, ``Unavailable`` if the store does not answer.
        """
        give_up_at = loop_time() + _PROOF_SECONDS
        while not self.owns(task_id):
            if self._has_failed or loop_time() >= give_up_at:
                raise Unavailable(f"task {task_id}: the store of the fleet does not confirm that the claim is valid")
            if self.records.ownership.is_doubtful(task_id):
                await self.wait(self._next)
            else:
                await self.wait(self.begin_sync())

    def owns(self, task_id: str) -> bool:
        """Return whether a claim certainly belongs to this node now. Raises ``ClaimConflict`` if it does not."""
        if task_id in self.records.ownership.lost:
            raise ClaimConflict(f"task {task_id}: another node of the fleet has the claim")
        return self.records.ownership.is_proven(task_id, self._clock())

    # -- reports

    def begin_sync(self, *, rows: int = 0, slots: tuple[int, ...] = ()) -> Round:
        """Ask for a report at once.

        Args:
            rows: Number of tasks that this node can queue.
            slots: The slots of this node.
        """
        if rows:
            self._wanted_rows, self._slots = rows, slots
        self._wakeup.set()
        return self._next

    async def wait(self, current: Round, within: float = float("inf")) -> FleetUpdate | None:
        """Wait until a report has ended, for some seconds at most, and not at all while the store is unavailable.

        Return its update, if there is one.
        """
        if not self._has_failed:
            with anyio.move_on_after(within):
                await current.ended.wait()
        return current.update

    async def wait_for_update(self, within: float = float("inf")) -> FleetUpdate | None:
        """Wait until the next report has ended, or some seconds have passed; return its update, if there is one."""
        current = self._next
        with anyio.move_on_after(within):
            await current.ended.wait()
        return current.update

    async def attempt(self, call: Awaitable[T], otherwise: T) -> T:
        """Return the result of another call to the store; ``otherwise`` if it fails, and the node is disconnected."""
        try:
            return await call
        except FleetStoreError:
            self._disconnect()
            return otherwise

    async def run(self) -> None:
        """Report until cancelled; then report once more that the node leaves."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._receive_notices)
                await self._is_loaded.wait()
                while True:
                    await self._send()
                    with anyio.move_on_at(self._sent_at + HEARTBEAT_SECONDS):
                        await (anyio.sleep_forever() if self._has_failed else self._wakeup.wait())
        finally:
            with anyio.move_on_after(TIMEOUT_SECONDS, shield=True):
                if self.is_connected:
                    self.records.drop_queued(lambda _: False)
                    self._needs_full = True
                    await self._send(leaving=True)

    async def _receive_notices(self) -> None:
        while True:
            with anyio.CancelScope() as self._subscription:
                try:
                    async with self.store.subscribe(self.node_id) as notices:
                        async for _ in notices:
                            self.begin_sync()
                except FleetStoreError:
                    pass
                await anyio.sleep(HEARTBEAT_SECONDS)

    async def _send(self, *, leaving: bool = False) -> None:
        """Send one report, and apply its update."""
        current, self._next = self._next, Round()
        self._wakeup = anyio.Event()
        sent_at, self._sent_at = self._clock(), loop_time()
        full = self._needs_full or self._sent_at - self._full_at >= FULL_REPORT_SECONDS
        changes = self.records.pop_changes(full=full)
        report = self._report(changes, full=full, leaving=leaving)
        update: FleetUpdate | None = None
        try:
            with anyio.fail_after(_GUARD_SECONDS):
                update = await self.store.sync(report)
        except (FleetStoreError, TimeoutError):
            self._disconnect()
        finally:
            if update is None:
                self.records.restore(changes)
            elif update.taken_over:
                self._restart_as_another_node()
            elif self._accept(report, update, sent_at):
                self.records.confirm(changes)
                current.update = update
            current.ended.set()

    def _report(self, changes: Changes, *, full: bool, leaving: bool) -> NodeReport:
        rows, self._wanted_rows = 0 if self._needs_full else self._wanted_rows, 0
        self._sequence += 1
        fields: dict[str, Any] = {}
        for reporter in self.reporters:
            fields |= reporter()
        return NodeReport(
            node_id=self.node_id,
            sequence=self._sequence,
            claims=changes.claims,
            holds=changes.holds,
            full=full,
            revision=self._revision,
            predecessors=self._identity.predecessors,
            leaving=leaving,
            scope=self.scope,
            rows=rows,
            slots=self._slots if rows else (),
            min_position=self._min_position,
            is_listing=self.is_listing,
            **fields,
        )

    def _accept(self, report: NodeReport, update: FleetUpdate, sent_at: Timestamp) -> bool:
        """Apply an update; return False if the report was ignored."""
        if update.stored_sequence >= report.sequence:
            self._disconnect()
            return False
        lost_data = update.epoch != self._epoch or update.stored_sequence < self._acknowledged
        is_proven = update.predecessor == "moved"
        self.records.ownership.confirm(sent_at, self._sent_at, lost_data=lost_data and not is_proven)
        self._identity.confirm()
        if update.predecessor == "taken":
            self._lose(self._loaded)
        self.records.ownership.lose(update.contested)
        if report.full:
            self._needs_full, self._full_at = False, self._sent_at
        if lost_data:
            self.records.resend_holds()
            if not report.full:
                self._needs_full = True
                self._wakeup.set()
        if self._has_failed or (lost_data and self._epoch):
            self._min_position = update.next_position
            self._drop_rows()
            self.records.drop(task.id for task in update.rows)
        else:
            self.records.put_queued(task.id for task in update.rows)
            self.rows.extend(update.rows)
        self._epoch, self._acknowledged, self._revision = update.epoch, report.sequence, update.revision
        self.is_connected, self._has_failed = True, False
        self._refuse(update.refused)
        started, ended = self.records.receive_holds(update.holds)
        self.started_holds += started
        self.ended_holds += ended
        self.update = update
        for listener in self.listeners:
            listener(update, self._sent_at)
        return True

    def _refuse(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            state = self.records.state(task_id)
            if state in INTENDED:
                self.records.forget([task_id])
            if state is RecordState.STARTING:
                self._refused.add(task_id)

    def _lose(self, task_ids: frozenset[str]) -> None:
        """Leave claims to the node that has taken them over."""
        self.records.ownership.lose(task_ids)
        self.records.forget(task_ids)

    def _restart_as_another_node(self) -> None:
        """Continue under another id, because the claims of this one belong to the node that has taken them over."""
        self._drop_rows()
        self._lose(frozenset(self.records.ownership.shared))
        self.node_id = self._identity.renew()
        self._sequence = self._acknowledged = 0
        self._needs_full = True
        self._wakeup.set()
        self._subscription.cancel()

    def _disconnect(self) -> None:
        self.is_connected, self._has_failed = False, True
        self._needs_full = True
        self.records.ownership.disconnect()
        self._drop_rows()
        waiting, self._next = self._next, Round()
        waiting.ended.set()

    def _drop_rows(self) -> None:
        """Drop tasks that were published before a failure, because another node may have started them since."""
        self.records.drop(task.id for task in self.rows)
        self.rows.clear()
