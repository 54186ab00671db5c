"""``LiveDisplay``: a run as a small panel on a terminal, drawn anew whenever it is told to.

Importing this imports rich. It starts no thread and never reads the clock: who owns it says when to draw.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aluma_async.service.summary import time_left, troubles
from aluma_async.service.tally import Tally
from aluma_async.service.text import counted, printable, size, span

_OLDEST_SHOWN = 3


class LiveDisplay:
    """While it is entered, what is written to ``sys.stderr`` comes out above the panel. It leaves nothing behind."""

    def __init__(self, tally: Tally, console: Console | None = None) -> None:
        self._tally = tally
        self._live = Live(console=console or Console(stderr=True), auto_refresh=False, transient=True)

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
        """Show how things stand now."""
        self._live.update(draw(self._tally), refresh=True)


def draw(tally: Tally) -> RenderableType:
    """Make the panel."""
    rates = tally.rates()
    left = time_left(tally, rates)
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        ProgressBar(total=max(tally.known, 1), completed=tally.exported, complete_style="cyan"),
        f"{tally.exported:,} of {counted(tally.known, 'task')}" if tally.listed else "listing what waits",
    )
    pace = f"{rates.tasks:.1f} tasks/s, {size(rates.bytes)}/s"
    lines = [
        f"{counted(tally.files, 'file')}, {size(tally.bytes)}   {pace}   {f'{span(left)} left' if left else ''}",
        f"{len(tally.in_hand)} in hand{_oldest(tally.ages())}",
        *([f"at most {tally.limit} requests at once, as Aluma takes them"] if tally.limit else []),
    ]
    body: list[RenderableType] = [head, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines)]
    if trouble := troubles(tally):
        body.append(Text(", ".join(trouble), style="yellow", no_wrap=True, overflow="ellipsis"))
    return Panel(Group(*body), title="aluma-async", title_align="left", border_style="dim")


def _oldest(ages: Iterable[tuple[str, float]]) -> str:
    shown = [f"{printable(name, 24)} {span(age)}" for name, age in list(ages)[:_OLDEST_SHOWN]]
    return f": {', '.join(shown)}" if shown else ""
