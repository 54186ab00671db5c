"""``GoneTasks``: reports the tasks on hold that Aluma has deleted, because they were overdue.

A task that is not listed any more may also be claimed by another exporter, or belong to a project that is no longer
exported. So its state is looked up: it is gone if it does not exist, or ended without Complete. Aluma forgets ended
tasks after some days, so that a task which does not exist may have been exported by another exporter.
"""

from collections.abc import Collection, Mapping

from aluma_async.clock import loop_time
from aluma_async.events import TaskGone
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ExportTask, TaskState
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import Cooldown
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.ports import OnEvent, TaskSource

MAX_LOOKUPS, MAX_FINAL_LOOKUPS = 5, 100
"""Tasks that are looked up after one listing, and after the last one of a run."""
_LOOK_UP_AGAIN_SECONDS = 600.0
_REASONS: Mapping[str | None, str] = {
    None: "Aluma no longer has it: it was overdue, or another exporter has settled it (look into the history there)",
    TaskState.FAILED: "another exporter or program has failed it",
    TaskState.TIMED_OUT: "it was overdue, so that Aluma has deleted it",
    TaskState.CANCELED: "it was cancelled at Aluma",
}
"""Why a task is gone, by its state."""


class GoneTasks:
    """Compares the tasks on hold with a listing."""

    def __init__(
        self, source: TaskSource, cooldown: Cooldown, tracker: TaskTracker, claims: ClaimTracker, on_event: OnEvent
    ) -> None:
        self._source = source
        self._cooldown = cooldown
        self._tracker = tracker
        self._claims = claims
        self._on_event = on_event
        self._looked_up: dict[str, float] = {}
        self.count = 0
        """Number of reported tasks."""

    async def report(self, listed: Collection[str], max_lookups: int = MAX_LOOKUPS) -> None:
        """Emit ``TaskGone`` for each task that is gone, and end its hold. ``listed``: ids of listed tasks."""
        now = loop_time()
        self._looked_up = {key: at for key, at in self._looked_up.items() if at > now - _LOOK_UP_AGAIN_SECONDS}
        absent = [
            task_id
            for task_id in self._cooldown.task_ids()
            if task_id not in listed and task_id not in self._looked_up and not self._is_ours(task_id)
        ]
        for task_id in absent[:max_lookups]:
            self._looked_up[task_id] = now
            try:
                state = await self._source.state(ExportTask(task_id))
            except AlumaAsyncError:
                return  # it is looked up again later
            hold = await self._cooldown.hold(task_id)
            if hold is None or self._is_ours(task_id):
                continue
            if state in _REASONS:
                self.count += 1
                self._on_event(TaskGone(ExportTask(task_id, created_at=hold.created_at), hold, _REASONS[state]))
            if state in _REASONS or state == TaskState.COMPLETED:
                await self._cooldown.clear_task(task_id)
                self._tracker.remove(task_id, done=True)  # this listing may be older than its end
            elif state == TaskState.PENDING:
                self._cooldown.forget_expired(task_id)

    def _is_ours(self, task_id: str) -> bool:
        return self._tracker.blocks(task_id) or self._claims.get(task_id) is not None
