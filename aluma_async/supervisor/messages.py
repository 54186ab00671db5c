"""The messages between the parent and its processes: lines of JSON on a socket that a process inherits."""

from collections.abc import Mapping
from itertools import islice
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from aluma_async.models import Summary
from aluma_async.service.health import Check, HealthMonitor
from aluma_async.service.stats import RunStats, UnexportedTask

VARIABLE = "ALUMA_ASYNC_PROCESS"
"""Environment variable of a process: its number, the number of processes, and two descriptors: ``2/4 10 12``."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_MAX_UNEXPORTED = 1000
"""Tasks that were not exported, with their reason, that a process reports at its end."""

Command: TypeAlias = Literal["begin", "drain", "reload", "metrics"]
"""``begin``: export now. ``drain``: what the first stop signal asks for; repeated ones have no effect."""

COUNTERS = ("files", "bytes", "received")
"""Numbers that grow as long as a process lives."""
GAUGES = ("queued", "pending", "cooling", "parked", "listed_tasks")
"""Numbers that describe the present."""


class Report(Struct, tag="report", frozen=True, kw_only=True):
    """The state of a process. It sends one every second, and at once after its first listing and after a reload."""

    outcomes: Mapping[str, int]
    """Ended attempts by the name of the event that ended them."""
    counters: Mapping[str, int]
    gauges: Mapping[str, int]
    active: int
    """Tasks in progress."""
    listed: bool
    """Whether a listing has succeeded."""
    draining: bool
    reloads: int
    """Number of reloads of the configuration."""
    paused_seconds: float
    """Seconds until requests resume."""
    paused: str
    """Why no tasks are claimed; empty: tasks are claimed."""
    error: str
    """Why listing or saving fails; empty: it does not."""
    stuck: str
    """Why the process is stuck; empty if it makes progress."""
    checks: Mapping[str, Check]
    """What ``/readyz`` shows."""


class Page(Struct, tag="page", frozen=True):
    """The metrics of a process."""

    text: str


class End(Struct, tag="end", frozen=True):
    """The result of a process that has ended by itself."""

    summary: Summary
    unexported: Mapping[str, UnexportedTask]
    pending: int
    """Tasks that were not tried because the run was stopped."""


Message: TypeAlias = Report | Page | End


def report_of(stats: RunStats, health: HealthMonitor, reloads: int) -> Report:
    """Return the state of this process."""
    error = stats.listing_error or stats.save_error
    return Report(
        outcomes={kind.__name__: number for kind, number in stats.outcomes.items()},
        counters={name: getattr(stats, name) for name in COUNTERS},
        gauges={name: getattr(stats, name) for name in GAUGES},
        active=len(stats.active),
        listed=stats.listed,
        draining=stats.draining,
        reloads=reloads,
        paused_seconds=stats.requests_paused_seconds,
        paused=_unicode(str(stats.paused or "")),
        error=_unicode(str(error or "")),
        stuck=_unicode(health.stuck_reason()),
        checks={name: Check(ok=one.ok, reason=_unicode(one.reason)) for name, one in health.readiness().items()},
    )


def end_of(stats: RunStats) -> End:
    """Return the result of this process."""
    unexported = {
        _unicode(task_id): UnexportedTask(*map(_unicode, task))
        for task_id, task in islice(stats.unexported.items(), _MAX_UNEXPORTED)
    }
    return End(stats.summary or Summary(), unexported, stats.pending if stats.draining else 0)


def _unicode(text: str) -> str:
    """Return a text without unpaired surrogates, such as those of a file name that is not UTF-8."""
    return text.encode(errors="replace").decode()


def encode(message: Message | Command) -> bytes:
    """Return a message as a line."""
    return msgspec.json.encode(message) + b"\n"


decode = msgspec.json.Decoder(Message).decode
decode_command = msgspec.json.Decoder(Command).decode
