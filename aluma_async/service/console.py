"""``Report``: what an operator sees of one run: its log, and its progress as a panel or a line now and then."""

import os
import sys
from collections.abc import Callable
from itertools import chain, repeat
from typing import Literal, TypeAlias

import anyio
from msgspec import structs

from aluma_async.config import ServiceConfig
from aluma_async.events import Event
from aluma_async.models import Summary
from aluma_async.service import journald
from aluma_async.service.logs import Level, Log
from aluma_async.service.stats import Tally
from aluma_async.service.summary import closing_lines, progress_line, why_left

Mode: TypeAlias = Literal["live", "lines", "none"]

_DRAW_SECONDS = 0.25
_LINE_SECONDS = (2.0, 8.0, 20.0, 30.0, 60.0)
"""Between two lines of progress: rarer the longer a run lasts."""
_SETTLE_SECONDS = 5.0
_NO_TERMINAL = 120
"""Columns of a line where there is no terminal."""


def choose_mode(service: ServiceConfig, *, progress: bool | None, terminal: bool) -> Mode:
    """Decide how progress is shown; ``progress`` is what the user said, ``terminal`` whether stderr is one."""
    quiet = service.log_level in ("warning", "error")
    if progress is False or (quiet and not progress):
        return "none"
    return "live" if terminal and service.log_format == "text" else "lines"


class Report:
    """Everything goes to stderr. A panel takes the place of the log's info lines; warnings come out above it."""

    def __init__(self, service: ServiceConfig, mode: Mode, tally: Tally) -> None:
        level = "warning" if mode == "live" and service.log_level == "info" else service.log_level
        self.tally = tally
        self.log = Log(_to_stderr, form=service.log_format, level=level, journal=_for_journal())
        self._text = service.log_format == "text"
        self._plain = self._text and not _for_journal()
        self._mode = mode
        self._close_panel: Callable[[], None] | None = None

    def on_event(self, event: Event) -> None:
        """Count and log an event."""
        self.tally(event)
        self.log(event)

    async def watch(self) -> None:
        """Show how the run goes, until cancelled."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._settle_log)
                if self._mode == "live":
                    await self._draw_panel()
                elif self._mode == "lines":
                    await self._write_lines()
        finally:
            self.log.settle(everything=True)

    def say(self, level: Level, kind: str, text: str) -> None:
        """Say something whatever the level of the log."""
        if self._plain:
            _to_stderr(f"{text}\n")
        else:
            for line in text.splitlines() if self._text else [text]:
                self.log.write(level, kind, line)

    def finish(self, summary: Summary, into: str) -> None:
        """Tell what the run did, and where the files are."""
        waiting = self.tally.waiting if self.tally.stopped else 0
        lines = closing_lines(summary, into, self.tally.left, waiting=waiting, width=_width())
        if self._text:
            self.say("info", "RunSummary", "\n".join(lines))
        else:
            reasons = [reason._asdict() for reason in why_left(self.tally.left)]
            fields = {"folder": into, **structs.asdict(summary), "waiting": waiting, "not_exported": reasons}
            self.log.write("info", "RunSummary", lines[0], **fields)

    def give_back_terminal(self) -> None:
        """Take the panel away at once, wherever the run is."""
        if self._close_panel:
            self._close_panel()

    async def _draw_panel(self) -> None:
        from aluma_async.service.live_display import LiveDisplay  # rich costs memory, so only where it shows

        with LiveDisplay(self.tally) as panel:
            self._close_panel = panel.close
            while True:
                panel.draw()
                await anyio.sleep(_DRAW_SECONDS)

    async def _settle_log(self) -> None:
        while True:
            await anyio.sleep(_SETTLE_SECONDS)
            self.log.settle()

    async def _write_lines(self) -> None:
        last = progress_line(self.tally, self.tally.rates())
        for seconds in chain(_LINE_SECONDS, repeat(_LINE_SECONDS[-1])):
            await anyio.sleep(seconds)
            line = progress_line(self.tally, self.tally.rates())
            if line != last:  # an idle service says nothing
                self.log.write("info", "Progress", line, exported=self.tally.exported, waiting=self.tally.waiting)
            last = line


def _to_stderr(text: str) -> None:
    sys.stderr.write(text)  # looked up each time: the panel puts itself in between


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):  # no terminal
        return _NO_TERMINAL


def _for_journal() -> bool:
    try:
        return journald.reads(sys.stderr.fileno())
    except (OSError, ValueError):  # no file, or closed
        return False
