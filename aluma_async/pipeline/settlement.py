"""Settles a claim: Complete, Fail or Cancel, depending on its state."""

from aluma_async.events import Event, TaskCompleted, TaskFailed, TaskReleased
from aluma_async.exceptions import ClaimConflict, SourceError
from aluma_async.models import ClaimRecord, ClaimState, ExportTask
from aluma_async.ports import TaskSource


async def settle_claim(
    source: TaskSource, task: ExportTask, claim: ClaimRecord, destinations: tuple[str, ...] = ()
) -> Event | None:
    """Settle a claim; return the event of the outcome, or None if the claim had ended. Raises ``SourceError``."""
    event: Event
    try:
        match claim.state:
            case ClaimState.COMMITTED:
                event = TaskCompleted(task, claim.files, claim.bytes, 0.0, destinations)
                await source.complete(task)
            case ClaimState.FAILING:
                event = TaskFailed(task, SourceError(claim.message))
                await source.fail(task, claim.message)
            case _:
                event = TaskReleased(task)
                await source.cancel(task)
    except ClaimConflict:
        return event if claim.settlement_unconfirmed else None
    return event
