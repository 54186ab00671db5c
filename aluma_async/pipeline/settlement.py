"""The last word about a claim: how far it has come says which it is."""

from aluma_async.events import Event, TaskCompleted, TaskFailed, TaskReleased
from aluma_async.exceptions import Refused, SourceError
from aluma_async.models import ExportTask, OpenClaim, Step
from aluma_async.ports import TaskSource


async def last_word(source: TaskSource, task: ExportTask, claim: OpenClaim) -> Event | None:
    """Say it; return what came of it, None if the claim was not ours (any more). Raises ``SourceError``."""
    event: Event
    try:
        match claim.step:
            case Step.COMMITTED:
                event = TaskCompleted(task, claim.files, claim.bytes, 0.0)
                await source.complete(task)
            case Step.FAILING:
                event = TaskFailed(task, SourceError(claim.message))
                await source.fail(task, claim.message)
            case _:
                event = TaskReleased(task)
                await source.cancel(task)
    except Refused:
        return event if claim.unheard else None
    return event
