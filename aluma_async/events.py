"""Everything that can be observed, as values; logs, progress and metrics are made of these and nothing else.

An event never holds a document's content, a token or a secret. File names come from extracted data:
listeners show them to the operator at most, and never log them by default. Those that each task brings are none of the
garbage collector's business (``gc=False``); one with an error is, as that holds frames.
"""

from msgspec import Struct

from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ExportFile, ExportTask, HoldRecord, Summary


class Event(Struct, frozen=True):
    """Base of all events."""


class TaskEvent(Event, frozen=True):
    """Base of the events of one task."""

    task: ExportTask


class AttemptEnded(TaskEvent, frozen=True):
    """Base of the events that end an attempt to export a task: afterwards it is not in progress any more."""


class TasksListed(Event, frozen=True):
    """A listing of the tasks that wait ended well."""

    listed: int
    admitted: int
    """How many of them were new to us and not cooling down."""
    held_back: int
    """How many of them are cooling down or parked."""
    oldest_created_at: float | None
    """Creation of the oldest task listed, seconds since 1970; None if nothing waits or no date could be read."""
    parked: int = 0
    """How many of those held back are parked."""


class ListingFailed(Event, frozen=True):
    """A listing ended with an error, or Aluma could not be asked for what it held; it is made again after a while."""

    error: AlumaAsyncError
    retry_in: float


class RowSkipped(Event, frozen=True):
    """A row of a listing could not be read; the others are not affected."""

    reason: str


class TaskStarted(TaskEvent, frozen=True, gc=False):
    """A task was claimed."""

    files: int


class ClaimRefused(AttemptEnded, frozen=True):
    """Aluma did not give us the task: somebody else has it, or it is gone."""

    error: AlumaAsyncError


class BytesReceived(TaskEvent, frozen=True, gc=False):
    """Some bytes of a file came in: one event for each MiB or so, or each ten seconds, and one for what is left."""

    file: ExportFile
    count: int


class FileStaged(TaskEvent, frozen=True, gc=False):
    """A file is staged at the destination."""

    file: ExportFile
    size: int


class TaskCompleted(AttemptEnded, frozen=True, gc=False):
    """A task is exported: its files are durable and Aluma may forget it."""

    files: int
    bytes: int
    seconds: float


class TaskCancelled(AttemptEnded, frozen=True):
    """A claim was given back after an error; the task cools down."""

    error: AlumaAsyncError
    failures: int
    retry_in: float


class TaskParked(AttemptEnded, frozen=True):
    """A task is held back for long: somebody should look at it, and ``aluma-async retry`` releases it."""

    hold: HoldRecord


class TaskReleased(AttemptEnded, frozen=True):
    """A claim was given back because a run stops, or one that crashed had it; nothing is wrong with the task."""


class TaskFailed(AttemptEnded, frozen=True):
    """Aluma was told that the task failed, after what it holds was saved in the quarantine."""

    error: AlumaAsyncError


class QuarantineFailed(TaskEvent, frozen=True):
    """A fatal task could not be saved in the quarantine, so it was not failed but cools down for long."""

    error: AlumaAsyncError


class ClaimLost(AttemptEnded, frozen=True):
    """Complete, Cancel or Fail was refused: the claim had ended without us. Files that were saved stay."""

    error: AlumaAsyncError


class SettlementUnconfirmed(AttemptEnded, frozen=True):
    """A task's files are safe, but Complete (or Fail) found no hearing; it is said again until it does."""

    error: AlumaAsyncError


class FailureBreakerOpened(TaskEvent, frozen=True):
    """Several tasks in a row were failed for one reason: no more are, until one is exported. They are parked."""

    error: AlumaAsyncError


class ClaimingPaused(Event, frozen=True):
    """Nothing is claimed for a while, since it could not be saved or written down; it is tried again by itself."""

    error: AlumaAsyncError


class ClaimingStillPaused(Event, frozen=True):
    """What holds back all claims was tried again and has not passed; next time in so many seconds."""

    error: AlumaAsyncError
    retry_in: float


class ClaimingResumed(Event, frozen=True):
    """What held back all claims has passed."""


class JournalDamaged(Event, frozen=True):
    """The journal could not be read; it was set aside as ``path``, and a new one was begun."""

    path: str


class SettlementDeferred(AttemptEnded, frozen=True):
    """Nothing could be said about a claim for now; it is tried again later, or Aluma's time-out ends the claim."""

    error: AlumaAsyncError


class RequestRetried(Event, frozen=True):
    """A request is made again after a pause."""

    request: str
    error: AlumaAsyncError
    delay: float


class RequestsPaused(Event, frozen=True):
    """Aluma asked for a pause: no request of any worker leaves for so many seconds."""

    seconds: float


class ConcurrencyLimitChanged(Event, frozen=True):
    """So many requests may be in flight at once from now on, as Aluma was found to take them."""

    limit: int


class DrainStarted(Event, frozen=True):
    """No new task is claimed; those in hand are finished."""

    tasks_in_progress: int


class RunEnded(Event, frozen=True):
    """The run is over and nothing is left in hand."""

    summary: Summary
