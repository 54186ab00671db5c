"""Settles a claim: Complete, Fail or Cancel, depending on its state."""

from aluma_async.events import Event, TaskCompleted, TaskFailed, TaskReleased
from aluma_async.exceptions import ClaimConflict, SourceError
from aluma_async.models import ClaimState, ExportTask
from aluma_async.pipeline.claim_source import CopyLost
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.ports import TaskSource

SETTLE_TIMEOUT_SECONDS = 30.0
"""Seconds that settling a claim may take while the exporter stops; then it is left to recovery or a later run."""
IDLE_SETTLE_TIMEOUT_SECONDS = 2.0
"""The same if no task is in progress when the exporter is stopped."""


async def settle_claim(source: TaskSource, claims: ClaimTracker, task: ExportTask) -> Event | None:
    """Settle the open claim of a task; return the event of the outcome, or None if the claim had ended.

    Raises ``SourceError`` if Aluma does not confirm the request.
    """
    claim = claims.get(task.id)
    if claim is None:
        return None
    event: Event
    try:
        match claim.state:
            case ClaimState.COMMITTED:
                event = TaskCompleted(task, claim.files, claim.bytes, 0.0, claims.destinations(task.id))
                await source.complete(task)
            case ClaimState.FAILING:
                event = TaskFailed(task, SourceError(claim.message))
                try:
                    await source.fail(task, claim.message)
                except CopyLost:
                    return await settle_claim(source, claims, task)  # now with Cancel
            case _:
                event = TaskReleased(task)
                await source.cancel(task)
    except ClaimConflict:
        return None
    return event
