"""``Worker``: exports one task: start, transfer its files, record that they are committed, complete.

Errors are handled by ``FailureHandler``.
"""

from aluma_async.clock import loop_time
from aluma_async.events import TaskCompleted, TaskStarted
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import Claim, ExportTask
from aluma_async.pipeline.admission import Admission
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.defect import plugin_defect
from aluma_async.pipeline.failure import FailureHandler
from aluma_async.pipeline.lease_deadline import LeaseDeadline
from aluma_async.pipeline.transfer import Delivered, FileTransfer
from aluma_async.policy.error_policy import spec_error
from aluma_async.ports import Destination, OnEvent, TaskSource


class Worker:
    """Exports tasks to ``destination``. It has no state of its own, so that all workers share one."""

    def __init__(
        self,
        source: TaskSource,
        destination: Destination,
        transfer: FileTransfer,
        claims: ClaimTracker,
        admission: Admission,
        failures: FailureHandler,
        lease: LeaseDeadline,
        *,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._destination = destination
        self._transfer = transfer
        self._claims = claims
        self._admission = admission
        self._failures = failures
        self._lease = lease
        self._on_event = on_event

    async def export(self, task: ExportTask) -> bool:
        """Export a task; return whether Aluma will not offer it again.

        Raises only errors that concern all tasks: ``SourceError`` or ``JournalError`` if no task can be claimed,
        ``DestinationUnavailable`` if no file can be saved.
        """
        claim: Claim | None = None
        try:
            # The slot is released before Complete, which needs no disk, so that the next task can start meanwhile.
            async with self._admission.slot(task.id) as admitted:
                if not admitted:
                    return False
                if self._admission.relisted:
                    task = self._admission.relisted.pop(task.id, task)
                if self._admission.copy_only and task.id in self._admission.copy_only:
                    self._admission.copy_only.discard(task.id)
                    await self._failures.copy_crashed(task)
                    return False
                started_at = loop_time()
                claim = await self._source.start(task)
                if self._admission.rejections.held:
                    self._admission.rejections.record_accepted(task.project_id)
                files = len(claim.spec.files)
                self._on_event(TaskStarted(task, files))
                delivered = await self._transfer_files(claim)
            await self._claims.record_committed(task.id, files, *delivered)
            await self._source.complete(task)
        except AlumaAsyncError as error:
            return await self._failures.handle(task, claim, error)
        except BaseException as error:
            if defect := plugin_defect(error):  # must not affect other tasks
                return await self._failures.handle(task, claim, defect)
            # Cancelled. A cancelled Start returns its claim, so an open claim is recorded here.
            await self._failures.release_on_stop(task)
            raise
        await self._failures.clear(claim)
        self._on_event(TaskCompleted(task, files, delivered.bytes, loop_time() - started_at, delivered.destinations))
        return True

    async def _transfer_files(self, claim: Claim) -> Delivered:
        """Transfer all files of a claim while its lease is certainly valid."""
        if error := spec_error(claim.spec):
            raise error
        return await self._lease.run(self._transfer.deliver, claim, self._destination)
