"""Formats numbers, durations and defects for people, and makes text from outside safe for a terminal."""

import json
import traceback

import msgspec

from aluma_async.exceptions import AlumaAsyncError

_MAX_CAUSES = 3


def describe_defect(error: BaseException | None) -> str:
    """Describe the exceptions that an "unexpected" error stands for, with their messages and stacks but no variables.

    Returns an empty text for other errors, since their causes may contain texts of a database server.
    """
    described: list[str] = []
    while error is not None and len(described) < _MAX_CAUSES and (described or type(error) is AlumaAsyncError):
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if error is not None:
            frames = reversed(traceback.extract_tb(error.__traceback__)[-5:])
            stack = ", called by ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames)
            described.append(f"{type(error).__name__}: {error}" + (f" in {stack}" if stack else ""))
    return "; caused by ".join(described)


def sanitize(text: str, limit: int = 500) -> str:
    """Cut to ``limit`` characters, and replace with ``?`` what could control a terminal or forge a log line."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut if cut.isprintable() else "".join(c if c.isprintable() else "?" for c in cut)


def escape_json(text: str) -> str:
    """Escape what could control a terminal, or change the order of its text, in the strings of encoded JSON."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def indented_json(value: object) -> str:
    """Return a value as indented JSON, escaped for a terminal."""
    return escape_json(msgspec.json.format(msgspec.json.encode(value)).decode())


def without_subject(message: str, prefix: str) -> str:
    """Return a message without the subject that ``prefix``, the text in front of it, already ends with."""
    subject, colon, rest = message.partition(": ")
    repeated = colon and (prefix == subject or prefix.endswith((f" {subject}", f": {subject}")))
    return without_subject(rest, prefix) if repeated else message


def without_task(message: str, task_id: str) -> str:
    """Return a message about a task without the id at its beginning, for a line that already contains the id."""
    subject, separator, rest = message.partition(f"task {task_id}")
    if not separator or rest[:2] not in (": ", ", ") or not all(c.isalpha() or c == " " for c in subject):
        return message
    operation = subject.strip()
    return f"{operation}: {rest[2:]}" if operation else rest[2:]


def format_bytes(count: float) -> str:
    """Format a number of bytes with a decimal unit: ``81.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units: ``42 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    rounded = max(0, round(seconds))
    parts = (
        (rounded // 86400, "d"),
        (rounded // 3600 % 24, "h"),
        (rounded // 60 % 60, "min"),
        (rounded % 60, "s"),
    )
    first = next((index for index, (count, _) in enumerate(parts) if count), len(parts) - 1)
    shown = [f"{count} {unit}" for count, unit in parts[first : first + 2] if count]
    return " ".join(shown) or "0 s"


def describe_deadline(age: float | None, left: float | None) -> str:
    """Return when Aluma deletes a task, as far as known: by its age and by the seconds that are left."""
    if left is None:
        return "" if age is None else f"created {format_duration(age)} ago, deadline not known"
    if left <= 0:
        return f"overdue for {format_duration(-left)}, Aluma may have deleted it"
    return f"Aluma deletes it in {format_duration(left)}"


def pluralize(count: int, noun: str) -> str:
    """Format a count with its noun: ``1 task``, ``2 tasks``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
