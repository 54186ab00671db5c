"""``FleetTables``: the steps of a ``FleetStore`` in an SQLite database, each in one transaction.

The time and the presence of nodes are arguments, so that the same steps serve a file and a simulation.
"""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from aluma_async.fleet.ports import (
    TAKEN_OVER_SECONDS,
    FleetClaim,
    FleetHold,
    FleetUpdate,
    FleetView,
    Limits,
    ListingInfo,
    ListingPage,
    NodeReport,
    NodeView,
    NoticeKind,
)
from aluma_async.fleet.stores import records, rows
from aluma_async.fleet.stores.schema import TABLES, State, Usage, encode, load_state, save_state
from aluma_async.policy.liveness import NodeSnapshot
from aluma_async.policy.quota import LEASE_SECONDS, Share, grant
from aluma_async.sqlite_file import transaction

_FORGET_SECONDS = 86_400.0  # a silent node without claims is forgotten, because no node takes it over
_MIN_PAUSE_CHANGE = 0.1  # a pause that nodes report to each other must not grow by the time that reports travel
_decode = msgspec.msgpack.Decoder(Usage).decode

IsPresent: TypeAlias = Callable[[str], bool]


class FleetTables:
    """The tables in ``database``.

    Args:
        database: An open database, whose transactions are explicit.
        is_present: Returns whether a node is subscribed.
        boot: Identifies the clock of the times.
    """

    def __init__(self, database: sqlite3.Connection, is_present: IsPresent, *, boot: str = "") -> None:
        self._database = database
        self._is_present = is_present
        self._boot = boot
        with transaction(database):
            for statement in TABLES:
                database.execute(statement)

    def sync(self, report: NodeReport, now: float) -> tuple[FleetUpdate, list[NoticeKind]]:
        """Apply a report; return the update, and the notices for other nodes."""
        with transaction(self._database):
            state = load_state(self._database, self._boot)
            now = state.latest(now)
            stored, taken_by = self._node(report.node_id)
            if taken_by:
                return FleetUpdate(epoch=state.epoch, stored_sequence=stored, taken_over=True), []
            if report.sequence <= stored:
                return FleetUpdate(epoch=state.epoch, stored_sequence=stored), []
            update, notices = self._apply(state, report, stored, now)
            save_state(self._database, state)
            return update, notices

    def begin_listing(self, node_id: str, scope: str, now: float) -> bool:
        """Start or renew a node's turn to list."""
        with transaction(self._database):
            state = load_state(self._database, self._boot)
            now = state.latest(now)
            if self._node(node_id)[1] or not rows.begin_turn(state.scope(scope), node_id, now):
                return False
            save_state(self._database, state)
            return True

    def publish_listing(self, page: ListingPage, now: float) -> list[NoticeKind]:
        """Store a page of a listing; return the notices for other nodes."""
        with transaction(self._database):
            state = load_state(self._database, self._boot)
            now = state.latest(now)
            if self._node(page.node_id)[1]:
                return []
            is_news = rows.publish(self._database, state, page, now)
            save_state(self._database, state)
            return [NoticeKind.LISTING] if is_news else []

    def take_over(self, node_id: str, dead: NodeSnapshot, now: float) -> Sequence[FleetClaim]:
        """Move the claims of a dead node, if it is dead, and no other node has taken them."""
        with transaction(self._database):
            sequence, taken_by = self._node(dead.node_id)
            if self._node(node_id)[1] or taken_by not in ("", node_id):
                return ()
            if not taken_by:
                if sequence != dead.sequence or (not dead.is_present and self._is_present(dead.node_id)):
                    return ()
                self._end_node(dead.node_id, node_id, now)
            return records.moved(self._database, node_id, now, from_node=dead.node_id)

    def release_holds(self, task_ids: Sequence[str], now: float) -> list[NoticeKind]:
        """End holds; return the notices for other nodes."""
        with transaction(self._database):
            state = load_state(self._database, self._boot)
            now = state.latest(now)
            ended = [FleetHold(task_id, 0.0) for task_id in task_ids]
            records.apply_holds(self._database, state, "", ended, now)
            save_state(self._database, state)
            return [NoticeKind.HOLDS]

    def inspect(self, now: float) -> FleetView:
        """Return the content."""
        with transaction(self._database):
            state = load_state(self._database, self._boot)
            now = state.latest(now)
            query = "SELECT id, at, share, (SELECT count(*) FROM claim WHERE node = id) FROM node WHERE taken_by = ''"
            nodes = tuple(
                NodeView(node_id, now - at, self._is_present(node_id), claims, _decode(share).quota)
                for node_id, at, share, claims in self._database.execute(query)
            )
            (holds,) = self._database.execute(
                "SELECT count(*) FROM hold WHERE since <= ?1 AND ends > ?1", (now,)
            ).fetchone()
            (count,) = self._database.execute("SELECT count(*) FROM row").fetchone()
            listings = [scope.listing for scope in state.scopes.values()]
            listing = max(listings, key=lambda listing: listing.total, default=ListingInfo())
            return FleetView(state.epoch, nodes, listing, count, holds, max(0.0, state.pause_until - now))

    # -- steps within a transaction

    def _node(self, node_id: str) -> tuple[int, str]:
        """Return the stored sequence number of a node, and the node that has taken it over."""
        row = self._database.execute("SELECT sequence, taken_by FROM node WHERE id = ?", (node_id,)).fetchone()
        return row or (0, "")

    def _apply(self, state: State, report: NodeReport, stored: int, now: float) -> tuple[FleetUpdate, list[NoticeKind]]:
        database, node_id = self._database, report.node_id
        if report.full:
            records.delete_before_full_report(database, node_id)
        predecessor = self._move_predecessors(report, now)
        refused = records.apply_claims(database, report, now)
        notices = []
        records.apply_holds(database, state, node_id, report.holds, now)
        holds, revision = records.changed_holds(database, state, node_id, report.revision, now)
        pause = max(0.0, min(state.pause_until, now + 86_400) - now)
        if report.pause > pause + _MIN_PAUSE_CHANGE:
            pause, state.pause_until = report.pause, now + report.pause
            notices.append(NoticeKind.PAUSE)
        scope = state.scope(report.scope)
        if report.is_listing and rows.turn_holder(scope, now) == node_id:
            rows.begin_turn(scope, node_id, now)
        taken = rows.take(database, report, now) if report.rows else ()
        quota = self._store_node(state, report, now)
        records.delete_expired(database, now)
        nodes = self._forget_and_list_nodes(node_id, now)
        update = FleetUpdate(
            epoch=state.epoch,
            stored_sequence=stored,
            predecessor=predecessor,
            nodes=nodes,
            refused=tuple(refused),
            contested=records.contested(database, node_id),
            moved=records.moved(database, node_id, now),
            holds=holds,
            revision=revision,
            rows=taken,
            rows_left=rows.count_rows(database, report.scope),
            next_position=state.next_position,
            listing=scope.listing,
            lister=rows.turn_holder(scope, now),
            quota=quota,
            pause=pause,
        )
        return update, notices

    def _move_predecessors(self, report: NodeReport, now: float) -> Literal["", "moved", "taken", "unknown"]:
        outcomes = {self._move_predecessor(node_id, report, now) for node_id in report.predecessors}
        return next((outcome for outcome in ("taken", "moved", "unknown") if outcome in outcomes), "")

    def _move_predecessor(
        self, node_id: str, report: NodeReport, now: float
    ) -> Literal["", "moved", "taken", "unknown"]:
        sequence, taken_by = self._node(node_id)
        if not sequence or node_id == report.node_id:
            return "unknown"
        if not taken_by:
            self._end_node(node_id, report.node_id, now)
        return "moved" if taken_by in ("", report.node_id, *report.predecessors) else "taken"

    def _end_node(self, node_id: str, successor: str, now: float) -> None:
        """Move the claims of a node that has ended, and ignore its reports from now on."""
        records.move(self._database, node_id, successor)
        self._database.execute("UPDATE node SET taken_by = ?, at = ? WHERE id = ?", (successor, now, node_id))

    def _store_node(self, state: State, report: NodeReport, now: float) -> Limits:
        """Store the sequence number and the usage of a node; return its quota."""
        learning = state.is_learning(now)
        if report.leaving and not records.has_claims(self._database, report.node_id):
            self._database.execute("DELETE FROM claim WHERE node = ? AND state = 'queued'", (report.node_id,))
            self._database.execute("DELETE FROM node WHERE id = ?", (report.node_id,))
            return Limits(0.0, 0.0, 0.0)
        query = "SELECT id, share FROM node WHERE id <> ? AND taken_by = '' AND at <= ? AND at > ?"
        found = self._database.execute(query, (report.node_id, now, now - LEASE_SECONDS))
        usage = _use(report, {node_id: _decode(share) for node_id, share in found}, learning=learning)
        values = (report.node_id, report.sequence, now, encode(usage))
        self._database.execute("INSERT OR REPLACE INTO node VALUES (?, ?, ?, '', ?)", values)
        return usage.quota

    def _forget_and_list_nodes(self, node_id: str, now: float) -> tuple[NodeSnapshot, ...]:
        """Return the other nodes; forget those that ended long ago."""
        nodes = []
        query = "SELECT id, sequence, at, taken_by FROM node WHERE id <> ?"
        for other, sequence, at, taken_by in self._database.execute(query, (node_id,)).fetchall():
            if not now - max(TAKEN_OVER_SECONDS, _FORGET_SECONDS) < at <= now:
                self._database.execute("DELETE FROM node WHERE id = ?", (other,))
            elif not taken_by:
                nodes.append(NodeSnapshot(other, sequence, self._is_present(other)))
        return tuple(nodes)


def _use(report: NodeReport, others: Mapping[str, Usage], *, learning: bool) -> Usage:
    """Return the usage of a node with its new quota."""
    quota, reserved = {}, {}
    for name in Limits.__struct_fields__:
        held = getattr(report.held, name)
        limits = [report.limits, *(usage.limits for usage in others.values())]
        quota[name] = grant(
            min(getattr(limit, name) for limit in limits),
            report.node_id,
            getattr(report.wanted, name),
            held,
            {node: Share(getattr(usage.wanted, name), getattr(usage.reserved, name)) for node, usage in others.items()},
            learning=learning,
            whole=name == "max_at_once",
        )
        reserved[name] = max(quota[name], held)
    return Usage(report.limits, report.wanted, Limits(**quota), Limits(**reserved))
