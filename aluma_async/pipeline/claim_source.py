"""``Claims``: a ``TaskSource`` around a ``TaskSource`` that keeps the ledger and the time of each claim.

Start is written down before it is sent. Of a claim that may be over Aluma is asked before anything is said,
since there the same words would be about somebody else's claim; of one that is over nothing is said at all.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from aluma_async.exceptions import Ambiguous, BadSpecification, ClaimConflict, InvalidResponse
from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.policy.lease import LeaseStatus
from aluma_async.ports import TaskSource

CLAIMED = "pending:complete_client_action"
"""The state of a task that somebody has claimed (Aluma's page "List Tasks")."""


class ClaimTrackingSource:
    """Wraps ``source``."""

    def __init__(self, source: TaskSource, claims: ClaimTracker) -> None:
        self._source = source
        self._claims = claims

    def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List."""
        return self._source.list_pending()

    async def start(self, task: ExportTask) -> Claim:
        """Write the claim down, then claim. Raises ``JournalError``, too: then nothing was sent."""
        await self._claims.record_intent(task.id)
        try:
            claim = await self._source.start(task)
        except (InvalidResponse, BadSpecification):  # it is ours, and its answer was no use
            raise
        except Ambiguous:
            self._claims.mark_start_unconfirmed(task.id)
            raise
        except BaseException:  # surely not ours, or not even sent
            self._claims.close(task.id)
            raise
        self._claims.record_claimed(claim)
        return claim

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a download."""
        return self._source.open_file(claim, file)

    async def complete(self, task: ExportTask) -> None:
        """Complete what is surely ours."""
        await self._settle(self._source.complete, task, deletes=True)

    async def cancel(self, task: ExportTask) -> None:
        """Cancel what is surely ours, or was perhaps claimed without our seeing it."""
        await self._settle(self._source.cancel, task, deletes=False)

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail what is surely ours."""
        await self._settle(self._source.fail, task, message, deletes=True)

    async def state(self, task: ExportTask) -> str | None:
        """Look up a task's state."""
        return await self._source.state(task)

    async def _settle(self, word: Callable[..., Awaitable[None]], task: ExportTask, *more: str, deletes: bool) -> None:
        try:
            match self._claims.lease_status(task.id):
                case LeaseStatus.EXPIRED:
                    raise ClaimConflict(f"task {task.id}: Aluma's time-out for our claim has passed")
                case LeaseStatus.UNCERTAIN if await self._source.state(task) != CLAIMED:
                    raise ClaimConflict(f"task {task.id}: Aluma has ended our claim")
            await word(task, *more)
        except ClaimConflict:
            self._claims.close(task.id)
            raise
        except Ambiguous:
            self._claims.mark_settlement_unconfirmed(task.id)
            raise
        self._claims.close(task.id, deleted=deletes)
