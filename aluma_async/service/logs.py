"""``Log``: writes events as lines of text or JSON.

Names of tasks and files come from scanned pages, so they are logged only at level debug; content is never logged.
Lines are written synchronously; those without a reader are lost (``lossy_file``). Repeated lines are suppressed,
except at level debug. JSON fields keep their names (README, "Logs"); ``error_type`` is a class of ``exceptions``.
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
from aluma_async.service.formatting import describe_defect, escape_json, sanitize, without_task
from aluma_async.service.journald import PRIORITIES
from aluma_async.service.log_suppression import RepeatFilter

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

MESSAGES: Mapping[type[Event], tuple[Level, str]] = {
    events.TasksListed: ("debug", "{listed} pending tasks: {admitted} new, {held_back} on hold"),
    events.ListingFailed: ("warning", "a request to Aluma failed, next listing in {retry_in_seconds:.1f} s: {error}"),
    events.RowSkipped: ("warning", "skipped a row of the listing: {reason}"),
    events.ListingIncomplete: ("error", "the listing does not show all pending tasks: {reason}"),
    events.ProjectsFiltered: ("debug", "{left_out} pending tasks of other projects were left out"),
    events.ProjectUnmatched: ("warning", "no pending task is in project {project!r}{suggestion}"),
    events.TaskStarted: ("debug", "task {task} claimed, {files} files"),
    events.ClaimRefused: ("info", "task {task} could not be claimed: {error}"),
    events.FileStaged: ("debug", "task {task}: file {file} staged, {size} bytes"),
    events.TaskCompleted: ("debug", "task {task} exported: {files} files, {bytes} bytes in {seconds:.2f} s"),
    events.TaskCancelled: ("warning", "task {task} released, next attempt in {retry_in_seconds:.1f} s: {error}"),
    events.TaskParked: ("error", "task {task} parked for {seconds:.0f} s (failures: {failures}): {error}"),
    events.TaskGone: (
        "error",
        "task {task} is no longer pending, and this exporter has not exported it: {reason}. "
        "Its copy is in the quarantine, if it had one: run 'aluma-async redeliver {task}'",
    ),
    events.TaskReleased: ("info", "task {task} released without an error"),
    events.TaskFailed: ("error", "task {task} failed, its content is in the quarantine: {error}"),
    events.CopyStored: (
        "info",
        "task {task}: a copy is in the quarantine, {bytes} bytes, {missing} of {files} files missing",
    ),
    events.CopyFailed: ("error", "task {task}: copy in the quarantine: {error}"),
    events.QuarantineUsed: ("debug", "the quarantine has {tasks} tasks, {used_bytes} bytes (limit: {max_bytes})"),
    events.QuarantineNearlyFull: (
        "warning",
        "the quarantine has {used_bytes} of {max_bytes} bytes; when it is full, parked tasks get no safety copy",
    ),
    events.QuarantineFailed: ("error", "task {task} parked, because it could not be quarantined: {error}"),
    events.CommitUnverified: (
        "error",
        "task {task} is exported again: its files, saved before, are missing from {missing_from}",
    ),
    events.ClaimLost: ("warning", "task {task}: the claim had already ended: {error}"),
    events.SettlementUnconfirmed: ("warning", "task {task} is saved, but Aluma has not confirmed it yet: {error}"),
    events.SettlementDeferred: ("warning", "task {task} could not be settled yet: {error}"),
    events.FailureBreakerOpened: (
        "error",
        "task {task} and others like it are parked, because at most three are failed for the same reason; "
        "if that is right, run 'aluma-async fail --reason {error_type}': {error}",
    ),
    events.ClaimingPaused: ("error", "claiming paused: {error}"),
    events.ClaimingStillPaused: ("debug", "claiming still paused, next attempt in {retry_in_seconds:.1f} s: {error}"),
    events.ClaimingResumed: ("warning", "claiming resumed"),
    events.JournalDamaged: ("error", "the journal was damaged and moved to {path}; a new one was created"),
    events.JournalRowsSkipped: ("error", "unreadable rows in the journal: {rows}, first {first}; all others are used"),
    events.RequestRetried: ("debug", "{request}: retry in {retry_in_seconds:.1f} s: {error}"),
    events.RequestsPaused: ("warning", "Aluma asked for a pause: no requests for {seconds:.1f} s"),
    events.RequestsResumed: ("info", "the pause concerns single tasks only: requests continue"),
    events.UnrequestedResponse: (
        "warning",
        "a server or proxy sent a response without a request: no connection is used twice for {seconds:.0f} s",
    ),
    events.ConcurrencyLimitChanged: ("debug", "concurrency limit is now {limit} requests"),
    events.ConcurrencyLimitAdapted: ("info", "adapting to Aluma: at most {limit} requests at once, {previous} before"),
    events.DrainStarted: ("debug", "draining, {tasks_in_progress} tasks queued or in progress"),
    events.RunEnded: ("debug", "run ended: {exported} tasks exported"),
}
"""Level and text of each event; other events, such as one per MiB received, are not logged."""
_FIELDS = {"retry_in": "retry_in_seconds", "delay": "retry_in_seconds"}
"""Names of event fields that differ in the log."""
_MAX_LINE_CHARS = 1000
_ERROR_TYPES = {name for name, kind in vars(exceptions).items() if isinstance(kind, type)}


class _Line(NamedTuple):
    level: str
    kind: str
    message: str
    fields: dict[str, object]


class Log:
    """Writes events of at least ``level``.

    Args:
        write: Receives one complete line per call.
        format: Text for people, or one JSON object per line.
        level: The lowest level to write.
        journald: The systemd journal reads the lines.
        now: Returns seconds since 1970.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        format: Literal["text", "json"] = "text",  # noqa: A002 - the builtin is not needed here
        level: Level = "info",
        journald: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._write = write
        self._json = format == "json"
        self._journald = journald
        self._now = now
        self._repeat_filter: RepeatFilter[_Line] = RepeatFilter(now)
        self.set_level(level)

    def set_level(self, level: Level) -> None:
        """Change the lowest level to write."""
        self._levels = LEVELS[LEVELS.index(level) :]

    def __call__(self, event: Event) -> None:
        """Write an event, or count it if it repeats."""
        level, message = MESSAGES.get(type(event), ("", ""))
        if level not in self._levels:
            return
        fields = dict(_fields(event, names="debug" in self._levels))
        line = _Line(level, type(event).__name__, message.format(**_text_fields(fields)), fields)
        self.flush_suppressed()
        if "debug" in self._levels or self._repeat_filter.allow((line.kind, fields.get("error_type")), line):
            self.write(line.level, line.kind, line.message, **fields)
        if "debug" in self._levels and (defect := describe_defect(getattr(event, "error", None))):
            self.write("debug", line.kind, defect)

    def flush_suppressed(self, *, all_windows: bool = False) -> None:
        """Write the number of suppressed lines of each expired window, or of all windows."""
        for (level, kind, message, fields), count, seconds in self._repeat_filter.expired(all_windows=all_windows):
            text = f"… {count} more like this in {max(seconds, 1):.0f} s: {message}"
            self.write(level, kind, text, **fields, repeated=count)

    def write(self, level: str, kind: str, message: str, **fields: object) -> None:
        """Write a line at any level; ``fields`` appear only in JSON."""
        prefix = f"<{PRIORITIES[level]}>" if self._journald else ""
        time_text = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._json:
            line = {"time": time_text, "level": level, "event": kind, "message": message, **fields}
            self._write(prefix + escape_json(msgspec.json.encode(line).decode()) + "\n")
        else:
            name = f" ({fields['name']})" if "name" in fields else ""
            start = prefix or f"{time_text} {level:<7} "
            self._write(start + sanitize(f"{message}{name}", _MAX_LINE_CHARS) + "\n")


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
                if error.hint:
                    yield "hint", error.hint
            case Summary() as summary:
                yield from structs.asdict(summary).items()
            case HoldRecord() as hold:
                error_type = hold.error if hold.error in _ERROR_TYPES else AlumaAsyncError.__name__
                yield from (("seconds", hold.seconds), ("failures", hold.failures), ("crashes", hold.crashes))
                yield from (("error", hold.message), ("error_type", error_type))
            case value:
                yield _FIELDS.get(field, field), value


def _text_fields(fields: dict[str, object]) -> dict[str, object]:
    """Return the fields for a line that begins with the task's id or the request, so that the error repeats neither."""
    if "error" not in fields:
        return fields
    error = str(fields["error"])
    if "request" in fields:
        error = error.removeprefix(f"{fields['request']}: ")
    elif "task" in fields:
        error = without_task(error, str(fields["task"]))
    return {**fields, "error": f"{error}. {fields['hint']}" if "hint" in fields else error}


def _error_type(kind: type[AlumaAsyncError]) -> str:
    """Return the name of the nearest class of ``exceptions``, because plug-ins may subclass them."""
    return next(base.__name__ for base in kind.__mro__ if base.__name__ in _ERROR_TYPES)
