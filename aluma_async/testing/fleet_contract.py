"""The check for the contract of ``aluma_async.fleet.ports.FleetStore``."""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
from msgspec.structs import replace

from aluma_async.fleet.ports import (
    MAX_ROWS,
    QUEUED_SECONDS,
    RECENTLY_SETTLED_SECONDS,
    TURN_SECONDS,
    FleetClaim,
    FleetHold,
    FleetStore,
    FleetUpdate,
    Limits,
    ListingPage,
    NodeReport,
    NoticeKind,
    RecordState,
)
from aluma_async.models import ExportTask, HoldRecord, Timestamp
from aluma_async.policy.liveness import NodeSnapshot
from aluma_async.policy.quota import LEARNING_SECONDS, LEASE_SECONDS
from aluma_async.policy.rendezvous import owned_slots

LEASE = 1800.0
_NOTICE_SECONDS = 2.0


class _Node:
    """A node whose reports are written by hand."""

    def __init__(self, store: FleetStore, node_id: str) -> None:
        self.store, self.id, self.sequence = store, node_id, 0
        self.held = Limits(0.0, 0.0, 0.0)

    async def sync(self, *claims: FleetClaim, **fields: Any) -> FleetUpdate:
        self.sequence += 1
        report = NodeReport(node_id=self.id, sequence=self.sequence, claims=claims, **fields)
        return await self.store.sync(report)

    async def use(self, limit: float, wanted: float) -> float:
        """Report a limit on requests in flight; return the quota, and hold it from now on."""
        amounts = Limits(limit, 2 * limit), Limits(wanted, 2 * wanted)
        update = await self.sync(limits=amounts[0], wanted=amounts[1], held=self.held)
        self.held = update.quota
        assert self.held.max_per_second <= 2 * limit, "each limit is shared"
        return self.held.max_at_once

    @property
    def snapshot(self) -> NodeSnapshot:
        return NodeSnapshot(self.id, self.sequence, is_present=False)


def _claim(task_id: str, state: RecordState, **fields: Any) -> FleetClaim:
    remaining = QUEUED_SECONDS if state in (RecordState.QUEUED, RecordState.SETTLED) else LEASE
    return FleetClaim(task_id, state, remaining=fields.pop("remaining", remaining), **fields)


def _tasks(*ids: str) -> tuple[ExportTask, ...]:
    return tuple(ExportTask(task_id, f"name of {task_id}", "p", "Project", 1.5, "c") for task_id in ids)


def _ids(tasks: Sequence[ExportTask | FleetClaim]) -> list[str]:
    return sorted(task.id if isinstance(task, ExportTask) else task.task_id for task in tasks)


async def check_fleet_store(
    connect: Callable[[], FleetStore], *, advance: Callable[[float], Awaitable[object]] = anyio.sleep
) -> None:
    """Check that a store of a fleet keeps its contract.

    Args:
        connect: Returns a ``FleetStore``. All of them must use the same storage, which is empty at first.
        advance: Waits until some seconds have passed on the storage's clock.
    """
    one, two, three = (_Node(connect(), f"check-{name}") for name in ("one", "two", "three"))
    await _check_quotas(one, two, advance)
    await _check_sequence(one, two)
    await _check_records(one, two, three, advance)
    await _check_listing(one, two, advance)
    await _check_rows(one, two)
    await _check_holds(one, two, three)
    await _check_pause_and_notices(one, two)
    await _check_take_over(connect, one, two)
    await _check_predecessor(connect, one)
    view = await one.store.inspect()
    assert view.epoch
    assert {"check-one", "check-two"} <= {node.node_id for node in view.nodes}, "the nodes can be inspected"


async def _check_quotas(one: _Node, two: _Node, advance: Callable[[float], Awaitable[object]]) -> None:
    one.held = Limits(2.0, 4.0)
    assert await one.use(8, 8) <= 2, "in an empty store no node gets more than it has"
    assert await two.use(8, 8) == 0, "in an empty store a node that has nothing gets nothing"
    await advance(LEARNING_SECONDS / 2)
    await two.use(8, 8)
    await one.use(8, 8)
    await advance(LEARNING_SECONDS / 2 + 0.1)
    for _ in range(4):
        quotas = await one.use(8, 8), await two.use(8, 8)
        assert one.held.max_at_once + two.held.max_at_once <= 8, "the sum of the quotas is within the limit"
    assert quotas == (4, 4), "nodes that want the same get the same"
    await one.use(8, 8)
    assert await two.use(6, 6) <= 2, "the smallest limit applies to all nodes"
    await one.sync(limits=Limits(8), wanted=Limits(8), held=Limits(7))
    assert (await two.use(8, 8)) <= 1, "what a node holds stays reserved"
    await advance(LEASE_SECONDS / 2)
    await two.use(8, 8)
    await advance(LEASE_SECONDS / 2 + 0.1)
    await advance(0)
    two.held = Limits(1.0)
    await two.use(8, 8)
    await advance(1.0)
    await two.use(8, 8)
    await advance(LEARNING_SECONDS)
    await two.use(8, 8)
    await advance(1.0)
    await two.use(8, 8)
    await advance(LEARNING_SECONDS - 1.0)
    assert await two.use(8, 8) == 8, "the quota of a silent node is free after its lease"
    unlimited = await one.sync(limits=Limits(8), wanted=Limits(1), held=Limits(0))
    assert math.isinf(unlimited.quota.max_bytes_per_second), "without a limit, a quota is infinite"
    await two.sync(limits=Limits(8), wanted=Limits(1), held=Limits(1))


async def _check_sequence(one: _Node, two: _Node) -> None:
    first = await one.sync()
    assert first.stored_sequence == one.sequence - 1, "the number of the report before is returned"
    late = NodeReport(node_id=one.id, sequence=one.sequence, claims=(_claim("late", RecordState.CLAIMED),))
    assert (await one.store.sync(late)).stored_sequence == one.sequence, "a report is applied once"
    seen = {node.node_id: node.sequence for node in (await two.sync(_claim("late", RecordState.STARTING))).nodes}
    assert seen[one.id] == one.sequence, "the other nodes and their numbers are returned"
    assert two.id not in seen, "a node is not returned to itself"
    assert (await two.sync(_claim("late", RecordState.RELEASED))).refused == ()
    assert (await two.sync()).epoch == first.epoch, "the epoch stays as long as the content"


async def _check_records(one: _Node, two: _Node, three: _Node, advance: Callable[[float], Awaitable[object]]) -> None:
    held = (RecordState.CLAIMED, RecordState.COMMITTED, RecordState.FAILING, RecordState.ORPHANED)
    for state in (RecordState.QUEUED, RecordState.STARTING, *held, RecordState.SETTLED):
        await one.sync(_claim("t", state))
        for intended in (RecordState.QUEUED, RecordState.STARTING):
            update = await two.sync(_claim("t", intended), _claim("free", intended))
            assert update.refused == ("t",), f"{intended} is refused if another node's record is {state}"
        await one.sync(_claim("t", RecordState.STARTING))
        assert not (await one.sync(_claim("t", RecordState.CLAIMED))).refused, "a node replaces its own record"
    await one.sync(_claim("t", RecordState.RELEASED))
    assert not (await two.sync(_claim("t", RecordState.STARTING))).refused, "a released task is free"
    for state in held:
        await one.sync(_claim("c", state))
        assert (await two.sync(_claim("c", RecordState.CLAIMED))).contested == ("c",), "two claims are contested"
        assert (await one.sync()).contested == ("c",), "a contested claim is reported to both nodes"
        for node in (one, two):
            await node.sync(_claim("c", RecordState.RELEASED))
    await one.sync(_claim("u", RecordState.UNCONFIRMED, unconfirmed_age=5.0))
    update = await two.sync(_claim("u", RecordState.STARTING))
    assert not update.refused, "an unconfirmed Start excludes no other node"
    assert not (await two.sync(_claim("u", RecordState.CLAIMED))).contested, "a claim wins over an unconfirmed Start"
    assert (await one.sync()).contested == ("u",), "an unconfirmed Start is contested if another node has a claim"
    await one.sync(_claim("u", RecordState.RELEASED))

    await one.sync(_claim("a", RecordState.CLAIMED), _claim("s", RecordState.SETTLED))
    await one.sync(_claim("b", RecordState.CLAIMED), full=True)
    update = await three.sync(*(_claim(task_id, RecordState.STARTING) for task_id in "abs"))
    assert set(update.refused) == {"b", "s"}, "a full report replaces all records, but not those of settled tasks"
    await three.sync(full=True)
    assert not (await two.sync(_claim("a", RecordState.QUEUED), full=True)).refused, "an empty full report ends all"
    await one.sync(_claim("b", RecordState.CLAIMED, remaining=1.0), full=True)
    await advance(RECENTLY_SETTLED_SECONDS + 1)
    update = await two.sync(_claim("b", RecordState.QUEUED), _claim("s", RecordState.QUEUED))
    assert not update.refused, "records end when their time is over"
    for node in (one, two, three):
        await node.sync(full=True)


async def _check_listing(one: _Node, two: _Node, advance: Callable[[float], Awaitable[object]]) -> None:
    assert await one.store.begin_listing(one.id), "a turn is free at first"
    assert await one.store.begin_listing(one.id), "a turn can be renewed"
    assert await two.store.begin_listing(two.id, "other"), "nodes with other filters have another turn"
    assert not await two.store.begin_listing(two.id), "only one node lists at a time"
    await advance(TURN_SECONDS - 1)
    assert (await one.sync(is_listing=True)).lister == one.id
    await advance(TURN_SECONDS - 1)
    assert not await two.store.begin_listing(two.id), "a report with is_listing renews the turn"
    await one.sync()
    await advance(TURN_SECONDS - 0.5)
    assert await two.store.begin_listing(two.id), "a turn expires if its node reports no listing"
    await two.store.publish_listing(ListingPage(node_id=two.id, is_first=True, end="failed"))
    assert await one.store.begin_listing(one.id), "a failed listing ends the turn"
    before = (await one.sync()).listing.number
    page = ListingPage(
        node_id=one.id, rows=_tasks("r"), is_first=True, end="complete", total=7, oldest_created_at=1.5, unpublished=3
    )
    await one.store.publish_listing(page)
    listing = (await two.sync()).listing
    assert (listing.number, listing.total, listing.oldest_created_at) == (before + 1, 7, 1.5), "a listing is described"
    assert listing.unpublished == 3
    assert await two.store.begin_listing(two.id), "a complete listing ends the turn"
    await two.store.publish_listing(ListingPage(node_id=two.id, is_first=True, end="complete"))
    update = await one.sync()
    assert (update.rows_left, update.lister) == (0, ""), "a listing replaces the one before"


async def _check_rows(one: _Node, two: _Node) -> None:
    await one.sync(_claim("claimed", RecordState.CLAIMED), _claim("settled", RecordState.SETTLED))
    hold = HoldRecord("held", Timestamp("", 0.0, 0.0), 100.0)
    ended = HoldRecord("ended", Timestamp("", 0.0, 0.0), 10.0)
    await one.sync(holds=(FleetHold("held", 0.0, hold), FleetHold("ended", 20.0, ended)))
    listed = _tasks("claimed", "settled", "held", "ended", *(f"row-{number:02}" for number in range(40)))
    await two.store.publish_listing(ListingPage(node_id=two.id, rows=listed, is_first=True))
    await two.store.publish_listing(ListingPage(node_id=two.id, rows=listed[4:10], end="complete"))
    update = await one.sync()
    assert update.rows_left == 41, "claimed, settled and held tasks are left out, and no task is published twice"
    slots = owned_slots(one.id, [two.id])
    update = await one.sync(rows=5, slots=slots)
    assert len(update.rows) == 5
    assert set(update.rows) <= set(listed), "rows are returned as they were listed"
    assert _ids((await two.sync(rows=100, slots=slots[:1])).rows) == sorted(
        {task.id for task in listed[3:]} - {task.id for task in update.rows}
    ), "a node gets its own tasks first, then the others, each of them once"
    assert (await two.sync(_claim(update.rows[0].id, RecordState.STARTING))).refused, "rows are recorded as queued"
    assert (await one.sync(full=True)).rows_left == 0

    last = await two.sync(full=True)
    other = ListingPage(node_id=two.id, scope="other", rows=_tasks("filtered"), is_first=True, end="complete", total=1)
    await two.store.publish_listing(other)
    assert not (await one.sync(rows=9)).rows, "tasks are returned to nodes with the same filters only"
    update = await two.sync(rows=9, scope="other")
    assert (_ids(update.rows), update.listing.total) == (["filtered"], 1)
    await two.sync(full=True)
    await two.store.publish_listing(ListingPage(node_id=two.id, rows=_tasks("old"), is_first=True))
    newest = (await two.sync()).next_position
    assert newest > last.next_position, "each published task has a higher position"
    await two.store.publish_listing(ListingPage(node_id=two.id, rows=_tasks("new")))
    assert _ids((await one.sync(rows=9, min_position=newest)).rows) == ["new"], "earlier positions are not returned"
    await one.sync(_claim("old", RecordState.CLAIMED))
    assert not (await two.sync(rows=9)).rows, "a task that was claimed since it was listed is not returned"
    await one.sync(full=True)
    many = _tasks(*(f"many-{number}" for number in range(MAX_ROWS + 5)))
    await two.store.publish_listing(ListingPage(node_id=two.id, rows=many[:6000], is_first=True))
    await two.store.publish_listing(ListingPage(node_id=two.id, rows=many[6000:], end="complete"))
    assert (await one.sync()).rows_left == MAX_ROWS, "the number of rows is limited"
    await two.store.publish_listing(ListingPage(node_id=two.id, is_first=True, end="complete"))


async def _check_holds(one: _Node, two: _Node, three: _Node) -> None:
    known = (await two.sync()).revision
    record = HoldRecord("h", Timestamp("boot", 5.0, 6.0), 100.0, failures=2, error="Crash", message="why")
    own = await one.sync(holds=(FleetHold("h", 10.0, record),), revision=known)
    assert not own.holds, "a node does not get its own holds"
    update = await two.sync(revision=known)
    assert [hold.record for hold in update.holds] == [record], "a hold reaches the other nodes unchanged"
    assert 9.5 <= update.holds[0].age <= 12.0, "the age of a hold is kept"
    assert not (await two.sync(revision=update.revision)).holds, "a hold is returned once"
    await two.sync(holds=(FleetHold("h", 9.9, record),))
    assert not (await one.sync(revision=update.revision)).holds, "the same hold of another node is no change"
    await two.sync(holds=(FleetHold("h", 60.0, replace(record, failures=1)),))
    assert not (await one.sync(revision=update.revision)).holds, "an older hold is ignored"
    await two.sync(holds=(FleetHold("h", 0.0, replace(record, failures=3)),))
    newer = await one.sync(revision=update.revision)
    assert [hold.record.failures for hold in newer.holds if hold.record] == [3], "a younger hold counts"
    await one.store.release_holds(["h"])
    for node in (one, two):
        released = await node.sync(revision=newer.revision)
        assert [(hold.task_id, hold.record) for hold in released.holds] == [("h", None)], "released holds are reported"
    await two.sync(holds=(FleetHold("h", 30.0, record),))
    assert not (await one.sync(revision=released.revision)).holds, "a released hold is not restored"
    assert [hold.task_id for hold in (await three.sync(revision=10**9)).holds], "an unknown revision means all holds"


async def _check_pause_and_notices(one: _Node, two: _Node) -> None:
    async with one.store.subscribe(one.id) as notices:
        assert [node.is_present for node in (await two.sync()).nodes if node.node_id == one.id] == [True]
        await two.sync(pause=30.0)
        with anyio.fail_after(_NOTICE_SECONDS):
            assert (await anext(notices)).kind is NoticeKind.PAUSE, "a pause is announced"
        await two.store.publish_listing(ListingPage(node_id=two.id, rows=_tasks("n"), is_first=True, end="complete"))
        with anyio.fail_after(_NOTICE_SECONDS):
            assert (await anext(notices)).kind is NoticeKind.LISTING, "a listing is announced"
    update = await one.sync(pause=1.0)
    assert 25.0 <= update.pause <= 30.0, "the longest pause applies"
    assert [node.is_present for node in (await two.sync()).nodes if node.node_id == one.id] == [False]
    await two.store.publish_listing(ListingPage(node_id=two.id, is_first=True, end="complete"))


async def _check_take_over(connect: Callable[[], FleetStore], one: _Node, two: _Node) -> None:
    dead = _Node(connect(), "check-dead")
    async with dead.store.subscribe(dead.id):
        await dead.sync(
            _claim("s", RecordState.STARTING, age=3.0, unconfirmed_age=2.0),
            _claim("c", RecordState.COMMITTED),
            _claim("q", RecordState.QUEUED),
        )
        assert not await one.store.take_over(one.id, dead.snapshot), "a node that is present is not taken over"
    old = replace(dead.snapshot, sequence=dead.sequence - 1)
    assert not await one.store.take_over(one.id, old), "a node that has reported since is not taken over"
    claims = await one.store.take_over(one.id, dead.snapshot)
    assert {claim.task_id: claim.state for claim in claims} == {"s": "starting", "c": "committed"}, "claims are moved"
    started = next(claim for claim in claims if claim.task_id == "s")
    assert 2.5 <= started.age <= 5.0, "the age of a claim is kept"
    assert started.unconfirmed_age is not None
    assert 1.5 <= started.unconfirmed_age <= 4.0, "the age of an unconfirmed Start is kept"
    assert LEASE - 5 <= started.remaining <= LEASE, "the rest of the lease is kept"
    assert not await two.store.take_over(two.id, dead.snapshot), "the claims are moved to one node"
    assert len(await one.store.take_over(one.id, dead.snapshot)) == 2, "the call can be repeated"
    assert (await dead.sync(_claim("z", RecordState.CLAIMED))).taken_over, "the dead node learns that it is taken over"
    assert not await dead.store.begin_listing(dead.id)
    assert dead.id not in {node.node_id for node in (await two.sync()).nodes}
    update = await two.sync(*(_claim(task_id, RecordState.QUEUED) for task_id in "scqz"))
    assert set(update.refused) == {"s", "c"}, "moved claims exclude other nodes; queued tasks are free"
    await two.sync(full=True)
    update = await one.sync(_claim("s", RecordState.ORPHANED), full=True)
    assert _ids(update.moved) == ["c"], "moved claims are returned until the node reports each of them"
    assert not (await one.sync(_claim("c", RecordState.RELEASED))).moved
    await one.sync(full=True)

    stopped = _Node(connect(), "check-stopped")
    async with stopped.store.subscribe(stopped.id):
        await stopped.sync(_claim("p", RecordState.CLAIMED))
        seen = replace(stopped.snapshot, is_present=True)
        assert _ids(await one.store.take_over(one.id, seen)) == ["p"], "presence seen as open need not be closed"
    await one.sync(_claim("p", RecordState.RELEASED))


async def _check_predecessor(connect: Callable[[], FleetStore], one: _Node) -> None:
    first, second, third = (_Node(connect(), f"check-{name}") for name in ("first", "second", "third"))
    await first.sync(_claim("kept", RecordState.CLAIMED), _claim("lost", RecordState.CLAIMED))
    for _ in range(2):
        update = await second.sync(_claim("kept", RecordState.ORPHANED), full=True, predecessors=(first.id,))
        assert update.predecessor == "moved", "the records of a predecessor move to its successor"
        assert _ids(update.moved) == ["lost"]
    assert (await third.sync(predecessors=(first.id,))).predecessor == "taken"
    assert (await third.sync(predecessors=("check-nobody",))).predecessor == "unknown"
    names = ("check-nobody", second.id, first.id)
    fourth = _Node(connect(), "check-fourth")
    update = await fourth.sync(full=True, predecessors=names)
    assert update.predecessor == "moved", "a predecessor that was taken over by another predecessor has moved"
    assert _ids(update.moved) == ["kept", "lost"]
    await fourth.sync(_claim("lost", RecordState.RELEASED), _claim("kept", RecordState.RELEASED))
    for node in (third, fourth):
        await node.sync(full=True, leaving=True)
    left = {node.node_id for node in (await one.sync()).nodes}
    assert left.isdisjoint({first.id, second.id, third.id, fourth.id}), "a node that leaves without claims is forgotten"
