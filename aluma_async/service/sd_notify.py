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
from aluma_async.service.formatting import counted, printable

_STATUS_SECONDS = 5.0
_FEEDS_IN_TIME = 3
"""Signs of life in the time that the watchdog waits for one."""
_EXTENSION_MICROSECONDS = 30_000_000
_MICROSECONDS = 1_000_000


class Signs(Protocol):
    """What is asked of the exporter's vital signs."""

    @property
    def in_hand(self) -> int:
        """How many tasks are claimed."""
        ...

    def stuck(self) -> str:
        """Say what does not advance; empty if all does."""
        ...


class Systemd:
    """``send`` takes a message to the service manager, and returns whether it need not be sent again.

    ``watchdog`` is how many seconds the service manager waits for a sign of life.
    """

    def __init__(
        self, send: Callable[[str], bool], signs: Signs, *, watchdog: float | None, stuck: Callable[[str], None]
    ) -> None:
        self._send = send
        self._signs = signs
        self._watchdog = watchdog
        self._tell_stuck = stuck
        self._owed: list[str] = []  # what it has no room for just now; signs of life are not among it
        self._ready = self._draining = self._was_stuck = False
        self._exported = self._waiting = 0
        self._trouble = ""

    def __call__(self, event: Event) -> None:
        """Take note of an event; the status line is sent with the next sign of life."""
        match event:
            case events.TaskCompleted():
                self._exported += 1
            case events.TasksListed(listed=listed):
                self._waiting, self._trouble = listed, ""
                if not self._ready:
                    self._ready = True
                    self._say(f"READY=1\n{self._status()}")
            case (
                events.ListingFailed(error=error)
                | events.ClaimingPaused(error=error)
                | events.ClaimingStillPaused(error=error)
            ):
                self._trouble = str(error)
            case events.DrainStarted():
                self._draining = True
                self._say(f"STOPPING=1\n{self._extension()}\n{self._status()}")

    async def run(self) -> None:
        """Send signs of life until cancelled."""
        pause = min(_STATUS_SECONDS, self._watchdog / _FEEDS_IN_TIME) if self._watchdog else _STATUS_SECONDS
        while True:
            sign = "\n".join(self._sign_of_life())
            self._pay()
            if not self._owed:
                self._send(sign)
            await anyio.sleep(pause)

    def reloading(self) -> None:
        """Say that the configuration is read again."""
        if not self._ready or self._draining:
            return  # a unit that begins or ends cannot reload as well
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """Say that it was."""
        if not self._ready or self._draining:
            return
        self._say(f"READY=1\n{self._status()}")

    def _say(self, message: str) -> None:
        self._owed.append(message)
        self._pay()

    def _pay(self) -> None:
        while self._owed and self._send(self._owed[0]):
            del self._owed[0]

    def _sign_of_life(self) -> list[str]:
        lines = [self._status()]
        if self._draining:
            lines.append(self._extension())
        if why := self._signs.stuck():
            if not self._was_stuck:
                self._tell_stuck(why)
            lines[0] = f"STATUS=stuck: {why}"
        elif self._watchdog:
            lines.append("WATCHDOG=1")
        self._was_stuck = bool(why)
        return lines

    def _status(self) -> str:
        """Tell in one line how things stand."""
        if not self._ready:
            return "STATUS=asking Aluma what waits"
        in_hand = f"{counted(self._signs.in_hand, 'task')} in hand"
        if self._draining:
            return f"STATUS=draining, {in_hand}"
        if self._trouble:
            return f"STATUS={printable(self._trouble, 200)}"
        return f"STATUS={self._exported:,} exported, {in_hand}, {self._waiting:,} were waiting when last asked"

    def _extension(self) -> str:
        return f"EXTEND_TIMEOUT_USEC={_EXTENSION_MICROSECONDS}"


def notify_socket(environ: Mapping[str, str]) -> Callable[[str], bool] | None:
    """Find out how to reach the service manager; None if there is none. Sending never waits."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return None
    address = "\0" + path[1:] if path.startswith("@") else path

    def send(message: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            try:
                to.sendto(message.encode(), address)
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
