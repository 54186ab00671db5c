"""``Ledger``: every claim of ours about which the last word was not said, in memory and in the journal.

A Start is written down before it is sent, so that after any crash it is known what may be claimed. A Start that
was lost sight of stays in doubt for its grace, whatever is answered meanwhile: Aluma may carry it out late.
"""

from collections.abc import Iterator
from contextlib import suppress

from msgspec.structs import replace

from aluma_async.clock import loop_time
from aluma_async.exceptions import JournalError
from aluma_async.models import Claim, ClaimRecord, ClaimState, Timestamp
from aluma_async.policy.lease import LATE_START_SECONDS, LeaseStatus, elapsed, lease_status
from aluma_async.ports import Clock, Journal

SETTLE_RETRY_SECONDS = 600.0
"""How long after its grace a claim in doubt is tried to be given back, if that found no hearing until then."""
_IN_PROGRESS_STATES = (ClaimState.STARTING, ClaimState.CLAIMED)
_EPOCH = Timestamp("", 0.0, 0.0)  # when a claim was sent of which nothing is left but a doubt


class ClaimTracker:
    """``claim_timeout`` is Aluma's, in seconds."""

    def __init__(self, journal: Journal, clock: Clock, claim_timeout: float) -> None:
        self._journal = journal
        self._clock = clock
        self._timeout = claim_timeout
        self._claims: dict[str, ClaimRecord] = {}

    def __iter__(self) -> Iterator[ClaimRecord]:
        return iter(list(self._claims.values()))

    def get(self, task_id: str) -> ClaimRecord | None:
        """What is open about a task."""
        return self._claims.get(task_id)

    def load(self, claims: list[ClaimRecord]) -> list[ClaimRecord]:
        """Take over what an earlier process left; return those claims that it was at work on when it ended.

        A Start whose answer had not come may still be under way, so it is in doubt from now on; what was in doubt
        before is not again, or many crashes in a row would make the doubts grow without end.
        """
        interrupted = [claim for claim in claims if claim.step in _IN_PROGRESS_STATES]
        self._claims = {claim.task_id: claim for claim in claims}
        for claim in interrupted:
            doubted = self._clock() if claim.step is ClaimState.STARTING else claim.doubted
            self._store(replace(claim, step=ClaimState.ORPHANED, doubted=doubted))
        return interrupted

    async def record_intent(self, task_id: str) -> None:
        """Write down that Start is about to be sent. Raises ``JournalError``: then it must not be."""
        earlier = self._claims.get(task_id)
        doubted = earlier.doubted if earlier else None
        self._claims[task_id] = ClaimRecord(task_id, ClaimState.STARTING, self._clock(), doubted=doubted)
        try:
            await self._journal.write(self._claims[task_id])
        except BaseException:
            self.close(task_id)
            raise

    def record_claimed(self, claim: Claim) -> None:
        """Take note that Start was answered, and of when it was really sent; it may have waited for a permit."""
        now = self._clock()
        waited = loop_time() - claim.sent_at
        sent = replace(now, boottime=now.boottime - waited, wall=now.wall - waited)
        self._store(replace(self._claims[claim.task.id], step=ClaimState.CLAIMED, sent=sent))

    def mark_start_unconfirmed(self, task_id: str) -> None:
        """Take note that a Start was lost sight of."""
        self._store(replace(self._claims[task_id], doubted=self._clock()))

    def mark_settlement_unconfirmed(self, task_id: str) -> None:
        """Take note that a last word was sent, and nobody knows whether it was heard."""
        if claim := self._claims.get(task_id):
            self._store(replace(claim, unheard=True))

    async def record_committed(self, task_id: str, files: int, size: int) -> None:
        """Write down that all files are durable, so that Complete is all that is left."""
        await self._transition(task_id, ClaimState.COMMITTED, files=files, size=size)

    async def record_failing(self, task_id: str, message: str) -> None:
        """Write down that all is in the quarantine, so that Fail is all that is left."""
        await self._transition(task_id, ClaimState.FAILING, message=message)

    def mark_orphaned(self, task_id: str) -> None:
        """Take note that nobody works on a claim any more, though it may still be ours."""
        claim = self._claims.get(task_id)
        if claim and claim.step in _IN_PROGRESS_STATES:
            self._store(replace(claim, step=ClaimState.ORPHANED))

    def close(self, task_id: str, *, deleted: bool = False) -> None:
        """Take note that the last word was said; ``gone``: Aluma has deleted the task, so no doubt can matter."""
        claim = self._claims.get(task_id)
        if claim is None:
            return
        if not deleted and self.late_start_window(claim) > 0:
            self._store(replace(claim, step=ClaimState.ORPHANED, sent=_EPOCH, unheard=False))
        else:
            del self._claims[task_id]
            self._journal.delete(ClaimRecord, task_id)

    def may_hold_claim(self, task_id: str) -> bool:
        """Whether Aluma may count a task as claimed by us now, so that it must not be started, whatever is listed."""
        claim = self._claims.get(task_id)
        return bool(claim and elapsed(claim.sent, self._clock()) < self._timeout)

    def lease_status(self, task_id: str) -> LeaseStatus:
        """Judge by its age whose a claim is; one that is not known is over."""
        claim = self._claims.get(task_id)
        if claim is None:
            return LeaseStatus.EXPIRED
        if claim.step is ClaimState.ORPHANED:
            return LeaseStatus.VALID if self.seconds_left(claim) > 0 else LeaseStatus.EXPIRED
        return lease_status(elapsed(claim.sent, self._clock()), self._timeout)

    def seconds_left(self, claim: ClaimRecord) -> float:
        """For how many seconds from now Aluma may count a claim as ours, so that a word about it is worth saying."""
        now = self._clock()
        return max(self._timeout - elapsed(claim.sent, now), self.late_start_window(claim) + SETTLE_RETRY_SECONDS)

    def late_start_window(self, claim: ClaimRecord) -> float:
        """For how many seconds from now a Start that was lost sight of may still be carried out; below 0: no more."""
        return LATE_START_SECONDS - elapsed(claim.doubted, self._clock()) if claim.doubted else float("-inf")

    async def _transition(
        self, task_id: str, step: ClaimState, *, files: int = 0, size: int = 0, message: str = ""
    ) -> None:
        claim = self._claims.get(task_id)
        if claim is None:
            return
        self._claims[task_id] = replace(claim, step=step, files=files, bytes=size, message=message)
        # Where that cannot be written a crash makes us give the task back instead: it is exported twice, alike.
        with suppress(JournalError):
            await self._journal.write(self._claims[task_id])

    def _store(self, claim: ClaimRecord) -> None:
        self._claims[claim.task_id] = claim
        self._journal.put(claim)
