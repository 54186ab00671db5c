"""``RepeatFilter``: suppresses repeated log lines. The first few of a kind pass, the rest of a window is counted."""

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

Line = TypeVar("Line")

BURST = 3
"""Lines of a kind that pass in each window."""
WINDOW_SECONDS = 60.0
MAX_KINDS = 256
"""Maximum number of tracked kinds; lines of further kinds always pass, so that memory use has a limit."""


class SuppressedLines(NamedTuple, Generic[Line]):
    """Suppressed lines of one kind and window: the last line, the count, and the length of the window."""

    last: Line
    lines: int
    seconds: float


class _Window(Generic[Line]):
    def __init__(self, started_at: float) -> None:
        self.started_at = started_at
        self.seen = 0
        self.last: Line | None = None


class RepeatFilter(Generic[Line]):
    """A kind's window starts with its first line. ``now`` returns seconds; a clock that jumps back ends the window."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._windows: dict[Hashable, _Window[Line]] = {}

    def allow(self, kind: Hashable, line: Line) -> bool:
        """Return whether to write a line; count it otherwise. Call ``expired`` first."""
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
        """End the expired windows, or all of them, and return their suppressed lines."""
        now = self._now()
        suppressed = []
        for kind, window in list(self._windows.items()):
            if all_windows or not 0 <= now - window.started_at < WINDOW_SECONDS:
                del self._windows[kind]
                if window.last is not None:
                    suppressed.append(SuppressedLines(window.last, window.seen - BURST, now - window.started_at))
        return suppressed
