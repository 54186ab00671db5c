"""Everything that can be observed, as values; logs, progress and metrics are made of these and nothing else.

An event never holds a document's content, a token or a secret. File names come from extracted data:
listeners show them to the operator at most, and never log them by default.
"""

from msgspec import Struct

from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ExportFile, ExportTask, Summary


class Event(Struct, frozen=True):
    """Base of all events."""


class QueueListed(Event):
    """A listing of the tasks that wait ended well."""

    listed: int
    admitted: int
    """How many of them were new to us and not cooling down."""
    held_back: int
    """How many of them are cooling down."""
    oldest_created_at: float | None
    """Creation of the oldest task listed, seconds since 1970; None if nothing waits or no date could be read."""


class ListingFailed(Event):
    """A listing ended with an error; it is made again after a while."""

    error: AlumaAsyncError
    retry_in: float


class RowSkipped(Event):
    """A row of a listing could not be read; the others are not affected."""

    reason: str


class TaskStarted(Event):
    """A task was claimed."""

    task: ExportTask
    files: int


class TaskRefused(Event):
    """Aluma did not give us the task: somebody else has it, or it is gone."""

    task: ExportTask
    error: AlumaAsyncError


class BytesReceived(Event):
    """Some bytes of a file came in; one event for each MiB or so, and one for what is left at the end."""

    task: ExportTask
    count: int


class FileSaved(Event):
    """A file is staged at the destination."""

    task: ExportTask
    file: ExportFile
    size: int


class TaskCompleted(Event):
    """A task is exported: its files are durable and Aluma may forget it."""

    task: ExportTask
    files: int
    bytes: int
    seconds: float


class TaskCancelled(Event):
    """A claim was given back after an error; the task cools down."""

    task: ExportTask
    error: AlumaAsyncError
    failures: int
    retry_in: float


class TaskReleased(Event):
    """A claim was given back because the run stops; nothing is wrong with the task."""

    task: ExportTask


class TaskFailed(Event):
    """Aluma was told that the task failed, after what it holds was saved in the quarantine."""

    task: ExportTask
    error: AlumaAsyncError


class QuarantineFailed(Event):
    """A fatal task could not be saved in the quarantine, so it was not failed but cools down for long."""

    task: ExportTask
    error: AlumaAsyncError


class ClaimLost(Event):
    """Complete, Cancel or Fail was refused: the claim had ended without us. Files that were saved stay."""

    task: ExportTask
    error: AlumaAsyncError


class ClaimAbandoned(Event):
    """Nothing could be said about a claim any more; Aluma gives the task back after its time-out."""

    task: ExportTask
    error: AlumaAsyncError


class RequestRetried(Event):
    """A request is made again after a pause."""

    request: str
    error: AlumaAsyncError
    delay: float


class RequestsHeldBack(Event):
    """Aluma asked for a pause: no request of any worker leaves for so many seconds."""

    seconds: float


class DrainStarted(Event):
    """No new task is claimed; those in hand are finished."""

    in_hand: int


class RunEnded(Event):
    """The run is over and nothing is left in hand."""

    summary: Summary
