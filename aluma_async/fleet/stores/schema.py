"""The tables of a fleet in SQLite, and the one row of state that all steps share."""

import math
import secrets
import sqlite3

import msgspec
from msgspec import Struct

from aluma_async.fleet.ports import Limits, ListingInfo
from aluma_async.policy.quota import LEARNING_SECONDS, MAX_SILENCE_SECONDS

TABLES = (
    "CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 0), value BLOB)",
    "CREATE TABLE IF NOT EXISTS node (id TEXT PRIMARY KEY, sequence INTEGER, at REAL, taken_by TEXT, share BLOB)"
    " WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS claim (task TEXT, node TEXT, state TEXT, since REAL, until REAL, unconfirmed REAL,"
    " contested INTEGER, moved_from TEXT, PRIMARY KEY (task, node)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS claim_node ON claim (node, state)",
    "CREATE INDEX IF NOT EXISTS claim_until ON claim (until)",
    # A node has thousands of settled tasks, and hardly ever a record of these kinds.
    "CREATE INDEX IF NOT EXISTS claim_contested ON claim (node) WHERE contested = 1",
    "CREATE INDEX IF NOT EXISTS claim_moved ON claim (node) WHERE moved_from <> ''",
    "CREATE TABLE IF NOT EXISTS hold (task TEXT PRIMARY KEY, node TEXT, since REAL, ends REAL, until REAL, value BLOB,"
    " revision INTEGER) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS hold_revision ON hold (revision)",
    "CREATE INDEX IF NOT EXISTS hold_until ON hold (until)",
    "CREATE TABLE IF NOT EXISTS row (position INTEGER PRIMARY KEY, scope TEXT, slot INTEGER, task TEXT, value BLOB,"
    " UNIQUE (scope, task))",
    "CREATE INDEX IF NOT EXISTS row_slot ON row (scope, slot, position)",
    "CREATE INDEX IF NOT EXISTS row_position ON row (scope, position)",
)
_ALL_TABLES = ("state", "node", "claim", "hold", "row")


class Scope(Struct):
    """The listings with the same filters."""

    turn: str = ""
    turn_until: float = -math.inf
    listing: ListingInfo = ListingInfo()


class State(Struct):
    """What a fleet has one of. Times are those of the store's clock."""

    epoch: str
    boot: str
    """Identifier of the clock; times of another one have no meaning."""
    reported_at: float = -math.inf
    learning_until: float = -math.inf
    pause_until: float = -math.inf
    next_position: int = 1
    revision: int = 0
    scopes: dict[str, Scope] = {}

    def scope(self, name: str) -> Scope:
        """Return the listings with some filters."""
        return self.scopes.setdefault(name, Scope())

    def latest(self, now: float) -> float:
        """Return the time of a step: a process that has waited for the file read its clock before an earlier step."""
        return max(now, self.reported_at)

    def is_learning(self, now: float) -> bool:
        """Return whether the quotas of other nodes may be unknown; call it once for each report."""
        if now - self.reported_at > MAX_SILENCE_SECONDS:
            self.learning_until = now + LEARNING_SECONDS
        self.reported_at = now
        return now < self.learning_until


class Usage(Struct, frozen=True, gc=False):
    """The stored limits of a node: the configured ones, the wanted amounts, the quota, and what it may be using."""

    limits: Limits = Limits(math.inf)
    wanted: Limits = Limits(0.0, 0.0, 0.0)
    quota: Limits = Limits(0.0, 0.0, 0.0)
    reserved: Limits = Limits(0.0, 0.0, 0.0)


_decode = msgspec.msgpack.Decoder(State).decode
encode = msgspec.msgpack.Encoder().encode


def load_state(database: sqlite3.Connection, boot: str) -> State:
    """Return the state. Create a new epoch in an empty file, and in one whose times have no meaning any more."""
    row = database.execute("SELECT value FROM state").fetchone()
    state = _decode(row[0]) if row else None
    if state is None or state.boot != boot:
        for table in _ALL_TABLES:
            database.execute(f"DELETE FROM {table}")  # noqa: S608 - a constant
        state = State(secrets.token_hex(8), boot)
    return state


def save_state(database: sqlite3.Connection, state: State) -> None:
    """Store the state."""
    database.execute("INSERT OR REPLACE INTO state VALUES (0, ?)", (encode(state),))
