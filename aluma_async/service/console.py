"""``Console``: writes the log and the progress of one run to stderr, as a live panel or as occasional lines."""

import os
import sys
import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import Literal, TypeAlias

import anyio
from msgspec import structs

from aluma_async.config import ServiceConfig
from aluma_async.events import Event
from aluma_async.models import Summary
from aluma_async.service import journald
from aluma_async.service.color import Color
from aluma_async.service.logs import Level, Log
from aluma_async.service.lossy_file import take_lost_bytes
from aluma_async.service.stats import RunStats
from aluma_async.service.summary import progress_line, summary_lines, unexported_reasons

Mode: TypeAlias = Literal["live", "lines", "none"]

_REDRAW_SECONDS = 0.25
_DRAW_SHARE = 0.04
"""Maximum share of time for drawing: a panel with many tasks on a tall terminal is drawn less often."""
_PROGRESS_LINE_SECONDS = (2.0, 8.0, 20.0, 30.0, 60.0)
"""Seconds before each line of progress; the last value repeats."""
_FLUSH_SECONDS = 5.0
_DEFAULT_COLUMNS = 120
"""Width of the summary where there is no terminal."""


def choose_mode(service: ServiceConfig, *, progress: bool | None, terminal: bool) -> Mode:
    """Return how to show progress; ``progress`` is the option, ``terminal`` whether stderr is a terminal."""
    quiet = service.log_level in ("warning", "error")
    if progress is False or (quiet and not progress):
        return "none"
    return "live" if terminal and service.log_format == "text" else "lines"


class Console:
    """Owns the log. The live panel replaces info lines of the log; warnings appear above it."""

    def __init__(self, service: ServiceConfig, mode: Mode, stats: RunStats, color: Color = "auto") -> None:
        level = "warning" if mode == "live" and service.log_level == "info" else service.log_level
        self.stats = stats
        self.log = Log(_to_stderr, format=service.log_format, level=level, journald=_stderr_is_journald())
        self._text = service.log_format == "text"
        self._plain_text = self._text and not _stderr_is_journald()
        self._mode = mode
        self._color = color
        self._close_panel: Callable[[], None] | None = None

    def on_event(self, event: Event) -> None:
        """Record and log an event."""
        self.stats(event)
        self.log(event)

    async def watch(self) -> None:
        """Show progress until cancelled."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._flush_suppressed)
                if self._mode == "live":
                    await self._draw_panel()
                elif self._mode == "lines":
                    await self._write_lines()
        finally:
            self.log.flush_suppressed(all_windows=True)

    def print_message(self, level: Level, kind: str, text: str, hint: str = "") -> None:
        """Write a message, and what the operator can do, at any log level."""
        lines = [*text.splitlines(), *filter(None, [hint])]
        if self._plain_text:
            _to_stderr("\n".join(lines) + "\n")
        elif self._text:
            for line in lines:
                self.log.write(level, kind, line)
        else:
            self.log.write(level, kind, text, **({"hint": hint} if hint else {}))

    def finish(self, summary: Summary, into: str) -> None:
        """Write the summary of the run; ``into`` describes the destinations."""
        pending = self.stats.pending if self.stats.draining else 0
        lines = summary_lines(summary, into, self.stats.unexported, pending=pending, width=_width())
        if self._text:
            self.print_message("info", "RunSummary", "\n".join(lines))
        else:
            reasons = [reason._asdict() for reason in unexported_reasons(self.stats.unexported)]
            fields = {"folder": into, **structs.asdict(summary), "waiting": pending, "not_exported": reasons}
            self.log.write("info", "RunSummary", lines[0], **fields)

    def restore_terminal(self) -> None:
        """Remove the live panel at once, so that the process can exit."""
        if self._close_panel:
            self._close_panel()

    async def _draw_panel(self) -> None:
        from aluma_async.service.live_display import LiveDisplay  # imported here, because rich uses much memory

        with LiveDisplay(self.stats, color=self._color) as panel:
            self._close_panel = panel.close
            while True:
                started_at = time.thread_time()
                panel.draw()
                await anyio.sleep(max(_REDRAW_SECONDS, (time.thread_time() - started_at) / _DRAW_SHARE))

    async def _flush_suppressed(self) -> None:
        while True:
            await anyio.sleep(_FLUSH_SECONDS)
            self.log.flush_suppressed()
            if lost := take_lost_bytes():
                self.log.write(
                    "warning", "MessagesLost", f"{lost} bytes of messages were lost, because they were not read"
                )

    async def _write_lines(self) -> None:
        last = progress_line(self.stats, self.stats.rates())
        for seconds in chain(_PROGRESS_LINE_SECONDS, repeat(_PROGRESS_LINE_SECONDS[-1])):
            await anyio.sleep(seconds)
            line = progress_line(self.stats, self.stats.rates())
            if line != last:  # an idle service writes no lines
                self.log.write("info", "Progress", line, exported=self.stats.exported, waiting=self.stats.pending)
            last = line


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)  # not stored: the live panel replaces sys.stderr


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal
        return _DEFAULT_COLUMNS


def _stderr_is_journald() -> bool:
    try:
        return journald.is_journal(sys.stderr.fileno())
    except (OSError, ValueError):  # no file, or closed
        return False
