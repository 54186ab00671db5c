"""``FailureHandler``: carries out what an error means for a task (``policy.error_policy``).

It puts the task on hold, cancels its claim, or fails the task after a copy of it is in the quarantine, and emits the
event of the outcome. A task is failed at its second attempt, because the reply to one Start may have been changed:
after a hold, Start must bring the same specification, byte for byte. It never completes a task on its own decision:
only a claim whose files are committed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import anyio

from aluma_async.clock import loop_time
from aluma_async.events import (
    ClaimLost,
    ClaimRefused,
    CopyFailed,
    Event,
    FailureBreakerOpened,
    QuarantineFailed,
    SettlementDeferred,
    SettlementUnconfirmed,
    TaskCancelled,
    TaskFailed,
    TaskParked,
    TaskReleased,
)
from aluma_async.exceptions import (
    AlumaAsyncError,
    BadSpecification,
    ClaimConflict,
    DestinationError,
    DestinationUnavailable,
    FailConfirmed,
    RequestRejected,
    SourceError,
    UnexportableTask,
)
from aluma_async.models import Claim, ClaimState, ExportFile, ExportSpec, ExportTask
from aluma_async.pipeline.admission import Admission
from aluma_async.pipeline.breaker import FailBreaker
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.defect import plugin_defect
from aluma_async.pipeline.destination_probe import DestinationProbe
from aluma_async.pipeline.lease_deadline import LeaseDeadline
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.settlement import SETTLE_TIMEOUT_SECONDS, settle_claim
from aluma_async.policy.error_policy import Action, decide
from aluma_async.ports import OTHERS_WAIT, OnEvent, TaskSource, Uniform
from aluma_async.quarantine.records import SPEC_NUMBER, CopyState

_MAX_MESSAGE_CHARS = 1000


class FailureHandler:
    """Handles the errors of all workers. Without a ``quarantine`` no task is failed; it is parked instead."""

    def __init__(
        self,
        source: TaskSource,
        claims: ClaimTracker,
        cooldown: Cooldown,
        quarantine: Quarantine | None,
        lease: LeaseDeadline,
        admission: Admission,
        probe: DestinationProbe,
        breaker: FailBreaker,
        *,
        uniform: Uniform,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._claims = claims
        self._cooldown = cooldown
        self._quarantine = quarantine
        self._lease = lease
        self._admission = admission
        self._probe = probe
        self._uniform = uniform
        self._breaker = breaker
        self._on_event = on_event

    async def clear(self, claim: Claim) -> None:
        """Forget the failures of an exported task, and its safety copy."""
        if self._quarantine and claim.task.id in self._quarantine.task_ids:
            self._quarantine.discard_later(claim)
        await self._cooldown.clear_task(claim.task.id)

    async def handle(self, task: ExportTask, claim: Claim | None, error: AlumaAsyncError) -> bool:
        """Handle the error that ended an attempt; return whether Aluma will not offer the task again.

        ``claim`` is None if Start failed. Raises ``error`` if it concerns all tasks.
        """
        record = self._claims.get(task.id)
        state = record.state if record and claim else ClaimState.CLAIMED if claim else None
        match decide(error, state=state):
            case Action.SKIP:
                if self._admission.rejections.held:  # the refusal is due to the task's state, so Start is not rejected
                    self._admission.rejections.record_accepted(task.project_id)
                self._on_event(ClaimRefused(task, error))
                return True
            case Action.CLAIM_LOST:
                self._on_event(ClaimLost(task, error))
                return True
            case Action.PAUSE_ALL:
                raise error
            case Action.START_REJECTED:
                pause, blame = self._admission.rejections.record(task.project_id, loop_time(), self._uniform)
                await self._cool_down(task, error, release=False, blame=blame)
                if pause:
                    raise error
            case Action.SETTLE_LATER:
                self._defer(SettlementUnconfirmed(task, error))
            case Action.FAIL:
                return await self._fail(task, claim, error)
            case Action.CANCEL:
                shared = isinstance(error, DestinationUnavailable) and await self._is_shared(error)
                if shared and not error.spares_others:
                    # At once, so that no other task is claimed while this one is released.
                    self._admission.blocking_error = error
                elif isinstance(error, SourceError) and error.of_machine:
                    shared, self._admission.blocking_error = True, error
                elif isinstance(error, SourceError) and error.ended_early:
                    shared = True  # because the connection may be slow for all
                elif isinstance(error, SourceError) and state is ClaimState.CLAIMED:
                    shared = self._admission.record_failed_download(task.id, error)
                await self._cool_down(task, error, claim, release=True, blame=not shared or error.persistent)
            case Action.COOL_DOWN:
                await self._cool_down(task, error, release=False, blame=not error.spares_others)
        return False

    async def copy_crashed(self, task: ExportTask) -> None:
        """Store a copy of a task that is parked for crashes: once, because copying it may crash the process, too.

        Raises ``JournalError``.
        """
        error: AlumaAsyncError = await self._cooldown.begin_copy(task.id)
        if self._quarantine is None or task.id in self._quarantine.task_ids:
            return
        claim: Claim | None = None
        try:
            with _no_early_end():
                claim = await self._source.start(task)
        except BadSpecification as unreadable:
            error = unreadable
        except AlumaAsyncError as failure:
            self._on_event(CopyFailed(task, failure))
        await self._cool_down(task, error, claim, release=True, park=True, blame=False)

    async def release_on_stop(self, task: ExportTask) -> None:
        """Settle the claim of a task because the run is stopping."""
        if event := await self._settle_or_defer(task):
            self._on_event(event)

    async def _fail(self, task: ExportTask, claim: Claim | None, error: AlumaAsyncError) -> bool:
        """Store a copy of the task in the quarantine, then fail it; park it if that is impossible."""
        if claim is None or self._quarantine is None or not await self._may_fail(claim, error):
            await self._cool_down(task, error, claim, release=True, park=True)
            return False
        message, may_be_sent = str(error)[:_MAX_MESSAGE_CHARS], False
        try:
            missing = await self._store(self._quarantine, claim, error, CopyState.FAILED)
            if missing:  # also a file that no request can fetch, because it may exist at Aluma all the same
                raise _incomplete_copy(task, missing)
            await self._breaker.record(task.id)
            may_be_sent = True
            with anyio.CancelScope(shield=True):  # because from here on, Fail is the only correct request
                await self._claims.record_failing(task.id, message, self._quarantine.receipt(claim))
            await self._source.fail(task, message)
        except ClaimConflict as conflict:
            self._on_event(ClaimLost(task, conflict))
            return True
        except AlumaAsyncError as failure:
            record = self._claims.get(task.id)
            if record and record.state is ClaimState.FAILING:
                self._defer(SettlementUnconfirmed(task, failure))
                return False
            may_be_sent = False  # the copy was lost before Fail was sent
            self._on_event(QuarantineFailed(task, failure))
            await self._cool_down(task, error, claim, release=True, park=True)
            return False
        except BaseException:
            await self.release_on_stop(task)
            raise
        finally:
            if not may_be_sent:
                self._breaker.give_back(task.id)
            self._quarantine.unlock(task)
        await self._cooldown.clear_task(task.id)
        self._on_event(TaskFailed(task, error))
        return True

    async def _may_fail(self, claim: Claim, error: AlumaAsyncError) -> bool:
        """Return whether an error is certain, and has a place among the failed tasks of its kind, which it then takes.

        It is certain if the administrator has confirmed it, or if an earlier Start brought the same specification.
        """
        is_certain = isinstance(error, FailConfirmed)
        if not is_certain and not await self._cooldown.was_unexportable(claim.task.id, claim.spec.sha256):
            return False
        # Nothing may be awaited between the look at the places and the reservation.
        if self._breaker.reserve(claim, error):
            return True
        if self._breaker.report_once(claim, error):
            self._on_event(FailureBreakerOpened(claim.task, error))
        return False

    async def _is_shared(self, error: DestinationUnavailable) -> bool:
        """Return whether other tasks cannot be saved, too. The folder or table of this one may be the reason: probe.

        ``error.spares_others`` then states whether the files of some tasks go elsewhere.
        """
        if error.spares_others or (error.for_all and not self._probe.covers_several):
            return True
        found = await self._probe.find_error()
        error.spares_others = bool(found and found.spares_others)
        return bool(found) or error.for_all

    def _defer(self, event: SettlementUnconfirmed | SettlementDeferred) -> None:
        """Leave the claim to recovery. If Aluma or a proxy rejects such requests, claiming pauses."""
        self._on_event(event)
        if isinstance(event.error, RequestRejected):
            self._admission.blocking_error = event.error

    async def _cool_down(
        self,
        task: ExportTask,
        error: AlumaAsyncError,
        claim: Claim | None = None,
        *,
        release: bool,
        park: bool = False,
        blame: bool = True,
    ) -> None:
        """Put the task on hold, and cancel its claim (``release``). A task that is parked is copied (``claim``)."""
        # Before the Cancel, so that a crash between them does not make the task fail in a tight loop.
        unexportable = claim.spec.sha256 if claim and isinstance(error, UnexportableTask) else ""
        hold = await self._cooldown.start(
            task.id, error, park=park, blame=blame, created_at=task.created_at, unexportable=unexportable
        )
        if hold.parked and release:
            await self._copy(task, error, claim)
        if release:
            await self._settle_or_defer(task)
            # And again after it, because an unconfirmed Cancel must not be executed after the next Start.
            await self._cooldown.restart(hold)
        if hold.parked:
            self._on_event(TaskParked(task, hold))
        else:
            self._on_event(TaskCancelled(task, error, hold.failures, hold.seconds))

    async def _copy(self, task: ExportTask, error: AlumaAsyncError, claim: Claim | None) -> None:
        """Store a copy of a parked task while it is claimed, because Aluma deletes it when it is overdue."""
        if claim is None and isinstance(error, BadSpecification):
            if not error.received:
                self._on_event(CopyFailed(task, error))
                return
            unread = ExportFile(0, 0, "", "", "url", problem=str(error))
            claim = Claim(task, ExportSpec((unread,), error.received), loop_time() - self._claims.age(task.id))
        if claim is None or self._quarantine is None:
            return
        try:
            await self._store(self._quarantine, claim, error, CopyState.PARKED)
        except AlumaAsyncError as failure:  # without a copy, the task is parked nevertheless
            self._on_event(CopyFailed(task, failure))
        except BaseException:
            await self.release_on_stop(task)
            raise

    async def _store(
        self, quarantine: Quarantine, claim: Claim, error: AlumaAsyncError, state: CopyState
    ) -> Mapping[int, str]:
        """Store a copy; return why files are missing. Raises ``AlumaAsyncError``, also for a defect of a plug-in."""
        try:
            with _no_early_end():
                return await self._lease.run(quarantine.store, claim, error, state)
        except AlumaAsyncError:
            raise
        except BaseException as exception:
            if defect := plugin_defect(exception):
                raise defect from exception
            raise

    async def _settle_or_defer(self, task: ExportTask) -> Event | None:
        """Settle the claim, shielded from cancellation; return the event of the outcome, or None if it had ended.

        If Aluma does not confirm in time, emit ``SettlementDeferred`` and leave the claim to recovery.
        """
        error = SourceError(f"task {task.id}: no response in {SETTLE_TIMEOUT_SECONDS:.0f} s")
        with anyio.CancelScope(shield=True), anyio.move_on_after(SETTLE_TIMEOUT_SECONDS):
            try:
                event = await settle_claim(self._source, self._claims, task)
                if isinstance(event, TaskReleased):
                    self._breaker.give_back(task.id)
                return event
            except SourceError as unconfirmed:
                error = unconfirmed
        self._defer(SettlementDeferred(task, error))
        return None


@contextmanager
def _no_early_end() -> Iterator[None]:
    """Let no request of the block give way to other tasks, because the copy would be incomplete for hours."""
    token = OTHERS_WAIT.set(None)
    try:
        yield
    finally:
        OTHERS_WAIT.reset(token)


def _incomplete_copy(task: ExportTask, missing: Mapping[int, str]) -> DestinationError:
    """Return the error of a copy that lacks files; they are named by their numbers, as names are confidential."""
    names = ["the specification" if number == SPEC_NUMBER else f"file {number}" for number in sorted(missing)]
    return DestinationError(f"the copy of task {task.id} lacks {', '.join(names)}: {missing[min(missing)]}")
