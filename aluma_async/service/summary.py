"""A run in words: a line while it goes on, a few lines at its end."""

from aluma_async.models import Summary
from aluma_async.service.tally import Rates, Tally
from aluma_async.service.text import counted, size, span


def progress_line(tally: Tally, rates: Rates) -> str:
    """Tell in one line how far a run is."""
    parts = [
        f"{tally.exported:,} of {counted(tally.known, 'task')} exported",
        counted(tally.files, "file"),
        size(tally.bytes),
        f"{rates.tasks:.1f} tasks/s",
        f"{size(rates.bytes)}/s",
        f"{len(tally.in_hand)} in hand",
    ]
    return ", ".join(parts + troubles(tally))


def troubles(tally: Tally) -> list[str]:
    """Tell what does not go well, if anything."""
    counts = ((tally.cooling, "cooling down"), (tally.failed, "failed"), (tally.lost, "lost to others"))
    found = [f"{count:,} {what}" for count, what in counts if count]
    if tally.held_back:
        found.append(f"requests held back for {span(tally.held_back)}")
    return found


def time_left(tally: Tally, rates: Rates) -> float | None:
    """Estimate the seconds until nothing waits; None if nothing says so."""
    return tally.waiting / rates.tasks if rates.tasks and tally.waiting else None


def closing_lines(summary: Summary, into: str) -> list[str]:
    """Tell what a run did, and where the files are: ``into``, in words."""
    seconds = max(summary.seconds, 0.001)
    lines = [
        f"Exported  {counted(summary.exported, 'task')}, {counted(summary.files, 'file')}, {size(summary.bytes)} "
        f"in {summary.seconds:.1f} s ({summary.exported / seconds:.1f} tasks/s, {size(summary.bytes / seconds)}/s)",
        f"Files     {into}",
    ]
    besides = (
        (summary.held_back, "cooling down (they wait at Aluma)"),
        (summary.failed, "failed (what they held is in the quarantine)"),
        (summary.lost, "taken or settled by others"),
    )
    if any(count for count, _ in besides):
        lines.insert(1, f"Besides   {', '.join(f'{count:,} {what}' for count, what in besides if count)}")
    return lines
