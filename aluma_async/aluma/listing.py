"""``ListingDecoder``: the pending tasks in a listing, decoded while it arrives. Pure: no I/O, no clock.

Source of the format: Aluma's public guide "Export data". Unused fields are not decoded.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from msgspec import Struct

from aluma_async.aluma.incomplete import announced_total, sign_of_missing
from aluma_async.aluma.tolerant_json import UNREADABLE, clean, load_rows, loads
from aluma_async.exceptions import InvalidResponse
from aluma_async.models import ExportTask, TaskState


class _TaskRow(Struct):
    id: str
    name: str | None = None
    file_collection_id: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    created_at: Any = None
    state: str | None = None
    client_action: str | None = None


class _TaskList(Struct):
    tasks: list[msgspec.Raw]


_rows = msgspec.json.Decoder(list[_TaskRow])
_row = msgspec.json.Decoder(_TaskRow)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_task_list = msgspec.json.Decoder(_TaskList)

HEAD_BYTES = 4096
"""Number of bytes that show whether a body is a listing."""
_KNOWN_STATES = frozenset({None, *TaskState})
_TASKS_FIELD = re.compile(rb'"tasks"\s*:\s*\[')
_PAGE_FIELDS = re.compile(r"_?links|meta(data)?|page|paging|pagination", re.IGNORECASE)

# An id becomes part of a URL path, so it must not contain path separators or be a dot segment.
_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._~-]{1,200}")


class ListingDecoder:
    """Decodes ``{"tasks": [...]}`` while it arrives, in windows, so that memory does not grow with its size.

    A window ends at the last ``}`` that completes a list of rows. The bytes after it belong to the next window.
    """

    WINDOW = 256 * 1024
    """Number of bytes that are collected before rows are decoded."""
    MAX_ROW_BYTES = 32 * 1024 * 1024
    """Maximum size of a row; a longer one makes the listing invalid."""
    _MAX_CUTS = 16  # Attempts to find the end of the last complete row of a window.
    _MAX_HEADS = 4  # Attempts to find the field of the rows.

    def __init__(self, on_skipped: Callable[[str], None], readable: int = 0) -> None:
        self._report_skipped = on_skipped
        self.readable = readable
        """Number of readable rows, with those of earlier listings."""
        self._unreadable = 0
        self._problem = ""
        self._rows = 0
        self._head = b""
        self._buffer = bytearray()
        self._decode_at = self.WINDOW  # size of the buffer

    @property
    def problem(self) -> str:
        """The sign that a complete listing does not show all pending tasks; empty if there is none."""
        if self._unreadable and not self.readable:
            return f"none of its {self._unreadable} rows can be read as a pending task"
        return self._problem

    def feed(self, chunk: bytes) -> list[ExportTask]:
        """Add a chunk; return the tasks that are complete now. Raises ``InvalidResponse``."""
        self._buffer += chunk
        if len(self._buffer) < self._decode_at or not (self._head or self._find_head()):
            return []
        self._decode_at = self.WINDOW
        end = len(self._buffer)
        for _ in range(self._MAX_CUTS):
            end = self._buffer.rfind(b"}", 0, end)
            if end < 0:
                break
            try:
                tasks = self._tasks(b"[%b]" % bytes(self._buffer[: end + 1]).lstrip(b", \t\r\n"))
            except UNREADABLE:
                continue
            del self._buffer[: end + 1]
            return tasks
        rows, end = load_rows(bytes(self._buffer))
        # Twice as much, so that a long row is not read too often.
        self._decode_at = min(max(self.WINDOW, 2 * (len(self._buffer) - end)), self.MAX_ROW_BYTES + 1)
        if len(self._buffer) - end > self.MAX_ROW_BYTES:
            raise InvalidResponse("list of tasks: a row is longer than 32 MiB")
        del self._buffer[:end]
        return self._tolerate(rows)

    def close(self) -> list[ExportTask]:
        """Return the last tasks. Raises ``InvalidResponse`` if the response is incomplete."""
        body = bytes(self._head + self._buffer.lstrip(b", \t\r\n"))
        self._buffer.clear()
        try:
            tasks = self._decode_individually(_task_list.decode(body).tasks)
        except UNREADABLE:
            if (rows := _tolerant_rows(body)) is None:
                raise InvalidResponse("list of tasks: incomplete, or not the documented JSON") from None
            tasks = self._tolerate(rows)
        self._problem = _problem(body, self._rows)
        return tasks

    def _find_head(self) -> bool:
        beginning = bytes(self._buffer)
        for match in islice(_TASKS_FIELD.finditer(beginning), self._MAX_HEADS):
            head = beginning[: match.end()]
            if _tolerant_rows(head + b"]}") is None:
                continue
            self._head = head
            del self._buffer[: match.end()]
            return True
        if len(self._buffer) > self.MAX_ROW_BYTES:
            raise InvalidResponse("list of tasks: no 'tasks' field")
        self._decode_at = min(2 * len(self._buffer), self.MAX_ROW_BYTES + 1)
        return False

    def _tasks(self, window: bytes) -> list[ExportTask]:
        try:
            return [task for row in _rows.decode(window) if (task := self._task(row))]
        except UNREADABLE:
            return self._decode_individually(_raws.decode(window))

    def _decode_individually(self, raws: list[msgspec.Raw]) -> list[ExportTask]:
        tasks = []
        for raw in raws:
            try:
                row = _row.decode(raw)
            except UNREADABLE:
                tasks += self._tolerate(load_rows(bytes(raw))[0] or [None])
            else:
                if task := self._task(row):
                    tasks.append(task)
        return tasks

    def _tolerate(self, rows: list[Any]) -> list[ExportTask]:
        """Return the tasks of rows that ``tolerant_json`` has decoded. Only the id must be readable."""
        tasks = []
        for row in rows:
            if not isinstance(row, dict) or not isinstance(row.get("id"), str):
                self._rows += 1
                self._on_skipped("not the documented JSON")
            elif task := self._task(_TaskRow(**{name: _cleaned(row.get(name)) for name in _TaskRow.__struct_fields__})):
                tasks.append(task)
        return tasks

    def _on_skipped(self, reason: str) -> None:
        self._unreadable += 1
        self._report_skipped(reason)

    def _task(self, row: _TaskRow) -> ExportTask | None:
        self._rows += 1
        if row.state not in (None, TaskState.PENDING) or row.client_action not in (None, "export"):
            is_export = "export" in (row.client_action or "").casefold()
            if row.state not in _KNOWN_STATES or (is_export and row.client_action != "export"):
                self._on_skipped("an unknown state or client action")
            return None  # because a server that ignores the filter must not make the exporter start other tasks
        if not _ID.fullmatch(row.id):
            self._on_skipped("invalid task id")
            return None
        self.readable += 1
        return ExportTask(
            row.id,
            row.name or "",
            row.project_id or "",
            row.project_name or "",
            timestamp(row.created_at),
            row.file_collection_id or "",
        )


def _cleaned(value: Any) -> Any:
    """Return a field of a row as a text without unpaired surrogates, or None; other values are empty texts."""
    return value if value is None else clean(value)


def _problem(body: bytes, rows: int) -> str:
    """Return the sign that a listing of a number of rows does not show all pending tasks; empty if there is none.

    ``body``: the listing, or all of it but complete rows in the middle.
    """
    if len(_TASKS_FIELD.findall(body)) > 1:
        return "its field 'tasks' is repeated"
    for decode in (msgspec.json.decode, loads):
        with suppress(*UNREADABLE):
            listing = decode(body)
            groups = [value for name, value in listing.items() if _PAGE_FIELDS.fullmatch(name)]
            for fields in (listing, *(group for group in groups if isinstance(group, dict))):
                for name, value in fields.items():
                    if name != "tasks" and (problem := _problem_of_field(name, value, rows)):
                        return f"its field {name[:40]!r} {problem}"
            return ""
    return ""


def _problem_of_field(name: str, value: object, rows: int) -> str:
    total = 0 if rows else announced_total(name, value)
    return f"announces {total} tasks, and there is none" if total else sign_of_missing(name, value)


def _tolerant_rows(body: bytes) -> list[Any] | None:
    """Return the rows of a listing; None if it is unreadable."""
    try:
        listing = loads(body)
    except UNREADABLE:
        return None
    rows = listing.get("tasks") if isinstance(listing, dict) else None
    return rows if isinstance(rows, list) else None


def is_listing(head: bytes) -> bool:
    """Return whether a body begins like a listing; ``head`` is its beginning, of about ``HEAD_BYTES``."""
    return head.lstrip().startswith(b"{") and _TASKS_FIELD.search(head) is not None


def timestamp(text: Any) -> float | None:
    """Convert an ISO 8601 date to seconds since 1970. Return None if it is invalid, as in Aluma's own sample."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
