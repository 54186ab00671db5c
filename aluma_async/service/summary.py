"""A run in words: a line while it goes on, a few lines at its end."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from aluma_async.models import Summary
from aluma_async.service.formatting import format_bytes, format_duration, pluralize, sanitize
from aluma_async.service.stats import Rates, RunStats, UnexportedTask

_EXAMPLES = 2


class UnexportedReason(NamedTuple):
    """Why some tasks are not exported."""

    tasks: int
    outcome: str
    error: str
    """The kind of error, and the message of the last one."""
    message: str
    examples: tuple[str, ...]
    """Ids of some of the tasks."""


def progress_line(stats: RunStats, rates: Rates) -> str:
    """Tell in one line how far a run is."""
    pause = [pause_message(stats)] if stats.paused else []
    parts = [
        f"{stats.exported:,} of {pluralize(stats.total, 'task')} exported",
        pluralize(stats.files, "file"),
        format_bytes(stats.bytes),
        f"{rates.tasks:.1f} tasks/s",
        f"{format_bytes(rates.bytes)}/s",
        f"{len(stats.active)} in hand",
    ]
    return ", ".join(parts + problems(stats) + pause)


def pause_message(stats: RunStats) -> str:
    """Tell why no task is claimed just now."""
    return f"nothing is claimed for now: {sanitize(stats.paused, 200)}"


def problems(stats: RunStats) -> list[str]:
    """Tell what does not go well, if anything."""
    counts = (
        (max(0, stats.cooling - stats.parked), "cooling down"),
        (stats.parked, "parked"),
        (stats.failed, "failed"),
        (stats.lost, "lost to others"),
    )
    found = [f"{count:,} {what}" for count, what in counts if count]
    if stats.requests_paused_seconds:
        found.append(f"requests held back for {format_duration(stats.requests_paused_seconds)}")
    return found


def time_left(stats: RunStats, rates: Rates) -> float | None:
    """Estimate the seconds until nothing waits; None if nothing says so."""
    return stats.waiting / rates.tasks if rates.tasks and stats.waiting and not stats.paused else None


def summary_lines(
    summary: Summary,
    into: str,
    unexported: Mapping[str, UnexportedTask] = MappingProxyType({}),
    *,
    waiting: int = 0,
    width: int = 100,
) -> list[str]:
    """Tell what a run did, where the files are (``into``, in words), and in a table what is not exported and why.

    ``waiting``: so many tasks wait all the same, as the run was stopped.
    """
    seconds = max(summary.seconds, 0.001)
    lines = [
        f"Exported  {pluralize(summary.exported, 'task')}, "
        f"{pluralize(summary.files, 'file')}, {format_bytes(summary.bytes)} "
        f"in {summary.seconds:.1f} s ({summary.exported / seconds:.1f} tasks/s, "
        f"{format_bytes(summary.bytes / seconds)}/s)",
        f"Files     {into}",
    ]
    besides = (
        (summary.held_back, "cooling down or parked (they wait at Aluma)"),
        (summary.failed, "failed (what they held is in the quarantine)"),
        (summary.lost, "taken or settled by others"),
    )
    if any(count for count, _ in besides):
        lines.insert(1, f"Besides   {', '.join(f'{count:,} {what}' for count, what in besides if count)}")
    earlier = summary.held_back - sum(one.outcome != "failed" for one in unexported.values())
    table = _table(unexported_reasons(unexported), earlier, waiting)
    return lines + [line if len(line) <= width else f"{line[: width - 1]}…" for line in table]


def unexported_reasons(unexported: Mapping[str, UnexportedTask]) -> list[UnexportedReason]:
    """Gather what is not exported by outcome and kind of error, the most frequent first."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    messages: dict[tuple[str, str], str] = {}
    for task_id, one in unexported.items():
        groups[one.outcome, one.error].append(task_id)
        messages[one.outcome, one.error] = one.message
    reasons = [
        UnexportedReason(len(ids), *kind, messages[kind], tuple(ids[:_EXAMPLES])) for kind, ids in groups.items()
    ]
    return sorted(reasons, key=lambda reason: -reason.tasks)


def _table(reasons: Sequence[UnexportedReason], earlier: int, waiting: int) -> list[str]:
    """Draw the table of what is not exported; ``earlier``: so many are held back since a run before this one."""
    rows = []
    for reason in reasons:
        more = f" and {reason.tasks - len(reason.examples):,} more" if reason.tasks > len(reason.examples) else ""
        rows.append(f"{reason.tasks:>7,}  {reason.outcome:<12}  {reason.error}: {sanitize(reason.message)}")
        rows.append(f"{'':>23}{', '.join(sanitize(task_id, 40) for task_id in reason.examples)}{more}")
    if earlier > 0:
        rows.append(f"{earlier:>7,}  {'held back':<12}  since an earlier run")
    if rows:
        failed_only = earlier <= 0 and all(reason.outcome == "failed" for reason in reasons)
        rows.append("'aluma-async status' shows each" + ("." if failed_only else ", 'aluma-async retry' releases."))
    if waiting > 0:
        rows.insert(0, f"{waiting:>7,}  {'waiting':<12}  the run was stopped")
    return ["Not exported", "  tasks  state         why, and which", *rows] if rows else []
