"""The listed tasks of a fleet in SQLite: whose turn it is to list, publishing, and taking."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from aluma_async.fleet.ports import (
    EXCLUSIVE,
    MAX_ROWS,
    QUEUED_SECONDS,
    TURN_SECONDS,
    ListingInfo,
    ListingPage,
    NodeReport,
    RecordState,
)
from aluma_async.fleet.stores.schema import Scope, State, encode
from aluma_async.models import ExportTask
from aluma_async.policy.rendezvous import slot_of

EXCLUSIVE_SQL = ", ".join(f"'{state}'" for state in sorted(EXCLUSIVE))
_BLOCKED = (
    f"SELECT 1 FROM claim WHERE task = ?1 AND state IN ({EXCLUSIVE_SQL}) AND since <= ?2 AND until > ?2"  # noqa: S608
    " UNION ALL SELECT 1 FROM hold WHERE task = ?1 AND since <= ?2 AND ends > ?2 LIMIT 1"
)
_OWN_ROWS = (
    "SELECT position, task, value FROM row"
    " WHERE scope = ? AND slot IN (SELECT value FROM json_each(?)) AND position >= ? ORDER BY position LIMIT ?"
)
_LAST_ROWS = "SELECT position, task, value FROM row WHERE scope = ? AND position >= ? ORDER BY position DESC LIMIT ?"
_decode = msgspec.msgpack.Decoder(ExportTask).decode


def turn_holder(scope: Scope, now: float) -> str:
    """Return the node whose turn it is to list; empty if it is no node's turn."""
    return scope.turn if now < scope.turn_until <= now + TURN_SECONDS else ""


def begin_turn(scope: Scope, node_id: str, now: float) -> bool:
    """Start or renew a node's turn; return False if another node has it."""
    if turn_holder(scope, now) not in ("", node_id):
        return False
    scope.turn, scope.turn_until = node_id, now + TURN_SECONDS
    return True


def publish(database: sqlite3.Connection, state: State, page: ListingPage, now: float) -> bool:
    """Store the rows of a page that can be claimed; return whether other nodes should know."""
    scope = state.scope(page.scope)
    if page.is_first:
        database.execute("DELETE FROM row WHERE scope = ?", (page.scope,))
    room = MAX_ROWS - count_rows(database, page.scope)
    added = 0
    for task in page.rows:
        if added >= room:
            break
        if database.execute(_BLOCKED, (task.id, now)).fetchone():
            continue
        values = (state.next_position, page.scope, slot_of(task.id), task.id, encode(task))
        if database.execute("INSERT OR IGNORE INTO row VALUES (?, ?, ?, ?, ?)", values).rowcount > 0:
            state.next_position += 1
            added += 1
    if page.end == "complete":
        scope.listing = ListingInfo(scope.listing.number + 1, page.total, page.oldest_created_at, page.unpublished)
    else:
        scope.listing = msgspec.structs.replace(scope.listing, unpublished=page.unpublished)
    if page.end and scope.turn == page.node_id:
        scope.turn = ""
    elif turn_holder(scope, now) == page.node_id:
        begin_turn(scope, page.node_id, now)
    return added > 0 or page.end == "complete"


def take(database: sqlite3.Connection, report: NodeReport, now: float) -> tuple[ExportTask, ...]:
    """Return tasks for a node, recorded as queued by it: first those of its slots, then the last of the others."""
    tasks = _take(database, report, now, report.rows, own=True)
    if len(tasks) < report.rows:
        tasks += _take(database, report, now, report.rows - len(tasks), own=False)
    return tuple(tasks)


def count_rows(database: sqlite3.Connection, scope: str) -> int:
    """Return the number of published tasks that no node has."""
    (count,) = database.execute("SELECT count(*) FROM row WHERE scope = ?", (scope,)).fetchone()
    return int(count)


def _take(database: sqlite3.Connection, report: NodeReport, now: float, count: int, *, own: bool) -> list[ExportTask]:
    tasks: list[ExportTask] = []
    while len(tasks) < count:
        missing = count - len(tasks)
        if own:
            found = database.execute(
                _OWN_ROWS, (report.scope, json.dumps(report.slots), report.min_position, missing)
            ).fetchall()
        else:
            found = database.execute(_LAST_ROWS, (report.scope, report.min_position, missing)).fetchall()
        if not found:
            break
        tasks += _queue(database, report.node_id, now, found)
    return tasks


def _queue(
    database: sqlite3.Connection, node_id: str, now: float, found: Sequence[tuple[int, str, bytes]]
) -> Iterable[ExportTask]:
    """Remove rows; yield and record those that are still free."""
    for position, task_id, value in found:
        database.execute("DELETE FROM row WHERE position = ?", (position,))
        if not database.execute(_BLOCKED, (task_id, now)).fetchone():
            database.execute(
                "INSERT OR REPLACE INTO claim VALUES (?, ?, ?, ?, ?, NULL, 0, '')",
                (task_id, node_id, RecordState.QUEUED, now, now + QUEUED_SECONDS),
            )
            yield _decode(value)
