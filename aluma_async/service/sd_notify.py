"""``Systemd``: tells the service manager how the exporter is (sd_notify), if it is one that wants to know.

READY only after Aluma has told what waits, so that a unit that is active has good credentials. The watchdog is fed
from the event loop and only as long as all advances, so one that is blocked or stuck is started anew.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import anyio

from aluma_async import events
from aluma_async.events import Event
from aluma_async.service.formatting import pluralize, sanitize

_STATUS_SECONDS = 5.0
_HEARTBEATS_PER_TIMEOUT = 3
"""Signs of life in the time that the watchdog waits for one."""
_EXTENSION_MICROSECONDS = 30_000_000
_MICROSECONDS = 1_000_000


class Liveness(Protocol):
    """What is asked of the exporter's vital signs."""

    @property
    def tasks_in_progress(self) -> int:
        """How many tasks are claimed."""
        ...

    def stuck_reason(self) -> str:
        """Say what does not advance; empty if all does."""
        ...


class SystemdNotifier:
    """``send`` takes a message to the service manager, and returns whether it need not be sent again.

    ``watchdog`` is how many seconds the service manager waits for a sign of life.
    """

    def __init__(
        self,
        send: Callable[[str], bool],
        liveness: Liveness,
        *,
        watchdog: float | None,
        on_stuck: Callable[[str], None],
    ) -> None:
        self._send = send
        self._liveness = liveness
        self._watchdog = watchdog
        self._on_stuck = on_stuck
        self._pending: list[str] = []  # what it has no room for just now; signs of life are not among it
        self._ready = self._draining = self._was_stuck = False
        self._exported = self._waiting = 0
        self._problem = ""

    def __call__(self, event: Event) -> None:
        """Take note of an event; the status line is sent with the next sign of life."""
        match event:
            case events.TaskCompleted():
                self._exported += 1
            case events.TasksListed(listed=listed):
                self._waiting, self._problem = listed, ""
                if not self._ready:
                    self._ready = True
                    self._send_reliably(f"READY=1\n{self._status()}")
            case (
                events.ListingFailed(error=error)
                | events.ClaimingPaused(error=error)
                | events.ClaimingStillPaused(error=error)
            ):
                self._problem = str(error)
            case events.DrainStarted():
                self._draining = True
                self._send_reliably(f"STOPPING=1\n{self._extend_timeout()}\n{self._status()}")

    async def run(self) -> None:
        """Send signs of life until cancelled."""
        pause = min(_STATUS_SECONDS, self._watchdog / _HEARTBEATS_PER_TIMEOUT) if self._watchdog else _STATUS_SECONDS
        while True:
            heartbeat = "\n".join(self._heartbeat())
            self._flush()
            if not self._pending:
                self._send(heartbeat)
            await anyio.sleep(pause)

    def reloading(self) -> None:
        """Say that the configuration is read again."""
        if not self._ready or self._draining:
            return  # a unit that begins or ends cannot reload as well
        self._send_reliably(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """Say that it was."""
        if not self._ready or self._draining:
            return
        self._send_reliably(f"READY=1\n{self._status()}")

    def _send_reliably(self, message: str) -> None:
        self._pending.append(message)
        self._flush()

    def _flush(self) -> None:
        while self._pending and self._send(self._pending[0]):
            del self._pending[0]

    def _heartbeat(self) -> list[str]:
        lines = [self._status()]
        if self._draining:
            lines.append(self._extend_timeout())
        if reason := self._liveness.stuck_reason():
            if not self._was_stuck:
                self._on_stuck(reason)
            lines[0] = f"STATUS=stuck: {reason}"
        elif self._watchdog:
            lines.append("WATCHDOG=1")
        self._was_stuck = bool(reason)
        return lines

    def _status(self) -> str:
        """Tell in one line how things stand."""
        if not self._ready:
            return "STATUS=asking Aluma what waits"
        progress = f"{pluralize(self._liveness.tasks_in_progress, 'task')} in hand"
        if self._draining:
            return f"STATUS=draining, {progress}"
        if self._problem:
            return f"STATUS={sanitize(self._problem, 200)}"
        return f"STATUS={self._exported:,} exported, {progress}, {self._waiting:,} were waiting when last asked"

    def _extend_timeout(self) -> str:
        return f"EXTEND_TIMEOUT_USEC={_EXTENSION_MICROSECONDS}"


def notify_socket(environ: Mapping[str, str]) -> Callable[[str], bool] | None:
    """Find out how to reach the service manager; None if there is none. Sending never waits."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return None
    address = "\0" + path[1:] if path.startswith("@") else path

    def send(message: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.setblocking(False)
            try:
                connection.sendto(message.encode(), address)
            except BlockingIOError:  # it is busy, and its queue is full
                return False
            except OSError:  # there is nobody, and sending again would change nothing
                return True
        return True

    return send


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Tell how long the service manager waits for a sign of life; None if it wants none of this process."""
    pid, wait = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if not wait.isdecimal() or not int(wait) or pid not in ("", str(os.getpid())):
        return None
    return int(wait) / _MICROSECONDS
