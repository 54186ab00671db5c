"""``Folding``: of lines that say the same again and again the first few are written, and then how many more came."""

from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

Line = TypeVar("Line")

FIRST = 3
"""So many lines of a kind are written before the rest of their window is counted only."""
WINDOW_SECONDS = 60.0
MOST_KINDS = 256
"""A kind beyond these is written line by line: what is remembered has a limit."""


class Folded(NamedTuple, Generic[Line]):
    """What was not written of one kind: the last line, and how many in how many seconds."""

    last: Line
    lines: int
    seconds: float


class _Window(Generic[Line]):
    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.seen = 0
        self.last: Line | None = None


class Folding(Generic[Line]):
    """A window of a kind begins with its first line. ``now`` tells seconds; it may jump, and then a window ends."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._windows: dict[Hashable, _Window[Line]] = {}

    def passes(self, kind: Hashable, line: Line) -> bool:
        """Whether a line is to be written; if not, it is counted. Ask ``due`` before."""
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= MOST_KINDS:
                return True
            window = self._windows[kind] = _Window(self._now())
        window.seen += 1
        if window.seen <= FIRST:
            return True
        window.last = line
        return False

    def due(self, *, everything: bool = False) -> list[Folded[Line]]:
        """End the windows that are over, or all; return what they have folded."""
        now = self._now()
        found = []
        for kind, window in list(self._windows.items()):
            if everything or not 0 <= now - window.begun < WINDOW_SECONDS:
                del self._windows[kind]
                if window.last is not None:
                    found.append(Folded(window.last, window.seen - FIRST, now - window.begun))
        return found
