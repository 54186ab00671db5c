"""``Log``: events as lines of text or of JSON.

Names of tasks and files come from scanned pages, so they are told at level debug only; content never is.
A line is written at once: whoever reads the log slowly slows the run. What repeats itself is folded, but at debug.
Fields of JSON keep their names (README, "Logs"), and ``error_type`` is always a class of ``exceptions``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import structs

from aluma_async import events, exceptions
from aluma_async.events import Event
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ExportFile, ExportTask, HoldRecord, Summary
from aluma_async.service.formatting import sanitize
from aluma_async.service.journald import PRIORITIES
from aluma_async.service.log_suppression import RepeatFilter

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

MESSAGES: Mapping[type[Event], tuple[Level, str]] = {
    events.TasksListed: ("debug", "{listed} tasks wait: {admitted} new, {held_back} cooling down"),
    events.ListingFailed: ("warning", "the listing failed, again in {retry_in_seconds:.1f} s: {error}"),
    events.RowSkipped: ("warning", "a row of the listing was left out: {reason}"),
    events.TaskStarted: ("debug", "task {task} claimed, {files} files"),
    events.ClaimRefused: ("info", "task {task} is not ours: {error}"),
    events.FileStaged: ("debug", "task {task}: file {file} staged, {size} bytes"),
    events.TaskCompleted: ("debug", "task {task} exported: {files} files, {bytes} bytes in {seconds:.2f} s"),
    events.TaskCancelled: (
        "warning",
        "task {task} given back, again in {retry_in_seconds:.1f} s: {error}",
    ),
    events.TaskParked: ("error", "task {task} is parked for {seconds:.0f} s (failures: {failures}): {error}"),
    events.TaskReleased: ("info", "task {task} given back, nothing is wrong with it"),
    events.TaskFailed: ("error", "task {task} failed, what it holds is in the quarantine: {error}"),
    events.QuarantineFailed: ("error", "task {task} is parked, the quarantine could not take it: {error}"),
    events.ClaimLost: ("warning", "task {task}: the claim had ended without us: {error}"),
    events.SettlementUnconfirmed: ("warning", "task {task} is saved, but Aluma could not be told yet: {error}"),
    events.SettlementDeferred: ("warning", "task {task} could not be given back yet: {error}"),
    events.FailureBreakerOpened: (
        "error",
        "task {task} was one of several failed in a row, no more are for now: {error}",
    ),
    events.ClaimingPaused: ("error", "nothing is claimed for now: {error}"),
    events.ClaimingStillPaused: ("debug", "still nothing can be claimed, again in {retry_in_seconds:.1f} s: {error}"),
    events.ClaimingResumed: ("warning", "claiming again"),
    events.JournalDamaged: ("error", "the journal was damaged, it is now {path}; a new one was begun"),
    events.RequestRetried: ("debug", "{request}: again in {retry_in_seconds:.1f} s: {error}"),
    events.RequestsPaused: ("warning", "Aluma asked for a pause: no request for {seconds:.1f} s"),
    events.ConcurrencyLimitChanged: ("debug", "at most {limit} requests at once, as Aluma takes them"),
    events.DrainStarted: ("debug", "draining, {tasks_in_progress} tasks queued or in progress"),
    events.RunEnded: ("debug", "the run is over: {exported} tasks exported"),
}
"""Level and text by event; an event that is not here (one for each MiB, say) is not logged."""
_FIELDS = {"retry_in": "retry_in_seconds", "delay": "retry_in_seconds"}
"""What a field of an event is called in the log, where that differs."""
_ERROR_TYPES = {name for name, kind in vars(exceptions).items() if isinstance(kind, type)} | {"Crash"}


class _Line(NamedTuple):
    level: str
    kind: str
    message: str
    fields: dict[str, object]


class Log:
    """Writes what is at least as grave as ``level``; ``write`` gets whole lines, ``wall`` tells seconds since 1970.

    ``journal``: the systemd journal reads it.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        form: Literal["text", "json"] = "text",
        level: Level = "info",
        journald: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._write = write
        self._json = form == "json"
        self._journald = journald
        self._now = now
        self._repeat_filter: RepeatFilter[_Line] = RepeatFilter(now)
        self.set_level(level)

    def set_level(self, level: Level) -> None:
        """Write what is at least as grave from now on."""
        self._levels = LEVELS[LEVELS.index(level) :]

    def __call__(self, event: Event) -> None:
        """Write an event, or count it with others that say the same."""
        level, message = MESSAGES.get(type(event), ("", ""))
        if level not in self._levels:
            return
        fields = dict(_fields(event, names="debug" in self._levels))
        line = _Line(level, type(event).__name__, message.format(**fields), fields)
        self.flush_suppressed()
        if "debug" in self._levels or self._repeat_filter.allow((line.kind, fields.get("error_type")), line):
            self.write(line.level, line.kind, line.message, **fields)

    def flush_suppressed(self, *, all_windows: bool = False) -> None:
        """Tell how often was said what was not written, of windows that are over or of all."""
        for (level, kind, message, fields), count, seconds in self._repeat_filter.expired(all_windows=all_windows):
            text = f"… {count} more like this in {max(seconds, 1):.0f} s: {message}"
            self.write(level, kind, text, **fields, repeated=count)

    def write(self, level: str, kind: str, message: str, **fields: object) -> None:
        """Write a line whatever the level of the log; ``fields`` are for JSON."""
        prefix = f"<{PRIORITIES[level]}>" if self._journald else ""
        stamp = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._json:
            line = {"time": stamp, "level": level, "event": kind, "message": message, **fields}
            self._write(prefix + msgspec.json.encode(line).decode() + "\n")
        else:
            name = f" ({fields['name']})" if "name" in fields else ""
            opening = prefix or f"{stamp} {level:<7} "
            self._write(opening + sanitize(f"{message}{name}", 1000) + "\n")


def _fields(event: Event, *, names: bool) -> Iterator[tuple[str, object]]:
    for field in event.__struct_fields__:
        match getattr(event, field):
            case ExportTask() as task:
                yield "task", task.id
                if names:
                    yield "name", task.name
            case ExportFile() as file:
                yield "file", file.number
                if names:
                    yield "name", f"{file.folder}/{file.filename}"
            case AlumaAsyncError() as error:
                yield "error", str(error)
                yield "error_type", _error_type(type(error))
            case Summary() as summary:
                yield from structs.asdict(summary).items()
            case HoldRecord() as hold:
                yield from (("seconds", hold.seconds), ("failures", hold.failures), ("crashes", hold.crashes))
                yield from (
                    ("error", hold.message),
                    ("error_type", hold.error if hold.error in _ERROR_TYPES else "AlumaAsyncError"),
                )
            case value:
                yield _FIELDS.get(field, field), value


def _error_type(kind: type[AlumaAsyncError]) -> str:
    """Name the nearest class that is ours: a plug-in may have made others, and dashboards count by this."""
    return next(base.__name__ for base in kind.__mro__ if base.__name__ in _ERROR_TYPES)


def _known(name: str) -> str:
    return name if name in _ERROR_TYPES else AlumaAsyncError.__name__
