"""``Claims``: a ``TaskSource`` around a ``TaskSource`` that keeps the ledger and the time of each claim.

Start is written down before it is sent. Of a claim that may be over Aluma is asked before anything is said,
since there the same words would be about somebody else's claim; of one that is over nothing is said at all.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from aluma_async.exceptions import Ambiguous, BadSpecification, ClaimConflict, InvalidResponse
from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.pipeline.claim_tracker import Ledger
from aluma_async.policy.lease import LeaseStatus
from aluma_async.ports import TaskSource

CLAIMED = "pending:complete_client_action"
"""The state of a task that somebody has claimed (Aluma's page "List Tasks")."""


class Claims:
    """Wraps ``source``."""

    def __init__(self, source: TaskSource, ledger: Ledger) -> None:
        self._source = source
        self._ledger = ledger

    def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List."""
        return self._source.list_pending()

    async def start(self, task: ExportTask) -> Claim:
        """Write the claim down, then claim. Raises ``JournalError``, too: then nothing was sent."""
        await self._ledger.intend(task.id)
        try:
            claim = await self._source.start(task)
        except (InvalidResponse, BadSpecification):  # it is ours, and its answer was no use
            raise
        except Ambiguous:
            self._ledger.doubt(task.id)
            raise
        except BaseException:  # surely not ours, or not even sent
            self._ledger.settle(task.id)
            raise
        self._ledger.claimed(claim)
        return claim

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a download."""
        return self._source.open_file(claim, file)

    async def complete(self, task: ExportTask) -> None:
        """Complete what is surely ours."""
        await self._say(self._source.complete, task, deletes=True)

    async def cancel(self, task: ExportTask) -> None:
        """Cancel what is surely ours, or was perhaps claimed without our seeing it."""
        await self._say(self._source.cancel, task, deletes=False)

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail what is surely ours."""
        await self._say(self._source.fail, task, message, deletes=True)

    async def state(self, task: ExportTask) -> str | None:
        """Look up a task's state."""
        return await self._source.state(task)

    async def _say(self, word: Callable[..., Awaitable[None]], task: ExportTask, *more: str, deletes: bool) -> None:
        try:
            match self._ledger.lease_status(task.id):
                case LeaseStatus.EXPIRED:
                    raise ClaimConflict(f"task {task.id}: Aluma's time-out for our claim has passed")
                case LeaseStatus.UNCERTAIN if await self._source.state(task) != CLAIMED:
                    raise ClaimConflict(f"task {task.id}: Aluma has ended our claim")
            await word(task, *more)
        except ClaimConflict:
            self._ledger.settle(task.id)
            raise
        except Ambiguous:
            self._ledger.unheard(task.id)
            raise
        self._ledger.settle(task.id, gone=deletes)
