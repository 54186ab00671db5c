"""The last word about a claim: how far it has come says which it is."""

from aluma_async.events import Event, TaskCompleted, TaskFailed, TaskReleased
from aluma_async.exceptions import Refused, SourceError
from aluma_async.models import ExportTask, OpenClaim, Step
from aluma_async.ports import TaskSource


async def last_word(source: TaskSource, task: ExportTask, claim: OpenClaim) -> Event | None:
    """Say it; return what came of it, None if the claim was not ours (any more). Raises ``SourceError``."""
    try:
        match claim.step:
            case Step.COMMITTED:
                await source.complete(task)
                return TaskCompleted(task, claim.files, claim.bytes, 0.0)
            case Step.FAILING:
                await source.fail(task, claim.message)
                return TaskFailed(task, SourceError(claim.message))
            case _:
                await source.cancel(task)
                return TaskReleased(task)
    except Refused:
        return None
