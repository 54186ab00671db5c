"""``ClaimTrackingSource``: wraps a ``TaskSource`` and records each claim, from before Start until it is settled.

The intent to claim is durable before Start is sent. Before settling a claim whose lease may have expired, or a claim
that only a late Start may have created, the task's state is looked up: the request could otherwise hit a claim that
another exporter holds by now. An expired claim is not settled at all. After a refusal that follows an attempt whose
outcome is unknown, the task's state shows whether that attempt was executed and only its reply was lost. A rejection
for another reason ends the claim only if the state does. An undocumented state, which may come from a proxy, shows
nothing: the claim stays open, and its state is read again later.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    AuthenticationFailed,
    BadSpecification,
    ClaimConflict,
    DestinationError,
    InvalidResponse,
    RequestRejected,
    SourceError,
    Unavailable,
)
from aluma_async.models import Claim, ExportTask, TaskState
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.defect import plugin_defect
from aluma_async.policy.lease import LeaseStatus
from aluma_async.ports import BEFORE_SENDING, TaskSource
from aluma_async.source_wrapper import SourceWrapper


class CopyLost(DestinationError):
    """The copy of a task that is being failed is not in the quarantine any more; its claim must be cancelled."""


class ClaimTrackingSource(SourceWrapper):
    """Wraps ``source``; ``claims`` is kept up to date.

    Before each Fail, also a repeated one, ``has_copy`` is called with the id of the task and the receipt of its copy.
    """

    def __init__(self, source: TaskSource, claims: ClaimTracker) -> None:
        super().__init__(source)
        self._claims = claims
        self.has_copy: Callable[[str, str], Awaitable[bool]] = _has_no_copy
        self._refused: set[str] = set()  # ids of claims that were refused, until the task's state was read

    async def start(self, task: ExportTask) -> Claim:
        """Record the intent, then claim the task. Also raises ``JournalError``; Start was not sent in that case."""
        await self._claims.record_intent(task.id)
        if self._refused:
            self._refused.discard(task.id)
        try:
            claim = await self._source.start(task)
        except (InvalidResponse, BadSpecification):  # claimed, but the response is unusable
            raise
        except Ambiguous:
            self._claims.mark_start_unconfirmed(task.id)
            raise
        except BaseException as error:
            if not isinstance(error, AlumaAsyncError) and (defect := plugin_defect(error)):
                self._claims.mark_start_unconfirmed(task.id)
                raise Ambiguous(f"start task {task.id}: {defect}") from error
            # A proxy may have blocked only the response. The task's state will show whether it is claimed.
            if isinstance(error, RequestRejected) and not isinstance(error, AuthenticationFailed):
                self._claims.mark_start_unconfirmed(task.id)
            # Otherwise certainly not claimed by this Start, or not even sent; but by an earlier one without a reply.
            self._claims.close(task.id, is_claimed=isinstance(error, ClaimConflict))
            raise
        self._claims.record_claimed(claim)
        return claim

    def complete(self, task: ExportTask) -> Coroutine[Any, Any, None]:
        """Complete the task while its lease is valid."""
        return self._settle(self._source.complete, task, final=TaskState.COMPLETED)

    def cancel(self, task: ExportTask) -> Coroutine[Any, Any, None]:
        """Cancel the claim while its lease is valid, or while a late Start may still create it."""
        return self._settle(self._source.cancel, task, final=None)

    def fail(self, task: ExportTask, message: str) -> Coroutine[Any, Any, None]:
        """Fail the task while its lease is valid. Raises ``CopyLost``."""
        return self._settle(self._fail, task, message, final=TaskState.FAILED)

    async def _fail(self, task: ExportTask, message: str) -> None:
        claim = self._claims.get(task.id)
        if claim and claim.receipt:
            try:
                is_stored = await self.has_copy(task.id, claim.receipt)
            except DestinationError as error:
                raise SourceError(f"task {task.id}: its copy cannot be verified: {error}", hint=error.hint) from error
            if not is_stored:
                self._claims.mark_unverified(task.id)
                raise CopyLost(f"task {task.id}: its copy is not in the quarantine any more")
        await self._source.fail(task, message)

    async def state(self, task: ExportTask) -> str | None:
        """Look up a task's state."""
        try:
            return await self._source.state(task)
        except AlumaAsyncError:
            raise
        except BaseException as error:
            if defect := plugin_defect(error):
                raise SourceError(f"look up task {task.id}: {defect}") from error
            raise

    async def _known_state(self, task: ExportTask) -> TaskState | None:
        """Look up a task's state; None: Aluma has no such task. Raises ``InvalidResponse`` for an undocumented one."""
        state = await self.state(task)
        try:
            return None if state is None else TaskState(state)
        except ValueError:
            raise InvalidResponse(
                f"task {task.id}: Aluma or a proxy answered with the unknown state {str(state)[:40]!r}",
                hint="Check whether a proxy answers in place of Aluma.",
            ) from None

    async def _settle(
        self, request: Callable[..., Awaitable[None]], task: ExportTask, *extra: str, final: TaskState | None
    ) -> None:
        """Send a request that settles a claim. ``final`` is the state that it leads to; None: the task is pending."""
        try:
            if task.id in self._refused:  # nothing more is sent, because it could hit another exporter's claim
                raise ClaimConflict(f"task {task.id}: the claim was refused before")
            status = self._check_lease(task.id, LeaseStatus.UNCERTAIN)
            if status is LeaseStatus.UNCERTAIN and await self._known_state(task) is not TaskState.CLAIMED:
                raise ClaimConflict(f"task {task.id}: Aluma has ended the claim")
            token = BEFORE_SENDING.set(partial(self._check_lease, task.id, status))
            try:
                await self._send(request, task, *extra)
            finally:
                BEFORE_SENDING.reset(token)
        except ClaimConflict:
            claim, executed, is_claimed = self._claims.get(task.id), False, False
            if claim and claim.settlement_unconfirmed:
                self._refused.add(task.id)
                state = await self._known_state(task)
                self._refused.discard(task.id)
                is_claimed = state is TaskState.CLAIMED
                # An earlier attempt was executed, and only its reply was lost.
                executed = state in (final, TaskState.RUNNING, None) if final else not is_claimed
            self._claims.close(task.id, deleted=executed and bool(final), is_claimed=is_claimed and not final)
            if not executed:
                raise
            return
        except (Ambiguous, RequestRejected):  # a proxy may have blocked only the response
            self._claims.mark_settlement_unconfirmed(task.id)
            raise
        except AlumaAsyncError:
            raise
        except BaseException as error:
            if defect := plugin_defect(error):
                self._claims.mark_settlement_unconfirmed(task.id)
                raise Ambiguous(f"settle task {task.id}: {defect}") from error
            raise
        self._claims.close(task.id, deleted=bool(final))

    def _check_lease(self, task_id: str, checked: LeaseStatus) -> LeaseStatus:
        """Return the status of a lease. Raises ``ClaimConflict`` if it has expired.

        Raises ``Unavailable`` if it may have expired since it was ``checked``, so that the state must be read first.
        """
        status = self._claims.lease_status(task_id)
        if status is LeaseStatus.EXPIRED:
            raise ClaimConflict(f"task {task_id}: the lease of the claim has expired")
        if status is LeaseStatus.UNCERTAIN and checked is LeaseStatus.VALID:
            raise Unavailable(f"task {task_id}: the request had to wait until the lease may have expired")
        return status

    async def _send(self, request: Callable[..., Awaitable[None]], task: ExportTask, *extra: str) -> None:
        """Send a settlement. Raises ``ClaimConflict`` also if it is rejected and the state shows no claim."""
        try:
            await request(task, *extra)
        except RequestRejected as error:
            state: TaskState | None = TaskState.CLAIMED
            with suppress(SourceError):
                state = await self._known_state(task)
            if state in (TaskState.CLAIMED, None):  # None may mean that look-ups are rejected, too
                raise
            self._claims.mark_settlement_unconfirmed(task.id)
            raise ClaimConflict(f"task {task.id}: Aluma has ended the claim") from error


async def _has_no_copy(task_id: str, receipt: str) -> bool:  # noqa: ARG001 - as ``Quarantine.has_copy``
    return False
