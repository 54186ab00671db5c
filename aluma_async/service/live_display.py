"""``LiveDisplay``: a panel with the progress of a run, drawn from ``RunStats`` on a terminal.

It starts no thread and sets no timer: its owner calls ``draw``. Importing this module imports rich.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from textwrap import wrap
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment, SegmentLines
from rich.table import Table
from rich.text import Text

from aluma_async.service.color import Color, rich_options
from aluma_async.service.formatting import format_bytes, format_duration, pluralize, sanitize
from aluma_async.service.stats import ActiveTask, RunStats
from aluma_async.service.summary import pause_message, problems, time_left

_OTHER_LINES = 4
"""Lines of the frame and of the bar, and a free one; figures, active tasks and messages have the others."""
_MESSAGE_LINES = 3
"""Lines that are kept free for messages, so that the rows stay when one appears."""
_FRAME_COLUMNS = 4
_WIDE, _NARROW, _TIGHT = 97, 76, 57
"""Minimum columns for wide ages, for both rates in one line, and for task sizes."""
_ECHO_COLUMNS = 3
"""Free columns behind the panel, where the terminal echoes Ctrl-C; in the next line, the echo would shift the panel."""
_MAX_WIDTH = 120
"""Columns of the panel on a wider terminal, where long lines would be hard to read."""
_MAX_ERROR_KINDS = 4


class LiveDisplay:
    """Within the block, text written to ``sys.stderr`` appears above the panel; leaving it removes the panel."""

    def __init__(
        self,
        stats: RunStats,
        console: Console | None = None,
        *,
        now: Callable[[], float] = time.time,
        color: Color = "auto",
    ) -> None:
        self._console = console or Console(stderr=True, **rich_options(color))
        self._renderer = PanelRenderer(stats, now)
        self._shown: list[list[Segment]] = []
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the panel and restore the terminal."""
        self._live.stop()

    def draw(self) -> None:
        """Draw the current state; nothing is written if it has not changed."""
        panel = self._renderer.render(*self._console.size)
        lines = self._console.render_lines(panel, pad=False)
        if lines != self._shown:
            self._live.update(
                SegmentLines(lines, new_lines=True), refresh=True
            )  # not the panel: rendering is expensive
            self._shown = lines


class PanelRenderer:
    """Renders the panel. An active task keeps its row, so that rows can be read."""

    def __init__(self, stats: RunStats, now: Callable[[], float] = time.time) -> None:
        self._stats = stats
        self._now = now
        self._rows: list[str] = []

    def render(self, width: int, height: int) -> RenderableType:
        """Return the panel for a terminal of this size."""
        width = min(width - _ECHO_COLUMNS, _MAX_WIDTH)
        columns = max(1, width - _FRAME_COLUMNS)
        figures = [Text(line) for line in self._figures(width, columns)]
        messages = list(_messages(self._stats, columns))
        body: list[RenderableType] = [_bar(self._stats), *figures]
        rows = height - _OTHER_LINES - len(figures) - max(_MESSAGE_LINES, len(messages))
        if rows > 0:
            body += self._tasks(rows, width)
        body += messages
        return Panel(Group(*body), title="aluma-async", title_align="left", border_style="dim", width=width)

    def _figures(self, width: int, columns: int) -> Iterator[str]:
        """Yield lines of at most ``columns``; which figures share a line depends on the width of the panel."""
        stats = self._stats
        rates, average = stats.rates(), stats.average()
        remaining = time_left(stats, rates)
        done = [pluralize(stats.files, "file"), format_bytes(stats.bytes)]
        if remaining:
            done.append(f"{format_duration(remaining)} left")
        if stats.limit:
            done.append(f"up to {pluralize(stats.limit, 'request')} at once")
        now = f"now {rates.tasks:.1f} tasks/s, {format_bytes(rates.bytes)}/s"
        overall = f"average {average.tasks:.1f} tasks/s, {format_bytes(average.bytes)}/s"
        tasks = [f"{stats.queued:,} queued", f"{len(stats.active)} in progress"]
        if stats.oldest_created_at is not None and stats.pending:
            tasks.append(f"oldest pending for {format_duration(self._now() - stats.oldest_created_at)}")
        if width >= _NARROW:
            yield from _wrap(done, ", ", columns)
            yield from _wrap([now, overall], "   ", columns)
        else:
            for line in (done, now.split(", "), overall.split(", ")):
                yield from _wrap(line, ", ", columns)
        yield from _wrap(tasks, ", ", columns)

    def _tasks(self, max_rows: int, width: int) -> Iterator[RenderableType]:
        """Yield a table of active tasks, and the number of those that do not fit.

        Rows of ended tasks stay until reused, so that the panel keeps its height.
        """
        stats = self._stats
        is_full = len(stats.active) > max_rows > 1
        max_rows -= is_full
        if not stats.active and not stats.queued:  # nothing to do for now, so no rows to keep
            self._rows = []
        free = iter([task_id for task_id in stats.active if task_id not in self._rows])
        rows = [task_id if task_id in stats.active else next(free, "") for task_id in self._rows[:max_rows]]
        self._rows = rows + [task_id for task_id, _ in zip(free, range(max_rows - len(rows)), strict=False)]
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=4, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True, min_width=8 if width >= _WIDE else 5)
        if width >= _TIGHT:
            table.add_column(justify="right", no_wrap=True, min_width=8)
        for task_id in self._rows:
            if task := stats.active.get(task_id):
                row = _row(task, stats.age(task))
                table.add_row(*islice(row, len(table.columns)))
            else:
                table.add_row("")
        yield table
        if is_full:
            hidden = len(stats.active) - sum(task_id in stats.active for task_id in self._rows)
            yield Text(f"and {hidden:,} more", style="dim")


def _bar(stats: RunStats) -> RenderableType:
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        ProgressBar(total=max(stats.total, 1), completed=stats.exported, complete_style="cyan"),
        f"{stats.exported:,} of {pluralize(stats.total, 'task')}" if stats.listed else "listing pending tasks",
    )
    return head


def _row(task: ActiveTask, age: float) -> Iterator[str]:
    yield sanitize(task.task.name or task.task.id, 80)
    yield sanitize(task.file.filename, 80) if task.file else ""
    yield f"{task.staged} of {pluralize(task.files, 'file')}"
    yield format_duration(age)
    yield format_bytes(task.bytes)


def _messages(stats: RunStats, columns: int) -> Iterator[Text]:
    """Yield lines about a pause and about problems; none if there is neither."""
    if stats.paused:
        yield from (Text(line, style="bold red") for line in wrap(pause_message(stats), columns))
    yield from (Text(line, style="yellow") for line in _wrap(problems(stats), ", ", columns))
    kinds = [f"{count:,} {kind}" for kind, count in stats.errors.most_common(_MAX_ERROR_KINDS)]
    if retried := stats.retries.total():
        kinds.append(f"{pluralize(retried, 'request')} retried")
    if kinds:
        kinds[0] = f"errors: {kinds[0]}"
    yield from (Text(line, style="yellow") for line in _wrap(kinds, ", ", columns))


def _wrap(parts: Iterable[str], separator: str, columns: int) -> Iterator[str]:
    """Yield lines of at most ``columns`` that contain whole parts."""
    line = ""
    for part in parts:
        joined = f"{line}{separator}{part}" if line else part
        if line and len(joined) > columns:
            yield f"{line}{separator}".rstrip()
            line = part
        else:
            line = joined
    if line:
        yield line
