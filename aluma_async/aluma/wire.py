"""The API's JSON and headers exactly as Aluma spells them, turned into our values. Pure: no I/O, no clock.

Source of the shapes: Aluma's public guide "Export data". Fields that are not used are not decoded.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from aluma_async.exceptions import BadSpecification, InvalidResponse
from aluma_async.models import ExportFile, ExportSpec, ExportTask

PENDING = "pending:start_client_action"

# What msgspec lets out of a decode: DecodeError (ValidationError is one), bad UTF-8, a nesting without end.
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


class _TaskRow(Struct):
    id: str
    name: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    created_at: Any = None
    state: str | None = None
    client_action: str | None = None


class _TaskList(Struct):
    tasks: list[msgspec.Raw]


class _File(Struct):
    filename: str
    folder: str | None = None
    source: str | None = None
    content: str | None = None
    url: str | None = None


class _Document(Struct):
    files: list[_File]


class _Spec(Struct):
    documents: list[_Document]


class _Token(Struct):
    access_token: str
    expires_in: Any = None


class _State(Struct):
    state: str


class _Problem(Struct):
    """The two shapes of error that the platform is known to send: ``{"message"}`` and RFC 7807."""

    message: str | None = None
    title: str | None = None
    detail: str | None = None


_rows = msgspec.json.Decoder(list[_TaskRow])
_row = msgspec.json.Decoder(_TaskRow)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_task_list = msgspec.json.Decoder(_TaskList)
_spec = msgspec.json.Decoder(_Spec)

# An id becomes a part of a path, so it must not be able to leave its place there.
_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._~-]{1,200}")
# Aluma's own urls, which so need no closer look.
_PLAIN_URL = re.compile(r"(/[A-Za-z0-9_-]+)+").fullmatch


class ListingDecoder:
    """Reads ``{"tasks": [...]}`` as it arrives, a window at a time, so that its size does not matter.

    A window ends at the last ``}`` that makes it a list of whole rows; what follows waits for the next.
    """

    WINDOW = 256 * 1024
    """Bytes that are collected before rows are decoded."""
    MAX_ROW_BYTES = 32 * 1024 * 1024
    """Bytes without one whole row after which the reply is given up."""
    _MAX_CUTS = 64

    def __init__(self, on_skipped: Callable[[str], None]) -> None:
        self._on_skipped = on_skipped
        self._head = b""
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[ExportTask]:
        """Take some bytes; return the tasks that are complete by now. Raises ``InvalidResponse``."""
        self._buffer += chunk
        if len(self._buffer) < self.WINDOW or not (self._head or self._find_head()):
            return []
        end = len(self._buffer)
        for _ in range(self._MAX_CUTS):
            end = self._buffer.rfind(b"}", 0, end)
            if end < 0:
                break
            try:
                tasks = self._tasks(b"[%b]" % bytes(self._buffer[: end + 1]).lstrip(b", \t\r\n"))
            except _UNREADABLE:
                continue
            del self._buffer[: end + 1]
            return tasks
        if len(self._buffer) > self.MAX_ROW_BYTES:
            raise InvalidResponse("the list of tasks cannot be read: no end of a row in 32 MiB")
        return []

    def close(self) -> list[ExportTask]:
        """Return the last tasks. Raises ``InvalidResponse`` unless the whole reply has arrived."""
        try:
            rest = _task_list.decode(self._head + self._buffer.lstrip(b", \t\r\n"))
        except _UNREADABLE:
            raise InvalidResponse("the list of tasks is not whole, or not the JSON that the API promises") from None
        self._buffer.clear()
        return self._decode_individually(rest.tasks)

    def _find_head(self) -> bool:
        for match in re.finditer(rb'"tasks"\s*:\s*\[', bytes(self._buffer)):
            head = bytes(self._buffer[: match.end()])
            try:
                _task_list.decode(head + b"]}")
            except _UNREADABLE:
                continue
            self._head = head
            del self._buffer[: match.end()]
            return True
        if len(self._buffer) > self.MAX_ROW_BYTES:
            raise InvalidResponse("the list of tasks cannot be read: it names no tasks")
        return False

    def _tasks(self, window: bytes) -> list[ExportTask]:
        try:
            return [task for row in _rows.decode(window) if (task := self._task(row))]
        except _UNREADABLE:
            return self._decode_individually(_raws.decode(window))

    def _decode_individually(self, raws: list[msgspec.Raw]) -> list[ExportTask]:
        tasks = []
        for raw in raws:
            try:
                row = _row.decode(raw)
            except _UNREADABLE:
                self._on_skipped("a row of the list of tasks cannot be read")
            else:
                if task := self._task(row):
                    tasks.append(task)
        return tasks

    def _task(self, row: _TaskRow) -> ExportTask | None:
        if row.state not in (None, PENDING) or row.client_action not in (None, "export"):
            return None  # the filter is Aluma's; a server that ignores it must not make us start what is not ours
        if not _ID.fullmatch(row.id):
            self._on_skipped("a row of the list of tasks has an id that cannot be one")
            return None
        return ExportTask(
            row.id, row.name or "", row.project_id or "", row.project_name or "", timestamp(row.created_at)
        )


def timestamp(text: Any) -> float | None:
    """Seconds since 1970 of an ISO 8601 date; None for anything else (Aluma's own sample has a second 66)."""
    try:
        when = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def export_spec(body: bytes) -> ExportSpec:
    """Decode an Export Specification.

    A file that can never be exported carries its ``problem``; the others stay readable, for the quarantine.
    Raises ``BadSpecification`` if the whole cannot be read.
    """
    try:
        spec = _spec.decode(body)
    except _UNREADABLE as error:
        # Only msgspec's path and types may be told: its other messages could quote content.
        reason = str(error) if isinstance(error, msgspec.ValidationError) else "not JSON"
        raise BadSpecification(f"the Export Specification cannot be read: {reason}", received=body) from None
    in_order = ((document, file) for document, within in enumerate(spec.documents) for file in within.files)
    return ExportSpec(tuple(_file(number, document, file) for number, (document, file) in enumerate(in_order)), body)


def _file(number: int, document: int, file: _File) -> ExportFile:
    problem = ""
    if file.source == "content":
        problem = "" if file.content is not None else "its source is content, but there is none"
    elif file.source == "url":
        problem = unsafe_url(file.url) if file.url else "its source is url, but there is none"
    else:
        problem = f"unknown source {str(file.source)[:40]!r}"
    return ExportFile(
        number,
        document,
        file.folder or "",
        file.filename,
        "content" if file.source == "content" else "url",
        file.content or "",
        file.url or "",
        problem,
    )


def unsafe_url(url: str) -> str:
    """Why a download URL must not be asked for; empty if it surely stays on the API's own origin."""
    if _PLAIN_URL(url):
        return ""
    path = unquote(url.partition("?")[0])
    if not url.startswith("/") or url.startswith("//"):
        return "its url is not relative to the API"
    if "\\" in path or not url.isascii() or not url.isprintable() or " " in url or not path.isprintable():
        return "its url holds characters that no url of the API holds"
    if ".." in path.split("/"):
        return "its url leads out of the API"
    return ""


def decode_token(body: bytes) -> tuple[str, float]:
    """Return the token and its lifetime in seconds (300 if none is given). Raises ``InvalidResponse``."""
    try:
        reply = msgspec.json.decode(body, type=_Token)
    except _UNREADABLE:
        raise InvalidResponse("the reply to the request for a token holds none") from None
    if not reply.access_token.isascii() or not reply.access_token.isprintable():
        raise InvalidResponse("the reply to the request for a token holds one that cannot be sent")
    try:
        life = float(reply.expires_in)
    except (TypeError, ValueError):
        life = 0.0
    return reply.access_token, life if 0 < life < float("inf") else 300.0


def decode_state(body: bytes) -> str:
    """Decode the state out of a task. Raises ``InvalidResponse``."""
    try:
        return msgspec.json.decode(body, type=_State).state
    except _UNREADABLE:
        raise InvalidResponse("the reply to the request for a task cannot be read") from None


def error_message(body: bytes) -> str:
    """The reason in an error's body, in one short line; empty if it gives none that can be read."""
    try:
        error_body = msgspec.json.decode(body, type=_Problem)
    except _UNREADABLE:
        return ""
    text = error_body.message or ": ".join(filter(None, (error_body.title, error_body.detail)))
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()


def retry_after(value: str | None, date: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, from its number or from its date; None if it says nothing usable.

    A date is counted from the reply's own ``Date``, so that a clock that is wrong here does not matter.
    """
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        seconds = (parsedate_to_datetime(value) - parsedate_to_datetime(date or "")).total_seconds()
    except (TypeError, ValueError):  # no date, or one with a time zone and one without
        return None
    return seconds if seconds > 0 else None
