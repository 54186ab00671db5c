"""``ClaimTrackingSource``: wraps a ``TaskSource`` and records each claim, from before Start until it is settled.

The intent to claim is durable before Start is sent. Before settling a claim whose lease may have expired, the
task's state is looked up: the request could otherwise hit a claim that another exporter holds by now. An expired
claim is not settled at all.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from aluma_async.exceptions import Ambiguous, BadSpecification, ClaimConflict, InvalidResponse
from aluma_async.models import Claim, ExportFile, ExportTask, TaskState
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.policy.lease import LeaseStatus
from aluma_async.ports import TaskSource


class ClaimTrackingSource:
    """Wraps ``source``; ``claims`` is kept up to date."""

    def __init__(self, source: TaskSource, claims: ClaimTracker) -> None:
        self._source = source
        self._claims = claims

    def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List the pending tasks."""
        return self._source.list_pending()

    async def start(self, task: ExportTask) -> Claim:
        """Record the intent, then claim the task. Also raises ``JournalError``; Start was not sent in that case."""
        await self._claims.record_intent(task.id)
        try:
            claim = await self._source.start(task)
        except (InvalidResponse, BadSpecification):  # claimed, but the response is unusable
            raise
        except Ambiguous:
            self._claims.mark_start_unconfirmed(task.id)
            raise
        except BaseException:  # certainly not claimed, or not even sent
            self._claims.close(task.id)
            raise
        self._claims.record_claimed(claim)
        return claim

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a download."""
        return self._source.open_file(claim, file)

    async def complete(self, task: ExportTask) -> None:
        """Complete the task while its lease is valid."""
        await self._settle(self._source.complete, task, deletes=True)

    async def cancel(self, task: ExportTask) -> None:
        """Cancel the claim while its lease is valid, or while a late Start may still create it."""
        await self._settle(self._source.cancel, task, deletes=False)

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail the task while its lease is valid."""
        await self._settle(self._source.fail, task, message, deletes=True)

    async def state(self, task: ExportTask) -> str | None:
        """Look up a task's state."""
        return await self._source.state(task)

    async def _settle(
        self, request: Callable[..., Awaitable[None]], task: ExportTask, *extra: str, deletes: bool
    ) -> None:
        try:
            match self._claims.lease_status(task.id):
                case LeaseStatus.EXPIRED:
                    raise ClaimConflict(f"task {task.id}: the lease of the claim has expired")
                case LeaseStatus.UNCERTAIN if await self._source.state(task) != TaskState.CLAIMED:
                    raise ClaimConflict(f"task {task.id}: Aluma has ended the claim")
            await request(task, *extra)
        except ClaimConflict:
            claim = self._claims.get(task.id)
            self._claims.close(task.id)
            if not (claim and claim.settlement_unconfirmed):
                raise
            return  # an earlier attempt was executed and its reply was lost, so the claim is settled as requested
        except Ambiguous:
            self._claims.mark_settlement_unconfirmed(task.id)
            raise
        self._claims.close(task.id, deleted=deletes)
