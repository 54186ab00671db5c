"""``Log``: events as lines of text or of JSON.

Names of tasks and files come from scanned pages, so they are told at level debug only; content never is.
A line is written at once: whoever reads the log slowly slows the run.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import msgspec
from msgspec import structs

from aluma_async import events
from aluma_async.events import Event
from aluma_async.exceptions import AlumaAsyncError
from aluma_async.models import ExportFile, ExportTask, Hold, Summary
from aluma_async.service.text import printable

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")

MESSAGES: Mapping[type[Event], tuple[Level, str]] = {
    events.QueueListed: ("debug", "{listed} tasks wait: {admitted} new, {held_back} cooling down"),
    events.ListingFailed: ("warning", "the listing failed, again in {retry_in:.1f} s: {error}"),
    events.RowSkipped: ("warning", "a row of the listing was left out: {reason}"),
    events.TaskStarted: ("debug", "task {task} claimed, {files} files"),
    events.TaskRefused: ("info", "task {task} is not ours: {error}"),
    events.FileSaved: ("debug", "task {task}: file {file} staged, {size} bytes"),
    events.TaskCompleted: ("info", "task {task} exported: {files} files, {bytes} bytes in {seconds:.2f} s"),
    events.TaskCancelled: ("warning", "task {task} given back ({failures}), again in {retry_in:.1f} s: {error}"),
    events.TaskParked: ("error", "task {task} is parked for {seconds:.0f} s after {failures} failures: {error}"),
    events.TaskReleased: ("info", "task {task} given back, nothing is wrong with it"),
    events.TaskFailed: ("error", "task {task} failed, what it holds is in the quarantine: {error}"),
    events.QuarantineFailed: ("error", "task {task} is parked, the quarantine could not take it: {error}"),
    events.ClaimLost: ("warning", "task {task}: the claim had ended without us: {error}"),
    events.ClaimDeferred: ("warning", "task {task} is saved, but Aluma could not be told yet: {error}"),
    events.ClaimAbandoned: ("warning", "task {task} could not be given back yet: {error}"),
    events.FailingStopped: ("error", "task {task} was one of several failed in a row, no more are for now: {error}"),
    events.ClaimingPaused: ("error", "nothing is claimed for now: {error}"),
    events.ClaimingResumed: ("warning", "claiming again"),
    events.JournalDamaged: ("error", "the journal was damaged, it is now {path}; a new one was begun"),
    events.RequestRetried: ("debug", "{request}: again in {delay:.1f} s: {error}"),
    events.RequestsHeldBack: ("warning", "Aluma asked for a pause: no request for {seconds:.1f} s"),
    events.LimitChanged: ("debug", "at most {limit} requests at once, as Aluma takes them"),
    events.DrainStarted: ("debug", "draining, {in_hand} tasks queued or in hand"),
    events.RunEnded: ("debug", "the run is over: {exported} tasks exported"),
}
"""Level and text by event; an event that is not here (one for each MiB, say) is not logged."""


class Log:
    """Writes what is at least as grave as ``level``; ``write`` gets whole lines, ``wall`` tells seconds since 1970."""

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        form: Literal["text", "json"] = "text",
        level: Level = "info",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._write = write
        self._json = form == "json"
        self._levels = LEVELS[LEVELS.index(level) :]
        self._wall = wall

    def __call__(self, event: Event) -> None:
        """Write an event."""
        level, message = MESSAGES.get(type(event), ("", ""))
        if level in self._levels:
            fields = dict(_fields(event, names="debug" in self._levels))
            self.write(level, type(event).__name__, message.format(**fields), **fields)

    def write(self, level: str, kind: str, message: str, **fields: object) -> None:
        """Write a line whatever the level of the log; ``fields`` are for JSON."""
        stamp = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._json:
            line = {"time": stamp, "level": level, "event": kind, "message": message, **fields}
            self._write(msgspec.json.encode(line).decode() + "\n")
        else:
            name = f" ({fields['name']})" if "name" in fields else ""
            self._write(printable(f"{stamp} {level:<7} {message}{name}", 1000) + "\n")


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
                yield "error_type", type(error).__name__
            case Summary() as summary:
                yield from structs.asdict(summary).items()
            case Hold() as hold:
                yield from (("seconds", hold.seconds), ("failures", hold.failures), ("crashes", hold.crashes))
                yield from (("error", hold.message), ("error_type", hold.error))
            case value:
                yield field, value
