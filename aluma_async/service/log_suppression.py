"""``Folding``: of lines that say the same again and again the first few are written, and then how many more came."""

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

Line = TypeVar("Line")

BURST = 3
"""So many lines of a kind are written before the rest of their window is counted only."""
WINDOW_SECONDS = 60.0
MAX_KINDS = 256
"""A kind beyond these is written line by line: what is remembered has a limit."""


class SuppressedLines(NamedTuple, Generic[Line]):
    """What was not written of one kind: the last line, and how many in how many seconds."""

    last: Line
    lines: int
    seconds: float


class _Window(Generic[Line]):
    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.seen = 0
        self.last: Line | None = None


class RepeatFilter(Generic[Line]):
    """A window of a kind begins with its first line. ``now`` tells seconds; it may jump, and then a window ends."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._windows: dict[Hashable, _Window[Line]] = {}

    def allow(self, kind: Hashable, line: Line) -> bool:
        """Whether a line is to be written; if not, it is counted. Ask ``due`` before."""
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= MAX_KINDS:
                return True
            window = self._windows[kind] = _Window(self._now())
        window.seen += 1
        if window.seen <= BURST:
            return True
        window.last = line
        return False

    def expired(self, *, all_windows: bool = False) -> list[SuppressedLines[Line]]:
        """End the windows that are over, or all; return what they have folded."""
        now = self._now()
        suppressed = []
        for kind, window in list(self._windows.items()):
            if all_windows or not 0 <= now - window.started_at < WINDOW_SECONDS:
                del self._windows[kind]
                if window.last is not None:
                    suppressed.append(SuppressedLines(window.last, window.seen - BURST, now - window.started_at))
        return suppressed
