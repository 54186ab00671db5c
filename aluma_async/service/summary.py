"""Formats the state of a run: a line of progress, and the summary at its end."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from aluma_async.models import Summary
from aluma_async.service.formatting import format_bytes, format_duration, pluralize, sanitize, without_task
from aluma_async.service.stats import ON_HOLD, Rates, RunStats, UnexportedTask

_EXAMPLES = 2


class UnexportedReason(NamedTuple):
    """Tasks that were not exported, with the same outcome and class of error."""

    tasks: int
    """Number of tasks."""
    outcome: str
    error: str
    """Name of the class of the error."""
    message: str
    """Message of the last of these errors."""
    examples: tuple[str, ...]
    """Ids of some of the tasks."""


def progress_line(stats: RunStats, rates: Rates) -> str:
    """Return one line with the progress of a run."""
    pause = [pause_message(stats)] if stats.paused else []
    parts = [
        f"{stats.exported:,} of {pluralize(stats.total, 'task')} exported",
        pluralize(stats.files, "file"),
        format_bytes(stats.bytes),
        f"{rates.tasks:.1f} tasks/s",
        f"{format_bytes(rates.bytes)}/s",
        f"{len(stats.active)} in progress",
    ]
    return ", ".join(parts + problems(stats) + pause)


def pause_message(stats: RunStats) -> str:
    """Return why no tasks are claimed at present."""
    return f"claiming paused: {sanitize(str(stats.paused), 200)}"


def problems(stats: RunStats) -> list[str]:
    """Return the problems of the run, with numbers of tasks."""
    counts = (
        (stats.cooling, "cooling down"),
        (stats.parked, "parked"),
        (stats.failed, "failed"),
        (stats.lost, "lost"),
    )
    lines = [f"{count:,} {outcome}" for count, outcome in counts if count]
    if stats.requests_paused_seconds:
        lines.append(f"requests paused for {format_duration(stats.requests_paused_seconds)}")
    return lines


def time_left(stats: RunStats, rates: Rates) -> float | None:
    """Estimate the seconds until no task is pending; None if unknown."""
    return stats.pending / rates.tasks if rates.tasks and stats.pending and not stats.paused else None


def summary_lines(
    summary: Summary,
    into: str,
    unexported: Mapping[str, UnexportedTask] = MappingProxyType({}),
    *,
    pending: int = 0,
    width: int = 100,
) -> list[str]:
    """Return the summary of a run, with a table of the tasks that were not exported.

    Args:
        summary: Totals of the run.
        into: Description of the destinations.
        unexported: Tasks that were not exported, by id.
        pending: Tasks that were not tried because the run was stopped.
        width: Columns of the terminal; longer lines of the table are cut.
    """
    seconds = max(summary.seconds, 0.001)
    lines = [
        f"Exported  {pluralize(summary.exported, 'task')}, "
        f"{pluralize(summary.files, 'file')}, {format_bytes(summary.bytes)} "
        f"in {summary.seconds:.1f} s ({summary.exported / seconds:.1f} tasks/s, "
        f"{format_bytes(summary.bytes / seconds)}/s)",
        f"Files     {into}",
    ]
    others = (
        (summary.held_back, "cooling down or parked (still pending at Aluma)"),
        (summary.failed, "failed (their content is in the quarantine)"),
        (summary.lost, "claimed or settled elsewhere"),
        (summary.gone, "no longer pending, not exported by this exporter (redeliver their copies in the quarantine)"),
        (summary.deferred, "not settled at Aluma yet"),
    )
    if any(count for count, _ in others):
        lines.insert(1, f"Others    {', '.join(f'{count:,} {outcome}' for count, outcome in others if count)}")
    earlier = summary.held_back - sum(task.outcome in ON_HOLD for task in unexported.values())
    table = _table(unexported_reasons(unexported), earlier, pending)
    return lines + [line if len(line) <= width else f"{line[: width - 1]}…" for line in table]


def unexported_reasons(unexported: Mapping[str, UnexportedTask]) -> list[UnexportedReason]:
    """Group unexported tasks by outcome and class of error, the largest group first."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    messages: dict[tuple[str, str], str] = {}
    for task_id, task in unexported.items():
        groups[task.outcome, task.error].append(task_id)
        messages[task.outcome, task.error] = without_task(task.message, task_id)
    reasons = [
        UnexportedReason(len(ids), *kind, messages[kind], tuple(ids[:_EXAMPLES])) for kind, ids in groups.items()
    ]
    return sorted(reasons, key=lambda reason: -reason.tasks)


def _table(reasons: Sequence[UnexportedReason], earlier: int, pending: int) -> list[str]:
    """Return the table of unexported tasks; ``earlier``: tasks on hold since an earlier run."""
    rows = []
    for reason in reasons:
        others = f" and {reason.tasks - len(reason.examples):,} more" if reason.tasks > len(reason.examples) else ""
        rows.append(f"{reason.tasks:>7,}  {reason.outcome:<12}  {reason.error}: {sanitize(reason.message)}")
        rows.append(f"{'':>23}{', '.join(sanitize(task_id, 40) for task_id in reason.examples)}{others}")
    if earlier > 0:
        rows.append(f"{earlier:>7,}  {'on hold':<12}  since an earlier run")
    if rows:
        on_hold = earlier > 0 or any(reason.outcome in ON_HOLD for reason in reasons)
        retry = ", 'aluma-async retry' ends their hold" if on_hold else ""
        rows.append(f"'aluma-async status' shows each task{retry}.")
    if pending > 0:
        rows.insert(0, f"{pending:>7,}  {'pending':<12}  the run was stopped")
    return ["Not exported", "  tasks  state         reason and examples", *rows] if rows else []
