"""The records and holds of a fleet in SQLite: applying a report, and moving the records of a node."""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from aluma_async.fleet.ports import (
    CLAIMS,
    ENDED_HOLD_SECONDS,
    EXCLUSIVE,
    HELD,
    HOLD_MEMORY_SECONDS,
    INTENDED,
    MAX_HOLDS_PER_UPDATE,
    FleetClaim,
    FleetHold,
    NodeReport,
    RecordState,
)
from aluma_async.fleet.stores.schema import State, encode
from aluma_async.models import HoldRecord

_STARTED = HELD | {RecordState.STARTING}
_UNCONTESTED = frozenset({RecordState.SETTLED, RecordState.RELEASED})
_SAME_SECONDS = 1.0  # two reports of one hold differ by the time that they travelled
_MAX_EXPIRED = 100  # records deleted per call
_CLAIMS_SQL = ", ".join(f"'{state}'" for state in sorted(CLAIMS))
_UNSETTLED_SQL = ", ".join(f"'{state}'" for state in sorted(CLAIMS | {RecordState.QUEUED}))
_OTHERS = "SELECT node, state FROM claim WHERE task = ?1 AND node <> ?2 AND since <= ?3 AND until > ?3"
_MOVED = (
    "SELECT task, state, since, until, unconfirmed FROM claim"
    " WHERE node = ?1 AND moved_from <> '' AND since <= ?2 AND until > ?2"
)
_HOLDS = "SELECT task, since, value, revision FROM hold WHERE revision > ? AND node <> ? ORDER BY revision LIMIT ?"
_EXPIRED = (
    "DELETE FROM claim WHERE (task, node) IN (SELECT task, node FROM claim WHERE until <= ? LIMIT ?)",
    "DELETE FROM hold WHERE task IN (SELECT task FROM hold WHERE until <= ? LIMIT ?)",
)
_decode = msgspec.msgpack.Decoder(HoldRecord).decode


def apply_claims(database: sqlite3.Connection, report: NodeReport, now: float) -> list[str]:
    """Apply the records of a report; return the tasks that are refused."""
    refused = []
    for claim in report.claims:
        key = (claim.task_id, report.node_id)
        others: dict[str, RecordState] = {}
        if claim.state not in _UNCONTESTED:
            others = {node: RecordState(state) for node, state in database.execute(_OTHERS, (*key, now))}
        is_refused = claim.state in INTENDED and not EXCLUSIVE.isdisjoint(others.values())
        if is_refused:
            refused.append(claim.task_id)
        if is_refused or claim.state is RecordState.RELEASED:
            database.execute("DELETE FROM claim WHERE task = ? AND node = ?", key)
            continue
        contested = False
        for node, state in others.items():
            own, other = _conflict(claim.state, state)
            contested = contested or own
            if other:
                database.execute("UPDATE claim SET contested = 1 WHERE task = ? AND node = ?", (claim.task_id, node))
        unconfirmed = None if claim.unconfirmed_age is None else now - claim.unconfirmed_age
        values = (*key, claim.state, now - claim.age, now + claim.remaining, unconfirmed, contested)
        database.execute("INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?, ?, ?, ?, '')", values)
    return refused


def _conflict(own: RecordState, other: RecordState) -> tuple[bool, bool]:
    """Return which of two records of one task are contested."""
    if own in HELD and other in _STARTED:
        return True, True
    return (
        own is RecordState.UNCONFIRMED and other in _STARTED,
        other is RecordState.UNCONFIRMED and own in _STARTED,
    )


def delete_before_full_report(database: sqlite3.Connection, node_id: str) -> None:
    """Delete the records that a full report replaces."""
    # The states are listed so that an index serves the query.
    query = f"DELETE FROM claim WHERE node = ? AND state IN ({_UNSETTLED_SQL}) AND moved_from = ''"  # noqa: S608
    database.execute(query, (node_id,))


def contested(database: sqlite3.Connection, node_id: str) -> tuple[str, ...]:
    """Return the tasks of which another node has a claim as well."""
    return tuple(
        task for (task,) in database.execute("SELECT task FROM claim WHERE node = ? AND contested = 1", (node_id,))
    )


def move(database: sqlite3.Connection, old: str, new: str) -> None:
    """Move the claims of a node to another one, unless that has its own; drop the tasks that it had queued."""
    database.execute("DELETE FROM claim WHERE node = ? AND state = ?", (old, RecordState.QUEUED))
    database.execute(
        "UPDATE OR IGNORE claim SET node = ?, moved_from = ?, contested = 0"  # noqa: S608
        f" WHERE node = ? AND state IN ({_CLAIMS_SQL})",
        (new, old, old),
    )
    database.execute(f"DELETE FROM claim WHERE node = ? AND state IN ({_UNSETTLED_SQL})", (old,))  # noqa: S608


def moved(database: sqlite3.Connection, node_id: str, now: float, *, from_node: str = "") -> tuple[FleetClaim, ...]:
    """Return the records moved to a node, from one node or from all, that it has not reported yet."""
    query = _MOVED + (" AND moved_from = ?3" if from_node else "")
    arguments = (node_id, now, from_node) if from_node else (node_id, now)
    return tuple(
        FleetClaim(
            task, RecordState(state), now - since, until - now, None if unconfirmed is None else now - unconfirmed
        )
        for task, state, since, until, unconfirmed in database.execute(query, arguments)
    )


def has_claims(database: sqlite3.Connection, node_id: str) -> bool:
    """Return whether a node has records that another one must take over if it dies."""
    query = f"SELECT 1 FROM claim WHERE node = ? AND state IN ({_CLAIMS_SQL}) LIMIT 1"  # noqa: S608
    return database.execute(query, (node_id,)).fetchone() is not None


def apply_holds(
    database: sqlite3.Connection, state: State, node_id: str, holds: Iterable[FleetHold], now: float
) -> bool:
    """Store the holds that are younger than the stored ones; return whether any was stored."""
    revision = state.revision
    for hold in holds:
        since, value = now - hold.age, encode(hold.record) if hold.record else None
        known = database.execute("SELECT since, value FROM hold WHERE task = ?", (hold.task_id,)).fetchone()
        if known and known[0] <= now and (since < known[0] or _is_same(known, since, value)):
            continue
        ends = since + (hold.record.seconds if hold.record else 0.0)
        until = ends + (HOLD_MEMORY_SECONDS if hold.record else ENDED_HOLD_SECONDS)
        state.revision += 1
        values = (hold.task_id, node_id, since, ends, until, value, state.revision)
        database.execute("INSERT OR REPLACE INTO hold VALUES (?, ?, ?, ?, ?, ?, ?)", values)
    return state.revision > revision


def _is_same(known: tuple[float, bytes | None], since: float, value: bytes | None) -> bool:
    return value == known[1] and since - known[0] <= _SAME_SECONDS


def changed_holds(
    database: sqlite3.Connection, state: State, node_id: str, revision: int, now: float
) -> tuple[tuple[FleetHold, ...], int]:
    """Return the holds of other nodes that changed since a revision, and the revision that the node knows then."""
    if revision > state.revision:  # of another epoch
        revision = 0
    if revision == state.revision:
        return (), revision
    rows: Sequence[tuple[str, float, bytes | None, int]] = database.execute(
        _HOLDS, (revision, node_id, MAX_HOLDS_PER_UPDATE)
    ).fetchall()
    holds = tuple(
        FleetHold(task, now - since, _decode(value) if value else None)
        for task, since, value, _ in rows
        if since <= now
    )
    return holds, rows[-1][3] if len(rows) == MAX_HOLDS_PER_UPDATE else state.revision


def delete_expired(database: sqlite3.Connection, now: float) -> None:
    """Delete some records and holds that are void."""
    for statement in _EXPIRED:
        database.execute(statement, (now, _MAX_EXPIRED))
