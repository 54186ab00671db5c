"""``LossyFile``: stderr of a program that does not wait for the reader of its messages."""

import io
import os
import select
import sys
import time

_MAX_WRITE_BYTES = 512
"""Size of one write: every system lets a pipe that is ready take this much at once (POSIX, ``PIPE_BUF``)."""
_MAX_WAIT_SECONDS = 1.0
_WAIT_SHARE = 0.1
"""Share of the time that may be spent waiting for a slow reader, after ``_MAX_WAIT_SECONDS`` at once."""


class LossyFile(io.FileIO):
    """A file that accepts every write, and discards what cannot be written.

    Its reader is gone or reads nothing (a stopped terminal, a log collector that hangs), or its disk is full.
    """

    lost_bytes = 0
    """Number of bytes that were discarded because they were not read."""

    def __init__(self, descriptor: int) -> None:
        terminal = _open_terminal(descriptor)
        super().__init__(descriptor if terminal is None else terminal, "w", closefd=terminal is not None)
        descriptor = self.fileno()
        self._poll = select.poll() if hasattr(select, "poll") else None  # Windows has none
        if self._poll:
            self._poll.register(descriptor, select.POLLOUT)
        self._wait_seconds, self._waited_at = _MAX_WAIT_SECONDS, time.monotonic()

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write as much as possible; return the number of bytes that the caller need not write again."""
        try:
            if not self._is_ready():
                self.lost_bytes += len(data)
                return len(data)
            written = super().write(data[:_MAX_WRITE_BYTES] if self._poll else data)
            if written is None:  # a terminal is ready for one byte, and not for all
                self.lost_bytes += len(data)
            return written or len(data)
        except OSError:
            return len(data)

    def _is_ready(self) -> bool:
        """Return whether a write will not block; wait a little for a slow reader."""
        if not self._poll or self._poll.poll(0):
            return True
        now = time.monotonic()
        self._wait_seconds = min(_MAX_WAIT_SECONDS, self._wait_seconds + _WAIT_SHARE * (now - self._waited_at))
        ready = bool(self._poll.poll(self._wait_seconds * 1000))
        self._waited_at = time.monotonic()
        self._wait_seconds = max(0.0, self._wait_seconds - (self._waited_at - now))
        return ready


def _open_terminal(descriptor: int) -> int | None:
    """Open the terminal of a descriptor once more, so that no write blocks; None if it is no terminal.

    The descriptor itself stays as it is, because other programs, such as the shell, share its flags.
    """
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, AttributeError):  # Windows has no names of terminals
        return None


def take_lost_bytes() -> int:
    """Return the number of bytes that stderr has lost since the last call."""
    file = getattr(getattr(sys.stderr, "buffer", None), "raw", None)
    if not isinstance(file, LossyFile):
        return 0
    lost, file.lost_bytes = file.lost_bytes, 0
    return lost
