"""Formats the text output of ``status``: tasks with the same reason stand together, and no line is broken in a word."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from aluma_async.cli.copies import Row, completeness
from aluma_async.cli.output import wrap_parts
from aluma_async.models import ClaimState
from aluma_async.service.formatting import describe_deadline, format_duration, pluralize, sanitize, without_task

_TITLES = {
    "in_hand": "in progress",
    "to_be_released": "claims to be released, because a reply was lost or an exporter ended",
    "cooling_down": "cooling down",
    "parked": "parked",
    "quarantined": "in the quarantine",
}
_STATES = {
    ClaimState.STARTING: "being exported",
    ClaimState.CLAIMED: "being exported",
    ClaimState.COMMITTED: "all files saved, to be completed",
    ClaimState.FAILING: "in the quarantine, to be failed",
    ClaimState.ORPHANED: "to be released",
}


def status_lines(rows: Mapping[str, Sequence[Row]], columns: int | None) -> Iterator[str]:
    """Yield the lines about all tasks.

    Args:
        rows: Tasks by the key of the JSON output.
        columns: Width of the terminal; None: one line per task.
    """
    claims = rows["in_hand"]
    orphaned = [row for row in claims if row["step"] == ClaimState.ORPHANED]
    sections = {**rows, "in_hand": [row for row in claims if row not in orphaned], "to_be_released": orphaned}
    for key, title in _TITLES.items():
        if sections[key] or key != "to_be_released":
            yield f"{title}: {len(sections[key])}"
        for reason, tasks in _by_reason(sections[key]).items():
            if reason:
                yield from wrap_parts("  ", sanitize(reason).split(" "), columns, gap=" ")
            indent = "    " if reason else "  "
            for row in tasks:
                yield from wrap_parts(indent, [sanitize(part) for part in _parts(row)], columns)
    yield from _limit_lines(rows.get("failure_limits", ()), columns)


def _limit_lines(rows: Sequence[Row], columns: int | None) -> Iterator[str]:
    """Yield the lines about the kinds of tasks of which no more are failed automatically."""
    if rows:
        yield "no more tasks are failed automatically:"
    for row in rows:
        kind = [str(row["error"]), f"project {row['project']}"]
        if isinstance(row["destinations"], list) and row["destinations"]:
            kind.append(f"to {', '.join(row['destinations'])}")
        kind.append(f"{row['failed']} failed, {row['parked']} parked")
        yield from wrap_parts("  ", [sanitize(part) for part in kind], columns)
        hint = (
            f"Look at their copies, then run 'aluma-async retry --all' or 'aluma-async fail --reason {row['error']}'."
        )
        yield from wrap_parts("    ", sanitize(hint).split(" "), columns, gap=" ")


def _by_reason(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group tasks by their error; one without a reason, such as a task in progress, stands under an empty one."""
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        reason = f"{row['error']}: {without_task(str(row['message']), str(row['task']))}" if "message" in row else ""
        groups[reason].append(row)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _parts(row: Row) -> Iterator[str]:
    yield str(row["task"])
    if "step" in row:
        age = _duration(row["seconds"])
        yield f"{_STATES[ClaimState(str(row['step']))]}, started {age} ago"
    if "retry_in_seconds" in row:
        delay = _duration(row["retry_in_seconds"])
        yield f"retry in {delay}, {pluralize(int(str(row['failures'])), 'failure')}"
    if "folder" in row:
        again = ", redelivered" if row["redelivered_at"] else ""
        yield f"{row['state']}, {completeness(row)}{again}"
        yield str(row["folder"])
    if "copy" in row:
        if deadline := describe_deadline(_seconds(row["age_seconds"]), _seconds(row["seconds_left"])):
            yield deadline
        yield completeness(row["copy"]) if isinstance(row["copy"], dict) else "no copy"


def _duration(value: object) -> str:
    seconds = _seconds(value)
    return "?" if seconds is None else format_duration(seconds)


def _seconds(value: object) -> float | None:
    return None if value is None else float(str(value))
