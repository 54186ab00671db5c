"""The values that pass from Aluma to a destination, and the records of the journal. Frozen, without behaviour.

Terms: an exporter *claims* a task with Start. Aluma keeps the claim valid for the time of its *lease* (30 minutes by
default). To *settle* a claim is to send Complete, Fail or Cancel for it; to *release* a claim is to cancel it without
blaming the task. A claim is *orphaned* if no running worker owns it.

``gc=False``: these values cannot form reference cycles, so the garbage collector does not track them.
"""

import hashlib
from enum import StrEnum
from typing import Literal, TypeAlias

from msgspec import Struct


class ExportTask(Struct, frozen=True, gc=False):
    """A pending task, as a listing shows it."""

    id: str
    name: str = ""
    project_id: str = ""
    project_name: str = ""
    created_at: float | None = None
    """Creation time in seconds since 1970; None if the listing has no readable date."""
    collection_id: str = ""
    """Id of the task's file collection, which is a part of its files' URLs; empty if unknown."""


class TaskState(StrEnum):
    """The documented states of a task at Aluma. They are the values of ``TaskSource.state``."""

    PENDING = "pending:start_client_action"
    """The task waits for Start."""
    CLAIMED = "pending:complete_client_action"
    """The task is claimed, by this or another exporter."""
    QUEUED = "queued"
    RUNNING = "running"
    """Aluma processes the task: also after Complete and Fail, while its data are being deleted."""
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    """The task was overdue in its project."""
    CANCELED = "canceled"


class ExportFile(Struct, frozen=True, gc=False):
    """One file of an Export Specification. All its text may come from a scanned page and is untrusted."""

    number: int
    """Position of the file in the specification, from 0."""
    document: int
    """Position of its document in the specification, from 0."""
    folder: str
    filename: str
    source: Literal["content", "url"]
    content: str = ""
    """Content of the file, if ``source`` is ``content``."""
    url: str = ""
    """URL of the download if ``source`` is ``url``; usually relative to the API's base URL."""
    problem: str = ""
    """Reason why this file cannot be exported (unknown ``source``, URL of another host, …); empty if it can."""
    hint: str = ""
    """What the operator can do about ``problem``, as one imperative sentence; may be empty."""
    invalid_text: bool = False
    """Whether the content is not valid Unicode; ``content`` then has replacement characters, ``received`` has all."""

    @property
    def is_whole_text(self) -> bool:
        """Whether the specification has the content, whatever its ``problem``, so that there is nothing to fetch."""
        return self.source == "content" and bool(self.content) and not self.url

    def __repr__(self) -> str:
        """Leave out the content, which is customer data."""
        return f"ExportFile(number={self.number}, source={self.source!r})"


class ExportSpec(Struct, frozen=True, gc=False):
    """The Export Specification of a task: the files to export."""

    files: tuple[ExportFile, ...]
    received: bytes = b""
    """The specification as Aluma sent it (JSON, UTF-8), for the quarantine."""

    @property
    def sha256(self) -> str:
        """Hash of the specification as Aluma sent it; empty if that is not known."""
        return hashlib.sha256(self.received).hexdigest() if self.received else ""

    def __repr__(self) -> str:
        """Leave out the content, which is customer data."""
        return f"ExportSpec(files={len(self.files)})"


class Claim(Struct, frozen=True, gc=False):
    """The exclusive right to export a task, from Start until the claim is settled or its lease expires."""

    task: ExportTask
    spec: ExportSpec
    sent_at: float
    """Time of Start on the event loop's clock. The lease begins no earlier."""
    may_replace: bool = True
    """Whether its files may replace different ones of an earlier export. False if they may be older than these."""


class Timestamp(Struct, frozen=True, gc=False):
    """A time from which a later process can measure, even if the machine was suspended or rebooted in between."""

    boot: str
    """Identifier of the boot; ``boottime`` of different boots cannot be compared."""
    boottime: float
    """Seconds since boot, including suspension."""
    wall: float
    """Seconds since 1970; used only between different boots, because an administrator may set this clock."""


class ClaimState(StrEnum):
    """State of a claim; it determines the request that settles it."""

    STARTING = "started"
    """Start is about to be sent, or has no response yet. Settled by Cancel; again if Aluma executes Start late."""
    CLAIMED = "claimed"
    """Start has succeeded. Settled by Cancel."""
    COMMITTED = "committed"
    """All files are durable. Settled by Complete."""
    FAILING = "failing"
    """A copy of the task is in the quarantine. Settled by Fail."""
    ORPHANED = "loose"
    """No worker owns the claim, but Aluma may still hold it. Settled by Cancel, until it cannot exist any more."""


_STORED_NAMES = {
    "state": "step",
    "sent_at": "sent",
    "settlement_unconfirmed": "unheard",
    "start_unconfirmed_at": "doubted",
}
"""The keys of a ``ClaimRecord`` in the journal. They never change, so that older journals stay readable."""


class ClaimRecord(Struct, frozen=True, gc=False, rename=_STORED_NAMES):
    """The journal's record of a claim that is not settled. Contains neither content nor names."""

    task_id: str
    state: ClaimState
    sent_at: Timestamp
    """Time of Start, or slightly earlier."""
    settlement_unconfirmed: bool = False
    """Whether a settlement was sent and its reply lost. If the next one is refused, the first was executed."""
    start_unconfirmed_at: Timestamp | None = None
    """Time when the outcome of a Start became unknown; Aluma may execute the request for some time after it."""
    files: int = 0
    bytes: int = 0
    """Number and total size of the committed files."""
    message: str = ""
    """Message to send with Fail."""
    receipt: str = ""
    """Lets a later process verify that the files, or the copy in the quarantine, are still there; empty: unknown."""
    source: str = ""
    """The API and the client that have claimed the task; empty: not known."""


class HoldRecord(Struct, frozen=True, gc=False):
    """The journal's record of a task that is on hold: cooling down or parked."""

    task_id: str
    since: Timestamp
    seconds: float
    """Length of the hold in seconds, from ``since``."""
    failures: int = 0
    """Number of failures in a row."""
    crashes: int = 0
    """Number of crashes of the exporter while the task was in progress."""
    parked: bool = False
    error: str = ""
    """Class name of the last error. Old records may contain names that no longer exist."""
    message: str = ""
    """Message of the last error."""
    created_at: float | None = None
    """Creation time of the task in seconds since 1970, from which its deadline at Aluma counts; None: not known."""
    same_failures: int = 0
    """Number of the last failures in a row that had the same class of error."""
    copy_tried: bool = False
    """Whether a copy of the task was stored, or tried, after it was parked for crashes."""
    unexportable: str = ""
    """SHA-256 of the Export Specification if it can never be exported; empty after any other error."""
    source: str = ""
    """The API and the client that list the task; empty in records of earlier versions."""


class BreakerRecord(Struct, frozen=True, gc=False):
    """The journal's record of a task that was failed automatically, or is about to be.

    It counts until the administrator confirms the failures of its kind. Contains neither content nor names.
    """

    task_id: str
    reason: str
    """Class name of the error."""
    project_id: str = ""
    destinations: tuple[str, ...] = ()
    """Names of the destinations of the task's files; empty if they are not known."""

    @property
    def kind(self) -> tuple[str, ...]:
        """The tasks that are counted together have the same kind."""
        return self.reason, self.project_id, *self.destinations


class ExportRecord(Struct, frozen=True, array_like=True, gc=False):
    """The journal's record of an exported task. Contains neither content nor names of files."""

    task_id: str
    at: float
    """Time when Complete was confirmed, in seconds since 1970."""
    files: int
    bytes: int
    seconds: float
    """Seconds from Start to Complete; 0 if recovery completed a claim of an earlier attempt."""
    destinations: tuple[str, ...] = ()
    """Names of the destinations in the config; empty if they are not known."""
    name: str = ""
    project: str = ""
    """Names of the task and of its project; empty unless ``history_names`` is set and they are known."""


ExporterState: TypeAlias = Literal["new", "running", "paused", "draining", "ended"]
"""The state of an exporter: not started; claiming tasks; claiming none for a while; stopping; stopped."""


class Snapshot(Struct, frozen=True, kw_only=True):
    """The state of an exporter at one moment. Without names and content, so that it may be shown to anybody."""

    state: ExporterState
    reason: str
    """Why claiming is paused or the last listing has failed; empty if neither is the case."""
    workers: int
    tasks_in_progress: int
    pending: int | None
    """Number of pending tasks of the last complete listing; None before the first one."""
    on_hold: int
    """Number of these that cool down or are parked."""
    parked: int
    oldest_created_at: float | None
    """Creation time of the oldest of them in seconds since 1970; None without tasks or without a readable date."""
    exported: int
    files: int
    bytes: int
    failed: int
    cancelled: int
    lost: int
    """As in ``Summary``, so far."""


class Summary(Struct, frozen=True, kw_only=True):
    """The result of a run."""

    exported: int = 0
    """Number of completed tasks."""
    files: int = 0
    bytes: int = 0
    """Number and total size of the files of completed tasks."""
    failed: int = 0
    """Number of tasks that were failed at Aluma; their contents are in the quarantine."""
    cancelled: int = 0
    """Number of released claims; a task counts once per claim."""
    lost: int = 0
    """Number of tasks that were claimed or settled elsewhere, and not exported by this run afterwards."""
    gone: int = 0
    """Number of tasks on hold that are no longer pending at Aluma, and that this exporter has not exported."""
    deferred: int = 0
    """Number of claims that could not be settled by the end; the next run settles them, or their lease expires."""
    held_back: int = 0
    """Number of tasks on hold or released at the end. They are still pending at Aluma."""
    seconds: float = 0.0
    """Duration of the run in seconds."""

    @property
    def everything_exported(self) -> bool:
        """Whether no task has failed, is on hold, is gone or was claimed elsewhere, and all claims are settled."""
        return not (self.failed or self.held_back or self.lost or self.gone or self.deferred)
