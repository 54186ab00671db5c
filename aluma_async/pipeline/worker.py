"""``Worker``: takes one task through start -> save -> commit -> complete, and out again if that goes wrong."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from aluma_async.clock import loop_time
from aluma_async.concurrency.deadline import SharedDeadline
from aluma_async.events import (
    ClaimLost,
    ClaimRefused,
    Event,
    FailureBreakerOpened,
    QuarantineFailed,
    SettlementDeferred,
    SettlementUnconfirmed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskParked,
    TaskStarted,
)
from aluma_async.exceptions import (
    AlumaAsyncError,
    ClaimConflict,
    DestinationError,
    DestinationUnavailable,
    SourceError,
    UnexportableTask,
)
from aluma_async.models import Claim, ClaimState, ExportTask
from aluma_async.pipeline.admission import Admission
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.settlement import settle_claim
from aluma_async.pipeline.transfer import Delivered, FileTransfer
from aluma_async.policy.circuit_breaker import CircuitBreaker
from aluma_async.policy.error_policy import Action, decide, spec_problem
from aluma_async.policy.lease import SAFE_LEASE_FRACTION
from aluma_async.ports import Destination, OnEvent, TaskSource

T = TypeVar("T")

SETTLE_TIMEOUT_SECONDS = 30.0
"""How long a last word about a claim may take while we are being stopped, before it is left to a later run."""
_MAX_MESSAGE_CHARS = 1000


class Worker:
    """Exports tasks one after the other; several workers share everything they are made of."""

    def __init__(
        self,
        source: TaskSource,
        destination: Destination,
        transfer: FileTransfer,
        claims: ClaimTracker,
        cooldown: Cooldown,
        quarantine: Quarantine | None,
        admission: Admission,
        *,
        claim_timeout: float,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._destination = destination
        self._transfer = transfer
        self._claims = claims
        self._cooldown = cooldown
        self._quarantine = quarantine
        self._admission = admission
        self._breaker = CircuitBreaker()
        self._claim_seconds = claim_timeout * SAFE_LEASE_FRACTION
        self._limit = SharedDeadline(self._claim_seconds)
        self._on_event = on_event

    async def export(self, task: ExportTask) -> bool:
        """Export a task; return whether Aluma will not offer it again.

        Raises ``SourceError`` or ``JournalError`` if it could not be claimed at all, ``DestinationUnavailable``
        if nobody's files can be saved: whatever it is, it concerns all tasks. Nothing else but cancellation.
        """
        claim: Claim | None = None
        try:
            # The slot is released before Complete, which needs no disk, so that the next task can start meanwhile.
            async with self._admission.slot(task.id) as admitted:
                if not admitted:
                    return False
                begun = loop_time()
                claim = await self._source.start(task)
                self._on_event(TaskStarted(task, len(claim.spec.files)))
                delivered = await self._transfer_files(claim)
            await self._claims.record_committed(
                task.id, len(claim.spec.files), *delivered
            )  # from here on only Complete is right
            await self._source.complete(task)
        except AlumaAsyncError as error:
            return await self._give_up(task, claim, error)
        except Exception as error:  # noqa: BLE001 - a defect of ours or of a plug-in must not take other tasks along
            return await self._give_up(task, claim, AlumaAsyncError(f"unexpected {type(error).__name__}"))
        except BaseException:  # cancelled: Start is whole, so without a claim there is nothing to give back
            await self._stopped(task)
            raise
        await self._cooldown.clear_task(task.id)
        self._breaker.record_success()
        self._on_event(
            TaskCompleted(task, len(claim.spec.files), delivered.bytes, loop_time() - begun, delivered.destinations)
        )
        return True

    async def _transfer_files(self, claim: Claim) -> Delivered:
        """Bring all files of a claim to the destination while it is surely ours; return their bytes."""
        if why := spec_problem(claim.spec):
            raise UnexportableTask(why)
        return await self._within_lease(self._transfer.deliver, claim, self._destination)

    async def _within_lease(self, step: Callable[..., Awaitable[T]], claim: Claim, *args: object) -> T:
        """Do something as long as the claim is surely ours. Raises ``DestinationError`` if that is not enough."""
        with self._limit.scope(claim.sent_at):
            return await step(claim, *args)
        raise DestinationError(
            f"not saved within {self._claim_seconds:.0f} s, after which Aluma may give the task to somebody else",
            hint="Fewer workers, or a longer claim_timeout_seconds if Aluma's is longer.",
        )

    async def _give_up(self, task: ExportTask, claim: Claim | None, error: AlumaAsyncError) -> bool:
        attempt = (await self._cooldown.get(task.id)).failures + 1
        open_claim = self._claims.get(task.id)
        state = open_claim.state if open_claim and claim else ClaimState.CLAIMED if claim else None
        match decide(error, state=state, attempt=attempt):
            case Action.SKIP:
                self._on_event(ClaimRefused(task, error))
                return True
            case Action.CLAIM_LOST:
                self._on_event(ClaimLost(task, error))
                return True
            case Action.PAUSE_ALL:
                raise error
            case Action.SETTLE_LATER:
                self._on_event(SettlementUnconfirmed(task, error))
            case Action.FAIL:
                return await self._fail(task, claim, error)
            case Action.CANCEL:
                await self._cool_down(task, error, give_back=True)
            case Action.COOL_DOWN:
                await self._cool_down(task, error, give_back=False)
        if isinstance(error, DestinationUnavailable):
            raise error
        return False

    async def _fail(self, task: ExportTask, claim: Claim | None, error: AlumaAsyncError) -> bool:
        """Save what the task holds, then fail it; where that cannot be done, give it back and park it."""
        reason, message = type(error).__name__, str(error)[:_MAX_MESSAGE_CHARS]
        try:
            if claim is None or self._quarantine is None:
                raise error
            if not self._breaker.allows(reason):
                raise error
            await self._within_lease(self._quarantine.store, claim, error)
            with anyio.CancelScope(shield=True):  # from here on Fail is the only right word
                await self._claims.record_failing(task.id, message)
            await self._source.fail(task, message)
        except ClaimConflict as why:
            self._on_event(ClaimLost(task, why))
            return True
        except AlumaAsyncError as why:
            if (open_claim := self._claims.get(task.id)) and open_claim.state is ClaimState.FAILING:
                self._on_event(SettlementUnconfirmed(task, why))
                return False
            if why is not error:
                self._on_event(QuarantineFailed(task, why))
            await self._cool_down(task, error, give_back=True, park=True)
            return False
        except BaseException:
            await self._stopped(task)
            raise
        if self._breaker.record_failure(reason):
            self._on_event(FailureBreakerOpened(task, error))
        await self._cooldown.clear_task(task.id)
        self._on_event(TaskFailed(task, error))
        return True

    async def _cool_down(
        self, task: ExportTask, error: AlumaAsyncError, *, give_back: bool, park: bool = False
    ) -> None:
        # Held back first, so that no crash makes a hot loop of it; and again from when it was given back, since a
        # Cancel that was lost sight of must not come in after the next Start.
        hold = await self._cooldown.start(task.id, error, park=park)
        if give_back:
            await self._let_go(task)
            await self._cooldown.restart(hold)
        if hold.parked:
            self._on_event(TaskParked(task, hold))
        else:
            self._on_event(TaskCancelled(task, error, hold.failures, hold.seconds))

    async def _stopped(self, task: ExportTask) -> None:
        """Let go of a claim because the run stops."""
        if event := await self._let_go(task):
            self._on_event(event)

    async def _let_go(self, task: ExportTask) -> Event | None:
        """Say the last word about a claim, even when cancelled ourselves; what found no hearing is said later."""
        claim = self._claims.get(task.id)
        if claim is None:
            return None
        error = SourceError(f"task {task.id}: no answer in time")
        with anyio.CancelScope(shield=True), anyio.move_on_after(SETTLE_TIMEOUT_SECONDS):
            try:
                return await settle_claim(self._source, task, claim, self._claims.destinations(task.id))
            except SourceError as why:
                error = why
        self._on_event(SettlementDeferred(task, error))
        return None
