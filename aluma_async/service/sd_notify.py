"""``SystemdNotifier``: reports the exporter's state to the service manager, through the sd_notify protocol.

READY is sent after the first successful listing, so that an active unit has valid credentials. The event loop sends
the watchdog's heartbeats, and only while the exporter makes progress, so that systemd restarts a blocked or stuck one.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

import anyio

from aluma_async import events
from aluma_async.events import Event
from aluma_async.service.formatting import pluralize, sanitize
from aluma_async.service.health import HealthMonitor
from aluma_async.service.stats import RunStats

_STATUS_SECONDS = 5.0
_HEARTBEATS_PER_TIMEOUT = 3
"""Heartbeats within the watchdog's timeout."""
_EXTENSION_MICROSECONDS = 30_000_000
_MICROSECONDS = 1_000_000


class SystemdNotifier:
    """Sends READY, STOPPING, heartbeats and a status line. Its events must reach ``stats`` first.

    Args:
        send: Sends a message to the service manager; returns False if it must be sent again.
        stats: The state of the run.
        health: Decides whether the exporter is stuck.
        watchdog: Seconds within which the service manager expects a heartbeat; None: it expects none.
        on_stuck: Receives the reason once when heartbeats stop.
    """

    def __init__(
        self,
        send: Callable[[str], bool],
        stats: RunStats,
        health: HealthMonitor,
        *,
        watchdog: float | None,
        on_stuck: Callable[[str], None],
    ) -> None:
        self._send = send
        self._stats = stats
        self._health = health
        self._watchdog = watchdog
        self._on_stuck = on_stuck
        self._pending: list[str] = []  # messages for which its queue had no room; heartbeats are never kept
        self._ready = self._was_stuck = False

    def __call__(self, event: Event) -> None:
        """Send READY after the first listing, and STOPPING when a drain starts."""
        match event:
            case events.TasksListed():
                self.ready()
            case events.DrainStarted():
                self.stopping()

    def ready(self) -> None:
        """Report, once, that the first listing has succeeded."""
        if not self._ready:
            self._ready = True
            self._send_reliably(f"READY=1\n{self._status()}")

    def stopping(self) -> None:
        """Report that a drain has started."""
        self._send_reliably(f"STOPPING=1\n{self._extend_timeout()}\n{self._status()}")

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        pause = min(_STATUS_SECONDS, self._watchdog / _HEARTBEATS_PER_TIMEOUT) if self._watchdog else _STATUS_SECONDS
        while True:
            heartbeat = "\n".join(self._heartbeat())
            self._flush()
            if not self._pending:
                self._send(heartbeat)
            await anyio.sleep(pause)

    def reloading(self) -> None:
        """Report that a reload of the configuration has started."""
        if not self._ready or self._stats.draining:
            return  # systemd knows no reload of a unit that is starting or stopping
        self._send_reliably(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """Report that the reload has ended."""
        if not self._ready or self._stats.draining:
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
        if self._stats.draining:
            lines.append(self._extend_timeout())
        if reason := self._health.stuck_reason():
            if not self._was_stuck:
                self._on_stuck(reason)
            lines[0] = f"STATUS=stuck: {reason}"
        elif self._watchdog:
            lines.append("WATCHDOG=1")
        self._was_stuck = bool(reason)
        return lines

    def _status(self) -> str:
        """Return the status line of the unit."""
        stats = self._stats
        if not self._ready:
            return "STATUS=listing pending tasks"
        progress = f"{pluralize(len(stats.active), 'task')} in progress"
        if stats.draining:
            return f"STATUS=draining, {progress}"
        if error := stats.listing_error or stats.save_error:
            return f"STATUS={sanitize(str(error), 200)}"
        return f"STATUS={stats.exported:,} exported, {progress}, {stats.listed_tasks:,} pending at the last listing"

    def _extend_timeout(self) -> str:
        return f"EXTEND_TIMEOUT_USEC={_EXTENSION_MICROSECONDS}"


def notify_socket(environ: Mapping[str, str]) -> Callable[[str], bool] | None:
    """Return a function that sends to the service manager without blocking; None if there is no service manager."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return None
    address = "\0" + path[1:] if path.startswith("@") else path

    def send(message: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
            connection.setblocking(False)
            try:
                connection.sendto(message.encode(), address)
            except BlockingIOError:  # its queue is full
                return False
            except OSError:  # it does not exist any more, so that sending again would fail, too
                return True
        return True

    return send


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog's timeout; None if the service manager expects no heartbeats from this process."""
    pid, timeout = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if not timeout.isdecimal() or not int(timeout) or pid not in ("", str(os.getpid())):
        return None
    return int(timeout) / _MICROSECONDS
