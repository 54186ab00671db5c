"""``Admission``: the one place that decides whether a task may be queued, and later whether it may be claimed.

A task is classified when it is listed and again before it enters the queue, because a listing may contain it twice
and much may have changed since. The last check is made when a worker has a slot for it. Admission sends no request and
does no I/O, so that each decision is one synchronous step.
"""

from collections.abc import Iterable
from enum import Enum, auto
from types import TracebackType

import anyio

from aluma_async.clock import loop_time
from aluma_async.events import ClaimingPaused, ClaimingResumed, ClaimingStillPaused
from aluma_async.exceptions import AlumaAsyncError, RequestRejected, SourceError
from aluma_async.models import ExportTask
from aluma_async.pipeline.claim_tracker import ClaimTracker
from aluma_async.pipeline.cooldown import CooldownEntry
from aluma_async.pipeline.task_tracker import TaskTracker
from aluma_async.policy.start_rejections import StartRejections
from aluma_async.ports import OnEvent

MAX_FAILED_DOWNLOADS = 40
"""Number of tasks that fail in their downloads, without an export in between, after which claiming pauses."""


class Classification(Enum):
    """What to do with a listed task."""

    ADMIT = auto()
    """Queue it."""
    IN_PROGRESS = auto()
    """Skip it: it is queued, in progress, or was settled a moment ago."""
    ON_HOLD = auto()
    """Skip it: it or its project is on hold, or Aluma may still hold a claim of this exporter."""
    PARKED = auto()
    """Skip it: it is on hold for long."""
    CRASH_SUSPECT = auto()
    """Queue it only while no other suspect is queued or in progress."""


class Admission:
    """Classifies listed tasks and grants worker slots.

    Args:
        tracker: The tasks that are queued or in progress.
        claims: The open claims.
        slots: One permit for each task that may be exported at the same time.
        canary_tasks: Number of tasks that are exported one at a time after a pause.
        on_event: Receives the events of pauses.
    """

    def __init__(
        self,
        tracker: TaskTracker,
        claims: ClaimTracker,
        slots: anyio.Semaphore,
        *,
        canary_tasks: int,
        on_event: OnEvent,
    ) -> None:
        self._tracker = tracker
        self._claims = claims
        self._slots = slots
        self.rejections = StartRejections()
        """The projects whose tasks may not be started for now."""
        self._canary_tasks = canary_tasks
        self._on_event = on_event
        self._crash_suspect = ""
        self._suspects_pending = False
        self.copy_only: set[str] = set()
        """Ids of queued tasks that are not exported, but copied, because they are parked for crashes."""
        self.relisted: dict[str, ExportTask] = {}
        """The queued tasks as the last listing had them, by id: their project may have changed meanwhile."""
        self.blocking_error: AlumaAsyncError | None = None
        """The error that blocks all tasks. While it is set, queued tasks are skipped."""
        self.stopping = False
        """Whether the exporter is stopping, so that no further task is claimed."""
        self.completed = 0
        """Number of tasks completed in this run."""
        self.canary_tasks_left = 0
        """Number of tasks still exported one at a time after a pause, to test whether saving works again."""
        self.newest_first = False
        """Whether the newest tasks are tried first, because the downloads of many old ones have failed."""
        self._failed_downloads: set[str] = set()

    def classify(self, task: ExportTask, entry: CooldownEntry) -> Classification:
        """Decide about a listed task; ``entry`` is its entry in ``Cooldown``."""
        # 1. It is queued, in progress, or was settled a moment ago and is still listed.
        if self._tracker.blocks(task.id):
            return Classification.IN_PROGRESS
        # 2. It must wait: after a failure, until a claim of this exporter has certainly ended, or because Start was
        #    refused for its project.
        if (entry.is_active and not entry.needs_copy) or self._claims.may_hold_claim(task.id):
            return Classification.PARKED if entry.parked else Classification.ON_HOLD
        if self.rejections.held and self.rejections.holds(task.project_id, loop_time()):
            return Classification.ON_HOLD
        # 3. It was in progress in several crashes. Suspects run one at a time, so that the next crash identifies it.
        #    A parked one is only copied.
        if entry.is_crash_suspect:
            return Classification.CRASH_SUSPECT
        # 4. Nothing is known against it.
        return Classification.ADMIT

    def others_wait(self) -> bool:
        """Return whether tasks wait until workers have finished others."""
        return self._tracker.has_queued or bool(self.canary_tasks_left)

    def relist(self, tasks: Iterable[ExportTask]) -> None:
        """Replace the rows of queued tasks by those of a later listing."""
        self.relisted = {task.id: task for task in tasks if self._tracker.is_queued(task.id)}

    def pick_suspect(self, suspects: list[tuple[int, ExportTask]]) -> ExportTask | None:
        """Choose the suspect to try next: the one with the fewest crashes, and none while another one is tried.

        ``suspects`` are all listed crash suspects, with their number of crashes.
        """
        chosen: ExportTask | None = None
        if suspects and self._crash_suspect not in self._tracker:
            _, chosen = min(suspects, key=lambda suspect: suspect[0])
            self._crash_suspect = chosen.id
        self._suspects_pending = len(suspects) > (chosen is not None)
        return chosen

    def may_try_next_suspect(self) -> bool:
        """Return whether crash suspects are listed and none is queued or in progress."""
        return self._suspects_pending and self._crash_suspect not in self._tracker

    def pause(self, error: AlumaAsyncError, retry_in: float) -> None:
        """Record that claiming is paused after an error that concerns all tasks."""
        self._on_event(ClaimingStillPaused(error, retry_in) if self.canary_tasks_left else ClaimingPaused(error))
        self.canary_tasks_left = self._canary_tasks

    def resume(self) -> None:
        """Record that saving works again, so that no canary task is needed any more."""
        if self.canary_tasks_left:
            self.canary_tasks_left = 0
            self.newest_first = False
            self._on_event(ClaimingResumed())

    def on_task_completed(self) -> None:
        """Count a completed task; the last canary task ends the pause."""
        self.completed += 1
        if self._failed_downloads:
            self._failed_downloads.clear()
        if self.canary_tasks_left == 1:
            self.resume()
        elif self.canary_tasks_left:
            self.canary_tasks_left -= 1

    def record_failed_download(self, task_id: str, error: SourceError) -> bool:
        """Record that the download of a claimed task failed; return whether so many fail that claiming pauses."""
        if len(self._failed_downloads) < MAX_FAILED_DOWNLOADS:  # because further ones make no difference
            self._failed_downloads.add(task_id)
        if len(self._failed_downloads) < MAX_FAILED_DOWNLOADS:
            return False
        self.newest_first = True
        self.blocking_error = RequestRejected(
            f"the downloads of {MAX_FAILED_DOWNLOADS} tasks have failed and none was exported meanwhile, last: {error}",
            hint=error.hint,
        )
        return True

    def slot(self, task_id: str) -> "_Slot":
        """Wait for a worker slot and hold it; entering returns whether the task may be claimed now."""
        return _Slot(self, self._slots, task_id)

    def may_claim(self, task_id: str) -> bool:
        """Return whether the task may be claimed now, and mark it as started if so.

        Checking that recovery is not settling a claim of the task and marking the task as started are one synchronous
        step, so that a claim is never cancelled and used at the same time.
        """
        return not (self.stopping or self.blocking_error) and self._tracker.mark_started(task_id)


class _Slot:
    """One worker slot. A class, because a generator would cost more than all its work."""

    __slots__ = ("_admission", "_slots", "_task_id")

    def __init__(self, admission: Admission, slots: anyio.Semaphore, task_id: str) -> None:
        self._admission = admission
        self._slots = slots
        self._task_id = task_id

    async def __aenter__(self) -> bool:
        await self._slots.acquire()
        return self._admission.may_claim(self._task_id)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.release()
