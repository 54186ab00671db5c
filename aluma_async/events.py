"""The events of a run, as frozen values; logs, metrics, health checks and progress are made from them alone.

No event contains document content, a token or a secret. File names come from extracted data, so listeners may show them
to the operator, but must not log them by default. Events that every task emits have ``gc=False``, because they cannot
form reference cycles; an event with an error can, because a traceback holds frames.
"""

from msgspec import Struct

from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ExportFile, ExportTask, HoldRecord, Summary


class Event(Struct, frozen=True):
    """Base class of all events."""


class TaskEvent(Event, frozen=True):
    """Base class of the events of one task."""

    task: ExportTask


class AttemptEnded(TaskEvent, frozen=True):
    """Base class of the events that end an attempt to export a task. Afterwards the task is not in progress."""


class TasksListed(Event, frozen=True):
    """The pending tasks were listed completely."""

    listed: int
    """Number of pending tasks."""
    admitted: int
    """Number of tasks that were new and not on hold, so that they were queued."""
    held_back: int
    """Number of tasks that are cooling down or parked."""
    oldest_created_at: float | None
    """Creation time of the oldest task, in seconds since 1970; None without tasks or without a readable date."""
    parked: int = 0
    """Number of tasks that are parked; ``held_back`` includes them."""
    oldest_parked_created_at: float | None = None
    """Creation time of the oldest parked task, in seconds since 1970; None without one or without a readable date."""


class ListingFailed(Event, frozen=True):
    """A listing failed, or a listed task could not be claimed because Aluma was unavailable."""

    error: AlumaAsyncError
    retry_in: float
    """Seconds until the next listing."""


class RowSkipped(Event, frozen=True):
    """A row of a listing could not be read and was skipped; other rows are not affected."""

    reason: str


class ListingIncomplete(Event, frozen=True):
    """A listing has ended, and shows that pending tasks are missing from it or cannot be recognised."""

    reason: str


class ProjectsFiltered(Event, frozen=True):
    """A listing that is limited to some projects has ended."""

    left_out: int
    """Number of pending tasks of other projects."""


class ProjectUnmatched(Event, frozen=True):
    """A configured project matches no pending task, although tasks of other projects are pending."""

    project: str
    suggestion: str
    """The nearest name of another project, as a clause; empty if none is similar."""


class TaskStarted(TaskEvent, frozen=True, gc=False):
    """A task was claimed, and its Export Specification received."""

    files: int
    """Number of files in the specification."""


class ClaimRefused(AttemptEnded, frozen=True):
    """Aluma refused to start the task: another exporter has claimed it, or it does not exist any more."""

    error: AlumaAsyncError


class BytesReceived(TaskEvent, frozen=True, gc=False):
    """Bytes of a file were received. Emitted about once per MiB or every ten seconds, and for the remainder.

    The ``count`` is 0 while a destination may still need longer, because its files are large or many.
    """

    file: ExportFile
    count: int
    """Bytes since the previous event of this file."""


class FileStaged(TaskEvent, frozen=True, gc=False):
    """A file is staged at the destination; it becomes visible when the task is committed."""

    file: ExportFile
    size: int
    """Size of the file in bytes."""


class TaskCompleted(AttemptEnded, frozen=True, gc=False):
    """A task is exported: its files are durable, and Aluma has confirmed Complete."""

    files: int
    bytes: int
    """Number and total size of the task's files."""
    seconds: float
    """Seconds from Start to Complete; 0 if recovery completed a claim of an earlier attempt."""
    destinations: tuple[str, ...] = ()
    """Names of the destinations that have the files; empty if recovery completed a claim of an earlier process."""


class TaskCancelled(AttemptEnded, frozen=True):
    """A claim was released after an error, or Start failed; the task cools down."""

    error: AlumaAsyncError
    failures: int
    """Number of failures in a row, this one included."""
    retry_in: float
    """Seconds until the end of the cool-down."""


class TaskParked(AttemptEnded, frozen=True):
    """A task is parked for a long time. An operator should look at it; ``aluma-async retry`` ends the hold."""

    hold: HoldRecord


class TaskReleased(AttemptEnded, frozen=True):
    """A claim was released because the run stops, or because a crashed run left it. Nothing is wrong with the task."""


class TaskFailed(AttemptEnded, frozen=True):
    """A task was failed at Aluma, after everything it contained was saved in the quarantine."""

    error: AlumaAsyncError


class TaskGone(TaskEvent, frozen=True):
    """A task on hold is no longer pending, and this exporter has not exported it.

    A listener knows its id and its creation only.
    """

    hold: HoldRecord
    reason: str
    """Why it is gone, as far as Aluma's state of the task shows it."""


class CopyStored(TaskEvent, frozen=True):
    """A copy of a task was stored in the quarantine, because the task is parked or about to be failed."""

    files: int
    """Number of files in the specification."""
    bytes: int
    """Total size of the copy."""
    missing: int
    """Number of files that could not be fetched; 0: the copy is complete."""


class CopyFailed(TaskEvent, frozen=True):
    """A copy of a task in the quarantine could not be stored or removed. Nothing is lost: Aluma has the task."""

    error: AlumaAsyncError


class QuarantineUsed(Event, frozen=True):
    """The size of the quarantine is known, at the start and after each change."""

    tasks: int
    """Number of tasks with a copy."""
    used_bytes: int
    max_bytes: int
    """Its limit; 0: none."""


class QuarantineNearlyFull(Event, frozen=True):
    """The quarantine has reached 90 % of its limit. When it is full, no copy can be stored."""

    used_bytes: int
    max_bytes: int


class QuarantineFailed(TaskEvent, frozen=True):
    """A task with a fatal error could not be saved in the quarantine. It was not failed, but is parked."""

    error: AlumaAsyncError


class CommitUnverified(TaskEvent, frozen=True):
    """The files for which a claim was to be settled are not there any more. The task is released, and exported again.

    Emitted only if the destination had issued a receipt for the files: at the start, if an earlier process had saved
    them, and before each Fail.
    """

    missing_from: str
    """``"the destination"`` or ``"the quarantine"``."""


class ClaimLost(AttemptEnded, frozen=True):
    """Complete, Cancel or Fail was refused, because the claim had already ended. Exported files stay in place."""

    error: AlumaAsyncError


class SettlementUnconfirmed(AttemptEnded, frozen=True):
    """Complete or Fail was not confirmed; the task's files are safe. Recovery repeats the request until it is."""

    error: AlumaAsyncError


class FailureBreakerOpened(TaskEvent, frozen=True):
    """A task was parked instead of failed, because at most three tasks of a kind are failed automatically.

    A kind is a project, its destinations, and the class of the error. Further tasks of the kind are parked, too, until
    the administrator confirms with ``aluma-async fail``. Emitted for the first of them in each process.
    """

    error: AlumaAsyncError


class ClaimingPaused(Event, frozen=True):
    """No task is claimed for now, because the destination or the journal is unavailable; it is retried."""

    error: AlumaAsyncError


class ClaimingStillPaused(Event, frozen=True):
    """The destination or the journal was tried again and is still unavailable."""

    error: AlumaAsyncError
    retry_in: float
    """Seconds until the next try."""


class ClaimingResumed(Event, frozen=True):
    """Tasks are claimed again after a pause."""


class JournalDamaged(Event, frozen=True):
    """The journal could not be read. It was moved to ``path``, and a new one was created."""

    path: str


class JournalRowsSkipped(Event, frozen=True):
    """Some rows of the journal could not be read; they stay in the file, and all others are used."""

    rows: int
    """Number of these rows."""
    first: str
    """Kind, task and problem of the first one."""


class SettlementDeferred(AttemptEnded, frozen=True):
    """A claim could not be settled yet. Recovery retries until the lease expires."""

    error: AlumaAsyncError


class RequestRetried(Event, frozen=True):
    """A request failed and is repeated after a delay."""

    request: str
    """Description of the request, such as "start task ID"."""
    error: AlumaAsyncError
    delay: float
    """Seconds until the request is repeated."""


class RequestsPaused(Event, frozen=True):
    """Aluma asked for a pause: no request of any worker is sent for ``seconds``."""

    seconds: float


class RequestsResumed(Event, frozen=True):
    """A pause has ended early: it was only that of the tasks whose requests were refused."""


class UnrequestedResponse(Event, frozen=True):
    """A server or proxy sent a response without a request; it was not used.

    Requests on connections that had been used before were aborted. No connection is used twice for ``seconds``.
    """

    seconds: float


class ConcurrencyLimitChanged(Event, frozen=True):
    """The adaptive limit changed: at most ``limit`` requests may be in flight from now on."""

    limit: int


class ConcurrencyLimitAdapted(Event, frozen=True):
    """The adaptive limit has changed considerably, because Aluma refuses requests, answers slowly, or has recovered."""

    previous: int
    """The limit before: the last one with this event, or the largest one before the first."""
    limit: int


class DrainStarted(Event, frozen=True):
    """The run stops: no new task is claimed, and tasks in progress are finished."""

    tasks_in_progress: int
    """Number of tasks that are queued or being exported."""


class RunEnded(Event, frozen=True):
    """The run has ended, and no task is in progress."""

    summary: Summary
