"""What moves from Aluma to a destination: frozen values, without behaviour that could fail.

The collector of garbage need not look at them (``gc=False``): none can hold itself.
"""

from enum import StrEnum
from typing import Literal

from msgspec import Struct


class ExportTask(Struct, frozen=True, gc=False):
    """A task that waits for export, as a listing shows it."""

    id: str
    name: str = ""
    project_id: str = ""
    project_name: str = ""
    created_at: float | None = None
    """Seconds since 1970 (UTC); None where the listing gave no readable date."""


class ExportFile(Struct, frozen=True, gc=False):
    """One file of an Export Specification. All text in it may come from a scanned page: it is hostile."""

    number: int
    """Position in the whole specification, from 0."""
    document: int
    """Position of its document in the specification, from 0."""
    folder: str
    filename: str
    source: Literal["content", "url"]
    content: str = ""
    """The text to write, if ``source`` is ``content``."""
    url: str = ""
    """Where to download from, relative to the API's base URL, if ``source`` is ``url``."""
    problem: str = ""
    """Why this file can never be exported (no such ``source``, no ``content``, …); empty if nothing is wrong."""

    def __repr__(self) -> str:
        """Leave the content out: it is a customer's data."""
        return f"ExportFile(number={self.number}, source={self.source!r})"


class ExportSpec(Struct, frozen=True, gc=False):
    """What has to be exported for one task."""

    files: tuple[ExportFile, ...]
    received: bytes = b""
    """The specification as Aluma sent it (JSON, UTF-8); kept for the quarantine."""

    def __repr__(self) -> str:
        """Leave the content out: it is a customer's data."""
        return f"ExportSpec(files={len(self.files)})"


class Claim(Struct, frozen=True, gc=False):
    """A task that Aluma gave to us: from Start until Complete, Cancel or Fail."""

    task: ExportTask
    spec: ExportSpec
    sent_at: float
    """When Start was sent (the event loop's clock): Aluma's time-out runs from no earlier than this."""


class Timestamp(Struct, frozen=True, gc=False):
    """A moment that a later process can still measure from, even if the machine slept or started anew meanwhile."""

    boot: str
    """Which start of the machine; seconds of two of them cannot be compared."""
    boottime: float
    """Seconds since then, sleep included."""
    wall: float
    """Seconds since 1970; only used across two starts, since somebody may set this clock."""


class ClaimState(StrEnum):
    """How far a claim has come, and so what is left to be said about it."""

    STARTING = "started"
    """Start was sent, or is about to be: Cancel, and again if it was carried out late."""
    CLAIMED = "claimed"
    """Start was answered: Cancel."""
    COMMITTED = "committed"
    """All its files are durable: Complete."""
    FAILING = "failing"
    """All it holds is in the quarantine: Fail."""
    ORPHANED = "loose"
    """Nobody works on it, and Aluma may count it as ours: Cancel, until that cannot be any more."""


class ClaimRecord(Struct, frozen=True, gc=False):
    """What the journal keeps of a claim about which the last word was not said. Neither content nor names."""

    task_id: str
    step: ClaimState
    sent: Timestamp
    """When Start was sent, or a little before."""
    unheard: bool = False
    """Whether the last word was sent, and its answer lost: if it is refused next time, it was heard."""
    doubted: Timestamp | None = None
    """When a Start of ours was last lost sight of: Aluma may carry it out for some time after."""
    files: int = 0
    bytes: int = 0
    message: str = ""
    """What Fail says."""


class HoldRecord(Struct, frozen=True, gc=False):
    """What the journal keeps of a task that is held back: cooling down, or parked."""

    task_id: str
    since: Timestamp
    seconds: float
    failures: int = 0
    """Failures in a row."""
    crashes: int = 0
    """How often a process of ours ended without a word while the task was in hand."""
    parked: bool = False
    error: str = ""
    """The kind of the last error, and its message below."""
    message: str = ""


class ExportRecord(Struct, frozen=True, array_like=True, gc=False):
    """What the journal keeps of a task that was exported. Neither content nor names of files."""

    task_id: str
    at: float
    """When Complete was heard, seconds since 1970."""
    files: int
    bytes: int
    seconds: float
    """From claim to Complete; 0 where another run had claimed it."""
    destinations: tuple[str, ...] = ()
    """Their names in the config; empty where they are not known any more."""


class Summary(Struct, frozen=True, kw_only=True):
    """What a run did."""

    exported: int = 0
    """Tasks that were completed."""
    files: int = 0
    bytes: int = 0
    """Files and bytes of the exported tasks."""
    failed: int = 0
    """Tasks that Aluma was told have failed; what they held is in the quarantine."""
    cancelled: int = 0
    """Claims given back; a task counts once for each."""
    lost: int = 0
    """Claims that ended without us: taken by another exporter, or given back by Aluma after its time-out."""
    held_back: int = 0
    """Tasks that were cooling down at the end: they wait at Aluma and are tried again later."""
    seconds: float = 0.0

    @property
    def everything_exported(self) -> bool:
        """Whether nothing of what was waiting is left behind."""
        return not (self.failed or self.held_back)
