"""``LiveDisplay``: the panel of a run on a terminal, drawn from a ``Tally`` whenever it is told to.

Importing this imports rich. It starts no thread and never reads the clock of the loop: who owns it says when to draw.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from aluma_async.service.formatting import format_bytes, format_duration, pluralize, sanitize
from aluma_async.service.stats import ActiveTask, RunStats
from aluma_async.service.summary import pause_message, problems, time_left

MAX_ROWS = 8
"""So many tasks in hand are shown at most."""
_OTHER_LINES = 11
"""Of the panel and its frame, besides those rows."""
_WIDE, _NARROW, _TIGHT = 100, 76, 60
"""Columns: from the first on figures stand in one line, below the second in three; below the last without sizes."""
_MAX_WIDTH = 120
"""What stands further apart is not read as one line."""
_MAX_ERROR_KINDS = 4


class LiveDisplay:
    """While it is entered, what is written to ``sys.stderr`` comes out above the panel. It leaves nothing behind."""

    def __init__(
        self, stats: RunStats, console: Console | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        self._console = console or Console(stderr=True)
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
        """Give the terminal back."""
        self._live.stop()

    def draw(self) -> None:
        """Show how things stand now; nothing is written if they stand as they did."""
        panel = self._renderer.render(*self._console.size)
        lines = self._console.render_lines(panel, pad=False)
        if lines != self._shown:
            self._live.update(panel, refresh=True)
            self._shown = lines


class PanelRenderer:
    """Makes the panel. A task keeps its row as long as it is in hand, so that rows can be read."""

    def __init__(self, stats: RunStats, now: Callable[[], float] = time.time) -> None:
        self._stats = stats
        self._now = now
        self._rows: list[str] = []

    def render(self, width: int, height: int) -> RenderableType:
        """Make it for a terminal of this size."""
        width = min(width, _MAX_WIDTH)
        body: list[RenderableType] = [_bar(self._stats)]
        body += (Text(line, no_wrap=True, overflow="ellipsis") for line in self._figures(width))
        if rows := max(0, min(MAX_ROWS, height - _OTHER_LINES)):
            body.append(self._tasks(rows, width))
        if self._stats.paused:
            body.append(Text(pause_message(self._stats), style="bold red", no_wrap=True, overflow="ellipsis"))
        body += (Text(line, style="yellow", no_wrap=True, overflow="ellipsis") for line in _problem_lines(self._stats))
        return Panel(Group(*body), title="aluma-async", title_align="left", border_style="dim", width=width)

    def _figures(self, width: int) -> Iterator[str]:
        stats = self._stats
        rates, average = stats.rates(), stats.average()
        remaining = time_left(stats, rates)
        done = f"{pluralize(stats.files, 'file')}, {format_bytes(stats.bytes)}"
        if remaining:
            done += f", {format_duration(remaining)} left"
        if stats.limit:
            done += f", up to {pluralize(stats.limit, 'request')} at once"
        now = f"now {rates.tasks:.1f} tasks/s, {format_bytes(rates.bytes)}/s"
        overall = f"average {average.tasks:.1f} tasks/s, {format_bytes(average.bytes)}/s"
        waiting = [f"{stats.queued:,} queued", f"{len(stats.active)} in hand"]
        if stats.oldest_created_at is not None and stats.waiting:
            waiting.append(f"oldest waits for {format_duration(self._now() - stats.oldest_created_at)}")
        if width >= _WIDE:
            yield f"{done}   {now}   {overall}"
        elif width >= _NARROW:
            yield from (done, f"{now}   {overall}")
        else:
            yield from (done, now, overall)
        yield ", ".join(waiting)

    def _tasks(self, max_rows: int, width: int) -> RenderableType:
        """Make a row for each task in hand, as far as there is room; the room stays, lest the panel jumps."""
        stats = self._stats
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
        return table


def _bar(stats: RunStats) -> RenderableType:
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        ProgressBar(total=max(stats.total, 1), completed=stats.exported, complete_style="cyan"),
        f"{stats.exported:,} of {pluralize(stats.total, 'task')}" if stats.listed else "listing what waits",
    )
    return head


def _row(task: ActiveTask, age: float) -> Iterator[str]:
    yield sanitize(task.task.name or task.task.id, 80)
    yield sanitize(task.file.filename, 80) if task.file else ""
    yield f"{task.saved} of {pluralize(task.files, 'file')}"
    yield format_duration(age)
    yield format_bytes(task.bytes)


def _problem_lines(stats: RunStats) -> Iterator[str]:
    """Two lines at most, and none while all goes well."""
    if problem := problems(stats):
        yield ", ".join(problem)
    kinds = [f"{count:,} {kind}" for kind, count in stats.errors.most_common(_MAX_ERROR_KINDS)]
    if stats.retried:
        kinds.append(f"{pluralize(stats.retried, 'request')} made again")
    if kinds:
        yield "errors: " + ", ".join(kinds)
