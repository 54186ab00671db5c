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

from aluma_async.service.formatting import counted, printable, size, span
from aluma_async.service.stats import InHand, Tally
from aluma_async.service.summary import nothing_claimed, time_left, troubles

MOST_ROWS = 8
"""So many tasks in hand are shown at most."""
_OTHER_LINES = 11
"""Of the panel and its frame, besides those rows."""
_WIDE, _NARROW, _TIGHT = 100, 76, 60
"""Columns: from the first on figures stand in one line, below the second in three; below the last without sizes."""
_WIDEST = 120
"""What stands further apart is not read as one line."""
_MOST_KINDS = 4


class LiveDisplay:
    """While it is entered, what is written to ``sys.stderr`` comes out above the panel. It leaves nothing behind."""

    def __init__(self, tally: Tally, console: Console | None = None, *, wall: Callable[[], float] = time.time) -> None:
        self._console = console or Console(stderr=True)
        self._panel = Painter(tally, wall)
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
        panel = self._panel.paint(*self._console.size)
        lines = self._console.render_lines(panel, pad=False)
        if lines != self._shown:
            self._live.update(panel, refresh=True)
            self._shown = lines


class Painter:
    """Makes the panel. A task keeps its row as long as it is in hand, so that rows can be read."""

    def __init__(self, tally: Tally, wall: Callable[[], float] = time.time) -> None:
        self._tally = tally
        self._wall = wall
        self._rows: list[str] = []

    def paint(self, width: int, height: int) -> RenderableType:
        """Make it for a terminal of this size."""
        width = min(width, _WIDEST)
        body: list[RenderableType] = [_bar(self._tally)]
        body += (Text(line, no_wrap=True, overflow="ellipsis") for line in self._figures(width))
        if rows := max(0, min(MOST_ROWS, height - _OTHER_LINES)):
            body.append(self._tasks(rows, width))
        if self._tally.paused:
            body.append(Text(nothing_claimed(self._tally), style="bold red", no_wrap=True, overflow="ellipsis"))
        body += (Text(line, style="yellow", no_wrap=True, overflow="ellipsis") for line in _bad_news(self._tally))
        return Panel(Group(*body), title="aluma-async", title_align="left", border_style="dim", width=width)

    def _figures(self, width: int) -> Iterator[str]:
        tally = self._tally
        rates, average = tally.rates(), tally.average()
        left = time_left(tally, rates)
        done = f"{counted(tally.files, 'file')}, {size(tally.bytes)}{f', {span(left)} left' if left else ''}"
        if tally.limit:
            done += f", up to {counted(tally.limit, 'request')} at once"
        now = f"now {rates.tasks:.1f} tasks/s, {size(rates.bytes)}/s"
        overall = f"average {average.tasks:.1f} tasks/s, {size(average.bytes)}/s"
        waiting = [f"{tally.queued:,} queued", f"{len(tally.in_hand)} in hand"]
        if tally.oldest_created_at is not None and tally.waiting:
            waiting.append(f"oldest waits for {span(self._wall() - tally.oldest_created_at)}")
        if width >= _WIDE:
            yield f"{done}   {now}   {overall}"
        elif width >= _NARROW:
            yield from (done, f"{now}   {overall}")
        else:
            yield from (done, now, overall)
        yield ", ".join(waiting)

    def _tasks(self, most: int, width: int) -> RenderableType:
        """Make a row for each task in hand, as far as there is room; the room stays, lest the panel jumps."""
        tally = self._tally
        free = iter([task_id for task_id in tally.in_hand if task_id not in self._rows])
        kept = [task_id if task_id in tally.in_hand else next(free, "") for task_id in self._rows[:most]]
        self._rows = kept + [task_id for task_id, _ in zip(free, range(most - len(kept)), strict=False)]
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=4, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", no_wrap=True)
        table.add_column(justify="right", no_wrap=True, min_width=8 if width >= _WIDE else 5)
        if width >= _TIGHT:
            table.add_column(justify="right", no_wrap=True, min_width=8)
        for task_id in self._rows:
            if task := tally.in_hand.get(task_id):
                row = _row(task, tally.age(task))
                table.add_row(*islice(row, len(table.columns)))
            else:
                table.add_row("")
        return table


def _bar(tally: Tally) -> RenderableType:
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        ProgressBar(total=max(tally.known, 1), completed=tally.exported, complete_style="cyan"),
        f"{tally.exported:,} of {counted(tally.known, 'task')}" if tally.listed else "listing what waits",
    )
    return head


def _row(task: InHand, age: float) -> Iterator[str]:
    yield printable(task.task.name or task.task.id, 80)
    yield printable(task.file.filename, 80) if task.file else ""
    yield f"{task.saved} of {counted(task.files, 'file')}"
    yield span(age)
    yield size(task.bytes)


def _bad_news(tally: Tally) -> Iterator[str]:
    """Two lines at most, and none while all goes well."""
    if trouble := troubles(tally):
        yield ", ".join(trouble)
    kinds = [f"{count:,} {kind}" for kind, count in tally.errors.most_common(_MOST_KINDS)]
    if tally.retried:
        kinds.append(f"{counted(tally.retried, 'request')} made again")
    if kinds:
        yield "errors: " + ", ".join(kinds)
