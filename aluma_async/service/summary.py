"""A run in words: a line while it goes on, a few lines at its end."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from aluma_async.models import Summary
from aluma_async.service.formatting import counted, printable, size, span
from aluma_async.service.stats import Left, Rates, Tally

_EXAMPLES = 2


class Reason(NamedTuple):
    """Why some tasks are not exported."""

    tasks: int
    outcome: str
    error: str
    """The kind of error, and the message of the last one."""
    message: str
    examples: tuple[str, ...]
    """Ids of some of the tasks."""


def progress_line(tally: Tally, rates: Rates) -> str:
    """Tell in one line how far a run is."""
    pause = [nothing_claimed(tally)] if tally.paused else []
    parts = [
        f"{tally.exported:,} of {counted(tally.known, 'task')} exported",
        counted(tally.files, "file"),
        size(tally.bytes),
        f"{rates.tasks:.1f} tasks/s",
        f"{size(rates.bytes)}/s",
        f"{len(tally.in_hand)} in hand",
    ]
    return ", ".join(parts + troubles(tally) + pause)


def nothing_claimed(tally: Tally) -> str:
    """Tell why no task is claimed just now."""
    return f"nothing is claimed for now: {printable(tally.paused, 200)}"


def troubles(tally: Tally) -> list[str]:
    """Tell what does not go well, if anything."""
    counts = (
        (max(0, tally.cooling - tally.parked), "cooling down"),
        (tally.parked, "parked"),
        (tally.failed, "failed"),
        (tally.lost, "lost to others"),
    )
    found = [f"{count:,} {what}" for count, what in counts if count]
    if tally.held_back:
        found.append(f"requests held back for {span(tally.held_back)}")
    return found


def time_left(tally: Tally, rates: Rates) -> float | None:
    """Estimate the seconds until nothing waits; None if nothing says so."""
    return tally.waiting / rates.tasks if rates.tasks and tally.waiting and not tally.paused else None


def closing_lines(
    summary: Summary,
    into: str,
    left: Mapping[str, Left] = MappingProxyType({}),
    *,
    waiting: int = 0,
    width: int = 100,
) -> list[str]:
    """Tell what a run did, where the files are (``into``, in words), and in a table what is not exported and why.

    ``waiting``: so many tasks wait all the same, as the run was stopped.
    """
    seconds = max(summary.seconds, 0.001)
    lines = [
        f"Exported  {counted(summary.exported, 'task')}, {counted(summary.files, 'file')}, {size(summary.bytes)} "
        f"in {summary.seconds:.1f} s ({summary.exported / seconds:.1f} tasks/s, {size(summary.bytes / seconds)}/s)",
        f"Files     {into}",
    ]
    besides = (
        (summary.held_back, "cooling down or parked (they wait at Aluma)"),
        (summary.failed, "failed (what they held is in the quarantine)"),
        (summary.lost, "taken or settled by others"),
    )
    if any(count for count, _ in besides):
        lines.insert(1, f"Besides   {', '.join(f'{count:,} {what}' for count, what in besides if count)}")
    earlier = summary.held_back - sum(one.outcome != "failed" for one in left.values())
    table = _table(why_left(left), earlier, waiting)
    return lines + [line if len(line) <= width else f"{line[: width - 1]}…" for line in table]


def why_left(left: Mapping[str, Left]) -> list[Reason]:
    """Gather what is not exported by outcome and kind of error, the most frequent first."""
    groups: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    messages: dict[tuple[str, str], str] = {}
    for task_id, one in left.items():
        groups[one.outcome, one.error].append(task_id)
        messages[one.outcome, one.error] = one.message
    reasons = [Reason(len(ids), *kind, messages[kind], tuple(ids[:_EXAMPLES])) for kind, ids in groups.items()]
    return sorted(reasons, key=lambda reason: -reason.tasks)


def _table(reasons: Sequence[Reason], earlier: int, waiting: int) -> list[str]:
    """Draw the table of what is not exported; ``earlier``: so many are held back since a run before this one."""
    rows = []
    for reason in reasons:
        more = f" and {reason.tasks - len(reason.examples):,} more" if reason.tasks > len(reason.examples) else ""
        rows.append(f"{reason.tasks:>7,}  {reason.outcome:<12}  {reason.error}: {printable(reason.message)}")
        rows.append(f"{'':>23}{', '.join(printable(task_id, 40) for task_id in reason.examples)}{more}")
    if earlier > 0:
        rows.append(f"{earlier:>7,}  {'held back':<12}  since an earlier run")
    if rows:
        failed_only = earlier <= 0 and all(reason.outcome == "failed" for reason in reasons)
        rows.append("'aluma-async status' shows each" + ("." if failed_only else ", 'aluma-async retry' releases."))
    if waiting > 0:
        rows.insert(0, f"{waiting:>7,}  {'waiting':<12}  the run was stopped")
    return ["Not exported", "  tasks  state         why, and which", *rows] if rows else []
