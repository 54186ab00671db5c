"""``ClaimTracker``: the claims that are not settled yet, in memory and in the journal.

The intent to claim is written before Start is sent, so that after any crash the possible claims are known. If the
outcome of a Start is unknown, the claim stays open for ``LATE_START_SECONDS`` even if Cancel is refused, because
Aluma may still execute the Start. It sends no request.
"""

from collections.abc import Iterator
from contextlib import suppress

from msgspec.structs import replace

from aluma_async.clock import loop_time
from aluma_async.exceptions import JournalError, SourceError
from aluma_async.models import Claim, ClaimRecord, ClaimState, Timestamp
from aluma_async.policy.lease import LATE_START_SECONDS, LeaseStatus, elapsed, lease_age, lease_status
from aluma_async.ports import Clock, Journal

SETTLE_RETRY_SECONDS = 600.0
"""Seconds after the late-start window in which Cancel is still retried, if it was not confirmed until then."""
_IN_PROGRESS_STATES = (ClaimState.STARTING, ClaimState.CLAIMED)
_EPOCH = Timestamp("", 0.0, 0.0)
"""Start of the lease of a claim that has ended, but which a late Start may still create again."""


class ClaimTracker:
    """The open claims of one exporter.

    Args:
        journal: Keeps the claims.
        clock: Returns the time for records that outlive the process.
        claim_timeout: Length of Aluma's lease in seconds.
        source_id: The API and the client that claim the tasks. Claims of others are left alone.
    """

    def __init__(self, journal: Journal, clock: Clock, claim_timeout: float, source_id: str = "") -> None:
        self._journal = journal
        self._clock = clock
        self._timeout = claim_timeout
        self._source_id = source_id
        self.foreign: dict[str, ClaimRecord] = {}
        """Open claims in the journal that another API or client has, by task id; only a run with these settles them."""
        self._claims: dict[str, ClaimRecord] = {}
        self._destinations: dict[str, tuple[str, ...]] = {}
        self._intended_at: dict[str, float] = {}
        """The event loop's time of each intent to claim, until the claim is recorded or closed."""

    def __iter__(self) -> Iterator[ClaimRecord]:
        """Iterate over a copy of the open claims."""
        return iter(list(self._claims.values()))

    def get(self, task_id: str) -> ClaimRecord | None:
        """Return the open claim of a task, or None."""
        return self._claims.get(task_id)

    def destinations(self, task_id: str) -> tuple[str, ...]:
        """Return the names of the destinations of a task that this process has committed; otherwise nothing."""
        return self._destinations.get(task_id, ())

    def load(self, claims: list[ClaimRecord]) -> list[ClaimRecord]:
        """Take over the claims of an earlier process; return those that were in progress when it ended.

        A Start that had no response yet may still be in flight, so it counts as unconfirmed from now on. A claim that
        was unconfirmed before keeps its time: repeated crashes would otherwise extend the window without end. Complete
        may have been sent for a committed claim, so its settlement counts as unconfirmed.
        """
        if self._source_id:
            foreign = [claim for claim in claims if claim.source not in ("", self._source_id)]
            claims = [claim for claim in claims if claim not in foreign]
            for claim in foreign:
                if self.seconds_left(claim) > 0:
                    self.foreign[claim.task_id] = claim
                else:
                    self._journal.delete(ClaimRecord, claim.task_id)
        interrupted = [claim for claim in claims if claim.state in _IN_PROGRESS_STATES]
        self._claims = {claim.task_id: claim for claim in claims}
        for claim in interrupted:
            start_unconfirmed_at = self._clock() if claim.state is ClaimState.STARTING else claim.start_unconfirmed_at
            self._store(replace(claim, state=ClaimState.ORPHANED, start_unconfirmed_at=start_unconfirmed_at))
        for claim in claims:
            if claim.state is ClaimState.COMMITTED:
                self._claims[claim.task_id] = replace(claim, settlement_unconfirmed=True)
        return interrupted

    def add_orphaned(self, claim: ClaimRecord) -> bool:
        """Take over a claim of another exporter that has ended; return False if this one has a claim of the task."""
        if claim.task_id in self._claims or claim.task_id in self.foreign:
            return False
        self._store(replace(claim, source=self._source_id))
        return True

    async def record_intent(self, task_id: str) -> None:
        """Record durably that Start is about to be sent. Raises ``JournalError``; Start must not be sent then."""
        earlier = self._claims.get(task_id)
        start_unconfirmed_at = earlier.start_unconfirmed_at if earlier else None
        self._intended_at[task_id] = loop_time()
        self._claims[task_id] = ClaimRecord(
            task_id,
            ClaimState.STARTING,
            self._clock(),
            start_unconfirmed_at=start_unconfirmed_at,
            source=self._source_id,
        )
        try:
            await self._journal.write(self._claims[task_id])
        except BaseException:
            self.close(task_id)
            raise

    def record_claimed(self, claim: Claim) -> None:
        """Record that the task is claimed, and when Start was really sent: it may have waited for a permit."""
        record, now, loop_now = self._claims[claim.task.id], self._clock(), loop_time()
        # The event loop's clock stands still while the machine is suspended, which may have been after the sending.
        suspended = lease_age(record.sent_at, now) - (loop_now - self._intended_at.pop(claim.task.id))
        age = loop_now - claim.sent_at + max(0.0, suspended)
        sent_at = replace(now, boottime=now.boottime - age, wall=now.wall - age)
        self._store(replace(record, state=ClaimState.CLAIMED, sent_at=sent_at))

    def mark_start_unconfirmed(self, task_id: str) -> None:
        """Record that the outcome of a Start is unknown."""
        self._store(replace(self._claims[task_id], start_unconfirmed_at=self._clock()))

    def mark_settlement_unconfirmed(self, task_id: str) -> None:
        """Record that Complete, Cancel or Fail was sent and its outcome is unknown."""
        if claim := self._claims.get(task_id):
            self._store(replace(claim, settlement_unconfirmed=True))

    async def record_committed(
        self, task_id: str, files: int, size: int, destinations: tuple[str, ...] = (), receipt: str = ""
    ) -> None:
        """Record durably that all files are committed, so that the claim must be completed."""
        if task_id in self._claims:
            self._destinations[task_id] = destinations
        await self._transition(task_id, ClaimState.COMMITTED, files=files, size=size, receipt=receipt)

    async def record_failing(self, task_id: str, message: str, receipt: str = "") -> None:
        """Record durably that the task is in the quarantine, so that the claim must be failed."""
        await self._transition(task_id, ClaimState.FAILING, message=message, receipt=receipt)

    def mark_unverified(self, task_id: str) -> None:
        """Record that the files which an earlier process committed are not certain, so that the claim is cancelled."""
        if claim := self._claims.get(task_id):
            self._store(replace(claim, state=ClaimState.ORPHANED, settlement_unconfirmed=False, receipt=""))

    def mark_orphaned(self, task_id: str) -> ClaimRecord | None:
        """Record that no worker owns the claim any more, although Aluma may still hold it; return the claim, if any."""
        claim = self._claims.get(task_id)
        if claim and claim.state in _IN_PROGRESS_STATES:
            claim = replace(claim, state=ClaimState.ORPHANED)
            self._store(claim)
        return claim

    def close(self, task_id: str, *, deleted: bool = False, is_claimed: bool = False) -> None:
        """Close a settled claim, but keep it while a late Start may create it again, or has created it.

        Args:
            task_id: The task.
            deleted: Aluma has deleted the task, so that no late Start can claim it.
            is_claimed: The task's state shows a claim, which a Start without a reply may have created.
        """
        claim = self._claims.get(task_id)
        if claim is None:
            return
        window = self.late_start_window(claim) + (SETTLE_RETRY_SECONDS if is_claimed else 0.0)
        if not deleted and window > 0:
            self._store(replace(claim, state=ClaimState.ORPHANED, sent_at=_EPOCH, settlement_unconfirmed=False))
        else:
            del self._claims[task_id]
            self._destinations.pop(task_id, None)
            self._intended_at.pop(task_id, None)
            self._journal.delete(ClaimRecord, task_id)

    def may_hold_claim(self, task_id: str) -> bool:
        """Return whether Aluma may hold a claim of this exporter now, so that the task must not be started again."""
        claim = self._claims.get(task_id)
        return bool(claim and lease_age(claim.sent_at, self._clock()) < self._timeout)

    def is_of_another_boot(self, claim: ClaimRecord) -> bool:
        """Return whether the machine was booted since the claim, so that only the wall clock tells its age."""
        return claim.sent_at.boot != self._clock().boot

    def is_settled(self, claim: ClaimRecord) -> bool:
        """Return whether the claim has ended, and is open only because a late Start may create it again."""
        return claim.sent_at == _EPOCH

    def count_unsettled(self) -> int:
        """Return the number of claims that Aluma may still hold."""
        return len(self.foreign) + sum(not self.is_settled(claim) for claim in self._claims.values())

    def foreign_error(self, claim: ClaimRecord) -> SourceError:
        """Return the reason why this run does not settle a claim."""
        return SourceError(
            f"it is claimed at {claim.source}, and this run uses {self._source_id}",
            hint="Run the exporter once with that base_url and client, or wait until the lease has expired.",
        )

    def lease_status(self, task_id: str) -> LeaseStatus:
        """Return the status of a claim's lease by its age; an unknown claim is expired."""
        claim = self._claims.get(task_id)
        if claim is None:
            return LeaseStatus.EXPIRED
        if claim.state is ClaimState.ORPHANED:
            if self.seconds_left(claim) <= 0:
                return LeaseStatus.EXPIRED
            return LeaseStatus.UNCERTAIN if self.is_settled(claim) else LeaseStatus.VALID
        return lease_status(lease_age(claim.sent_at, self._clock()), self._timeout)

    def age(self, task_id: str) -> float:
        """Return the seconds since the Start of an open claim was sent; infinite if there is no such claim."""
        claim = self._claims.get(task_id)
        return lease_age(claim.sent_at, self._clock()) if claim else float("inf")

    def seconds_left(self, claim: ClaimRecord) -> float:
        """Return for how many seconds Aluma may still hold the claim, so that settling it makes sense."""
        now = self._clock()
        return max(self._timeout - lease_age(claim.sent_at, now), self.late_start_window(claim) + SETTLE_RETRY_SECONDS)

    def late_start_window(self, claim: ClaimRecord) -> float:
        """Return for how many seconds an unconfirmed Start may still be executed; negative if it cannot be any more."""
        since = claim.start_unconfirmed_at
        return LATE_START_SECONDS - elapsed(since, self._clock()) if since else float("-inf")

    async def _transition(
        self, task_id: str, state: ClaimState, *, files: int = 0, size: int = 0, message: str = "", receipt: str = ""
    ) -> None:
        claim = self._claims.get(task_id)
        if claim is None:
            return
        self._claims[task_id] = replace(claim, state=state, files=files, bytes=size, message=message, receipt=receipt)
        # If this cannot be written, a crash makes recovery cancel the claim instead, and the task is exported again,
        # with the same result.
        with suppress(JournalError):
            await self._journal.write(self._claims[task_id])

    def _store(self, claim: ClaimRecord) -> None:
        self._claims[claim.task_id] = claim
        self._journal.put(claim)
