"""Settings of the simulated Aluma for behaviour that its guide does not define."""

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct


class SpecQuirk(StrEnum):
    """A peculiarity of a specification; that of the last three is removed by ``SimulatedAluma.repair_specs``."""

    ABSOLUTE_URL = "absolute-url"
    """The URLs are absolute, on the API's own origin."""
    RELATIVE_URL = "relative-url"
    """The URLs have no leading slash."""
    FOREIGN_URL = "foreign-url"
    """The URLs are on another host."""
    UNKNOWN_SOURCE = "unknown-source"
    """The last file has an unknown source."""
    NO_DOCUMENTS = "no-documents"
    """The list of documents is empty."""


class Behaviour(Struct, frozen=True, kw_only=True):
    """Settings for behaviour that is undocumented or varies at the real Aluma."""

    conflict_status: int = 409
    """Status of a response if the task's state does not allow the request."""
    success_status: int = 202
    """Status of a successful Complete, Cancel or Fail."""
    repeated_complete_accepted: bool = False
    """Whether completing a completed task succeeds."""
    max_listed: int = 0
    """Maximum number of tasks in a listing; 0: no limit."""
    list_stale_seconds: float = 0.0
    """Seconds during which a listing still contains a task that was claimed or settled."""
    claim_timeout_seconds: float = 1800.0
    """Duration of a claim's lease."""
    task_deadline_seconds: float = 0.0
    """Age, from the start of the simulation, at which a task that is not settled is deleted as overdue; 0: never."""
    token_seconds: float = 86400.0
    """Lifetime of a token."""
    framing: str = "length"
    """How the end of a file is marked: ``length``, ``chunked`` or ``unframed``."""
    resumable: bool = True
    """Whether files have an ETag and support range requests."""
    max_at_once: int = 0
    """Maximum number of requests in flight; further ones get status 429. 0: no limit."""
    retry_after_seconds: float = 1.0
    """Retry-After of a 429; 0: no such header."""
    latency_seconds: float = 0.0
    """Time from the arrival of a request to its response."""
    impossible_tasks: tuple[int, ...] = ()
    """Numbers of the tasks whose specification ends with a text that is not valid Unicode."""
    quirks: Mapping[int, SpecQuirk] = {}
    """Peculiarities of the specifications of tasks, by number."""
    contradictory_tasks: tuple[int, ...] = ()
    """Numbers of the tasks that listings also contain, before their own row, with the project of another task."""
    base_url: str = "http://aluma.test/v1"
    """Base URL of absolute URLs."""
    malformed_row: bool = True
    """Whether listings end with an unreadable row; it has the same invalid date as the guide's example."""
