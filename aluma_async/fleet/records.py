"""``NodeRecords``: what a node has to report about its tasks, and the parts of it that the store does not know yet.

It sends nothing: ``FleetLink`` takes the changes for its next report, and gives them back if the report failed.
"""

from collections.abc import Callable, Iterable
from itertools import islice

from msgspec import Struct
from msgspec.structs import replace

from aluma_async.fleet.ownership import Ownership
from aluma_async.fleet.ports import (
    CLAIMS,
    MAX_HOLDS_PER_UPDATE,
    QUEUED_SECONDS,
    RECENTLY_SETTLED_SECONDS,
    FleetClaim,
    FleetHold,
    RecordState,
)
from aluma_async.models import ClaimRecord, ClaimState, HoldRecord, Timestamp
from aluma_async.policy.lease import LATE_START_SECONDS, elapsed, lease_age
from aluma_async.ports import Clock

NO_LEASE = Timestamp("", 0.0, 0.0)
"""Start of the lease of a claim that has ended, but which a late Start may still create again."""
_UNCONFIRMED_SECONDS = LATE_START_SECONDS + 600.0  # for which a node may still release a claim of a late Start
_MAX_FOREIGN = 10_000
_STATES = {
    ClaimState.STARTING: RecordState.STARTING,
    ClaimState.CLAIMED: RecordState.CLAIMED,
    ClaimState.COMMITTED: RecordState.COMMITTED,
    ClaimState.FAILING: RecordState.FAILING,
    ClaimState.ORPHANED: RecordState.ORPHANED,
}


def earlier(now: Timestamp, seconds: float) -> Timestamp:
    """Return the time some seconds before."""
    return Timestamp(now.boot, now.boottime - seconds, now.wall - seconds)


class _Record(Struct, frozen=True, gc=False):
    state: RecordState
    since: Timestamp
    unconfirmed_at: Timestamp | None = None


class Changes(Struct):
    """What one report contains."""

    claims: tuple[FleetClaim, ...]
    holds: tuple[FleetHold, ...]


class NodeRecords:
    """The records and holds of one node.

    Args:
        claim_timeout: Length of Aluma's lease in seconds.
        clock: Returns the time, including suspension of the machine.
    """

    def __init__(self, claim_timeout: float, clock: Clock) -> None:
        self.ownership = Ownership()
        self._timeout = claim_timeout
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._changed: dict[str, None] = {}
        self._holds: dict[str, HoldRecord] = {}
        self._ended_holds: dict[str, Timestamp] = {}
        self._changed_holds: dict[str, None] = {}
        self._foreign: dict[str, HoldRecord | None] = {}
        """Holds of other nodes, until this node's pipeline has stored or ended them: it need not report them."""

    def state(self, task_id: str) -> RecordState | None:
        """Return the state of a task's record."""
        record = self._records.get(task_id)
        return record.state if record else None

    def load(self, claims: Iterable[ClaimRecord]) -> frozenset[str]:
        """Store the claims of an earlier process, which other nodes may know; return their tasks."""
        for claim in claims:
            self.put_claim(claim)
        self.mark_shared()
        return frozenset(self.ownership.shared)

    def put_claim(self, claim: ClaimRecord) -> None:
        """Store the record of a claim, unless it belongs to another node by now."""
        state = _STATES[claim.state]
        if state is RecordState.STARTING:
            self.ownership.forget(claim.task_id)
        elif claim.task_id in self.ownership.lost:
            return
        elif state is RecordState.ORPHANED and claim.sent_at == NO_LEASE:
            state = RecordState.UNCONFIRMED
        self._put(claim.task_id, _Record(state, claim.sent_at, claim.start_unconfirmed_at))

    def put_queued(self, task_ids: Iterable[str]) -> None:
        """Store records of tasks that the store has recorded as queued."""
        now = self._clock()
        for task_id in task_ids:
            self._records[task_id] = _Record(RecordState.QUEUED, now)

    def close(self, task_id: str) -> None:
        """Remove the record of a claim; of a task that was settled, the store keeps one for a moment."""
        record = self._records.get(task_id)
        if record and record.state in (RecordState.COMMITTED, RecordState.FAILING):
            self._put(task_id, _Record(RecordState.SETTLED, self._clock()))
        else:
            self.drop([task_id])
        self.ownership.forget(task_id)

    def drop(self, task_ids: Iterable[str]) -> None:
        """Remove records, also at the store."""
        for task_id in task_ids:
            self._records.pop(task_id, None)
            self._changed[task_id] = None

    def forget(self, task_ids: Iterable[str]) -> None:
        """Remove records that belong to another node by now, without a report."""
        for task_id in task_ids:
            self._records.pop(task_id, None)
            self._changed.pop(task_id, None)

    def drop_queued(self, keep: Callable[[str], bool]) -> None:
        """Remove the records of queued tasks for which ``keep`` returns false."""
        queued = [task_id for task_id, record in self._records.items() if record.state is RecordState.QUEUED]
        self.drop([task_id for task_id in queued if not keep(task_id)])

    def mark_shared(self) -> None:
        """Record that a report of all claims may reach other nodes."""
        self.ownership.shared.update(task_id for task_id, record in self._records.items() if record.state in CLAIMS)

    def put_hold(self, hold: HoldRecord) -> None:
        """Store a hold, and report it unless it came from another node."""
        self._holds[hold.task_id] = hold
        self._ended_holds.pop(hold.task_id, None)
        if self._foreign.pop(hold.task_id, None) != hold:
            self._changed_holds[hold.task_id] = None

    def end_hold(self, task_id: str) -> None:
        """Remove a hold, and report it unless another node has ended it."""
        self._holds.pop(task_id, None)
        if self._foreign.pop(task_id, task_id) is not None:
            self._ended_holds[task_id] = self._clock()
            self._changed_holds[task_id] = None

    def receive_holds(self, holds: Iterable[FleetHold]) -> tuple[list[HoldRecord], list[str]]:
        """Convert holds of other nodes; return those that apply, and the tasks whose hold has ended."""
        now = self._clock()
        started, ended = [], []
        for hold in holds:
            record = hold.record and replace(hold.record, since=earlier(now, hold.age))
            self._foreign[hold.task_id] = record
            if record:
                started.append(record)
            else:
                ended.append(hold.task_id)
        for task_id in list(islice(self._foreign, max(0, len(self._foreign) - _MAX_FOREIGN))):
            del self._foreign[task_id]
        return started, ended

    def resend_holds(self) -> None:
        """Report all holds again, because the store has forgotten them."""
        self._changed_holds.update(dict.fromkeys(self._holds))

    def pop_changes(self, *, full: bool) -> Changes:
        """Return what the next report contains, and consider it as reported; ``full``: with all records."""
        now = self._clock()
        self.mark_shared()
        task_ids = self._records.keys() | self._changed.keys() if full else self._changed
        claims = tuple([self._claim(task_id, now) for task_id in task_ids])
        self._changed = {}
        hold_ids = list(islice(self._changed_holds, MAX_HOLDS_PER_UPDATE))
        holds = tuple([hold for task_id in hold_ids if (hold := self._hold(task_id, now))])
        for task_id in hold_ids:
            del self._changed_holds[task_id]
        return Changes(claims, holds)

    def restore(self, changes: Changes) -> None:
        """Report changes again, because the report may not have arrived."""
        self._changed = {claim.task_id: None for claim in changes.claims} | self._changed
        self._changed_holds = {hold.task_id: None for hold in changes.holds} | self._changed_holds

    def confirm(self, changes: Changes) -> None:
        """Forget what need not be reported again."""
        for claim in changes.claims:
            if claim.state is RecordState.SETTLED and self.state(claim.task_id) is RecordState.SETTLED:
                del self._records[claim.task_id]
        for hold in changes.holds:
            if hold.record is None and hold.task_id not in self._changed_holds:
                self._ended_holds.pop(hold.task_id, None)

    def _put(self, task_id: str, record: _Record) -> None:
        self._records[task_id] = record
        self._changed[task_id] = None

    def _claim(self, task_id: str, now: Timestamp) -> FleetClaim:
        record = self._records.get(task_id)
        if record is None:
            return FleetClaim(task_id, RecordState.RELEASED)
        age = max(0.0, lease_age(record.since, now))
        unconfirmed_age = None if record.unconfirmed_at is None else max(0.0, elapsed(record.unconfirmed_at, now))
        match record.state:
            case RecordState.QUEUED:
                return FleetClaim(task_id, record.state, 0.0, QUEUED_SECONDS)
            case RecordState.SETTLED:
                return FleetClaim(task_id, record.state, age, max(0.0, RECENTLY_SETTLED_SECONDS - age))
        remaining = max(self._timeout - age, 0.0 if unconfirmed_age is None else _UNCONFIRMED_SECONDS - unconfirmed_age)
        return FleetClaim(
            task_id,
            record.state,
            0.0 if record.state is RecordState.UNCONFIRMED else age,
            max(0.0, remaining),
            unconfirmed_age,
        )

    def _hold(self, task_id: str, now: Timestamp) -> FleetHold | None:
        if hold := self._holds.get(task_id):
            return FleetHold(task_id, max(0.0, elapsed(hold.since, now)), hold)
        ended_at = self._ended_holds.get(task_id)
        return None if ended_at is None else FleetHold(task_id, max(0.0, elapsed(ended_at, now)))
