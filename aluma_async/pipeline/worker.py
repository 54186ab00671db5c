"""``Worker``: takes one task through start -> save -> commit -> complete, and out again if that goes wrong."""

import anyio

from aluma_async.events import (
    ClaimAbandoned,
    ClaimLost,
    QuarantineFailed,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskRefused,
    TaskReleased,
    TaskStarted,
)
from aluma_async.exceptions import AlumaAsyncError, DestinationError, ImpossibleExport, Refused, SourceError
from aluma_async.models import Claim, ExportTask
from aluma_async.pipeline.carrier import Carrier
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.policy.verdict import Verdict, flaw, verdict
from aluma_async.ports import Destination, OnEvent, TaskSource

CLAIM_SHARE = 5 / 6
"""The share of Aluma's time-out after which we give a claim back ourselves: 25 of 30 minutes."""
GIVE_BACK_SECONDS = 30.0
"""How long a claim may take to be given back before it is left to Aluma's time-out."""
_LONGEST_MESSAGE = 1000


class Worker:
    """Exports tasks one after the other; several workers share everything they are made of."""

    def __init__(
        self,
        source: TaskSource,
        destination: Destination,
        carrier: Carrier,
        cooldown: Cooldown,
        quarantine: Quarantine | None,
        *,
        claim_timeout: float,
        park: float,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._destination = destination
        self._carrier = carrier
        self._cooldown = cooldown
        self._quarantine = quarantine
        self._claim_seconds = claim_timeout * CLAIM_SHARE
        self._park = park
        self._on_event = on_event

    async def export(self, task: ExportTask) -> bool:
        """Export a task; return whether Aluma will not offer it again.

        Raises ``SourceError`` if Aluma could not be asked for it at all, and nothing else but cancellation.
        """
        claim: Claim | None = None
        try:
            begun = anyio.current_time()
            claim = await self._source.start(task)
            self._on_event(TaskStarted(task, len(claim.spec.files)))
            size = await self._deliver(claim)
            await self._source.complete(task)
        except AlumaAsyncError as error:
            return await self._give_up(task, claim, error)
        except Exception as error:  # noqa: BLE001 - a defect of ours or of a plug-in must not take other tasks along
            return await self._give_up(task, claim, AlumaAsyncError(f"unexpected {type(error).__name__}"))
        except BaseException:  # cancelled: Start is whole, so without a claim there is nothing to give back
            if claim and await self._cancel(task):
                self._on_event(TaskReleased(task))
            raise
        await self._cooldown.forget(task.id)
        self._on_event(TaskCompleted(task, len(claim.spec.files), size, anyio.current_time() - begun))
        return True

    async def _deliver(self, claim: Claim) -> int:
        """Bring all files of a claim to the destination while it is surely ours; return their bytes."""
        if why := flaw(claim.spec):
            raise ImpossibleExport(why)
        with anyio.move_on_at(claim.sent_at + self._claim_seconds):
            return await self._carrier.carry(claim, self._destination)
        raise DestinationError(
            f"not saved within {self._claim_seconds:.0f} s, after which Aluma may give the task to somebody else",
            hint="Fewer workers, or a longer claim_timeout_seconds if Aluma's is longer.",
        )

    async def _give_up(self, task: ExportTask, claim: Claim | None, error: AlumaAsyncError) -> bool:
        attempt = await self._cooldown.failures(task.id) + 1
        match verdict(error, claimed=claim is not None, attempt=attempt):
            case Verdict.SKIP:
                self._on_event(TaskRefused(task, error))
                return True
            case Verdict.LOST:
                self._on_event(ClaimLost(task, error))
                return True
            case Verdict.AWAY:
                raise error
            case Verdict.FAIL:
                return await self._fail(task, claim, error)
            case Verdict.CANCEL:
                await self._cool_down(task, error, give_back=True)
            case Verdict.HOLD:
                await self._cool_down(task, error, give_back=False)
        return False

    async def _fail(self, task: ExportTask, claim: Claim | None, error: AlumaAsyncError) -> bool:
        """Save what the task holds, then fail it; where that cannot be done, give it back and park it."""
        try:
            if claim is None or self._quarantine is None:
                raise error
            await self._quarantine.save(claim, error)
            await self._source.fail(task, str(error)[:_LONGEST_MESSAGE])
        except AlumaAsyncError as why:
            self._on_event(QuarantineFailed(task, why))
            await self._cool_down(task, error, give_back=True, at_least=self._park)
            return False
        except BaseException:
            await self._cancel(task)
            raise
        await self._cooldown.forget(task.id)
        self._on_event(TaskFailed(task, error))
        return True

    async def _cool_down(
        self, task: ExportTask, error: AlumaAsyncError, *, give_back: bool, at_least: float = 0.0
    ) -> None:
        # Held back first: a task that is given back is offered again at once.
        failures, delay = await self._cooldown.hold(task.id, at_least)
        if give_back:
            await self._cancel(task)
        self._on_event(TaskCancelled(task, error, failures, delay))

    async def _cancel(self, task: ExportTask) -> bool:
        """Give a claim back, even when cancelled ourselves; return whether Aluma took it."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(GIVE_BACK_SECONDS):
            try:
                await self._source.cancel(task)
            except Refused:
                return False  # it was not ours, or not any more: nothing is left to give back
            except SourceError as error:
                self._on_event(ClaimAbandoned(task, error))
                return False
            return True
        self._on_event(ClaimAbandoned(task, SourceError(f"cancel task {task.id}: no answer in time")))
        return False
