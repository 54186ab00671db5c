"""The last word about a claim: how far it has come says which it is."""

from aluma_async.events import Event, TaskCompleted, TaskFailed, TaskReleased
from aluma_async.exceptions import ClaimConflict, SourceError
from aluma_async.models import ClaimRecord, ClaimState, ExportTask
from aluma_async.ports import TaskSource


async def settle_claim(source: TaskSource, task: ExportTask, claim: ClaimRecord) -> Event | None:
    """Say it; return what came of it, None if the claim was not ours (any more). Raises ``SourceError``."""
    event: Event
    try:
        match claim.step:
            case ClaimState.COMMITTED:
                event = TaskCompleted(task, claim.files, claim.bytes, 0.0)
                await source.complete(task)
            case ClaimState.FAILING:
                event = TaskFailed(task, SourceError(claim.message))
                await source.fail(task, claim.message)
            case _:
                event = TaskReleased(task)
                await source.cancel(task)
    except ClaimConflict:
        return event if claim.unheard else None
    return event
