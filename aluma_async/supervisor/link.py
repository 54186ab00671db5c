"""``ParentLink``: the connection of one of several processes to its parent. Only such a process imports it."""

import asyncio
import os
import re
import socket
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress

import anyio

from aluma_async import events
from aluma_async.events import Event
from aluma_async.policy.partition import Partition
from aluma_async.service.health import HealthMonitor
from aluma_async.service.metrics import Metrics
from aluma_async.service.stats import RunStats
from aluma_async.supervisor.messages import VARIABLE, End, Message, Page, decode_command, encode, report_of

_REPORT_SECONDS = 1.0
_MAX_UNREAD_BYTES = 1024 * 1024
"""Bytes that may wait until the parent reads them; more reports are left out."""
_END_SECONDS = 5.0
"""Seconds that the parent has to read the result."""
_FORMAT = re.compile(r"(\d{1,4})/(\d{1,4}) (\d{1,9}) (\d{1,9})", re.ASCII)


class ParentLink:
    """Receives commands, and sends reports. The process ends at once if its parent has ended.

    Args:
        partition: The tasks of this process.
        control: Descriptor of the socket for messages.
        lifeline: Descriptor of a pipe whose other end only the parent has.
    """

    def __init__(self, partition: Partition, control: int, lifeline: int) -> None:
        self.partition = partition
        self._socket = socket.socket(fileno=control)
        self._lifeline = lifeline
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._report_now: anyio.Event
        self._has_listed = False
        self._reloads = 0
        self._reload_first = False
        self.on_drain: Callable[[], None] = lambda: None
        self.on_reload: Callable[[], None] = lambda: None
        """Called for the commands of the parent."""
        for descriptor in (control, lifeline):  # a program that this one starts must not inherit them
            os.set_inheritable(descriptor, False)

    @staticmethod
    def take(environ: MutableMapping[str, str]) -> "ParentLink | None":
        """Return the link that the environment describes, and remove it there; None if it describes none."""
        match = _FORMAT.fullmatch(environ.pop(VARIABLE, ""))
        if not match:
            return None
        number, count, control, lifeline = map(int, match.groups())
        try:
            return ParentLink(Partition(number, count), control, lifeline)
        except OSError:  # the descriptors belong to another process
            return None

    async def connect(self, end_process: Callable[[], object]) -> bool:
        """Connect, and wait for the command to export; return whether it came. Without the parent, end the process."""
        self._report_now = anyio.Event()
        threading.Thread(target=_watch, args=(self._lifeline, end_process), daemon=True).start()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        while (command := await self._next_command()) == "reload":
            self._reload_first = True
        return command == "begin"

    def on_event(self, event: Event) -> None:
        """Report the first listing at once."""
        if not self._has_listed and isinstance(event, events.TasksListed):
            self._has_listed = True
            self._report_now.set()

    async def report(self, stats: RunStats, health: HealthMonitor, metrics: Callable[[], Metrics]) -> None:
        """Send reports, and obey commands, until cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._obey, metrics)
            while True:
                if self._writer.transport.get_write_buffer_size() < _MAX_UNREAD_BYTES:
                    self._send(report_of(stats, health, self._reloads))
                with anyio.move_on_after(_REPORT_SECONDS):
                    await self._report_now.wait()
                self._report_now = anyio.Event()

    async def finish(self, end: End) -> None:
        """Send the result, and wait until the parent has it."""
        self._send(end)
        with suppress(OSError), anyio.move_on_after(_END_SECONDS):
            self._writer.close()
            await self._writer.wait_closed()

    async def _obey(self, metrics: Callable[[], Metrics]) -> None:
        pages: Metrics | None = None
        if self._reload_first:  # the configuration was read before
            self.on_reload()
        while command := await self._next_command():
            match command:
                case "drain":
                    self.on_drain()
                case "reload":
                    self.on_reload()
                    self._reloads += 1
                    self._report_now.set()
                case "metrics":
                    pages = pages or metrics()
                    self._send(Page(pages.page()[0].decode()))

    async def _next_command(self) -> str:
        """Return the next command; nothing if the parent has ended."""
        with suppress(OSError):
            if line := await self._reader.readline():
                return str(decode_command(line))
        return ""

    def _send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(message))


def _watch(lifeline: int, end_process: Callable[[], object]) -> None:
    """Wait in a thread, because the event loop may be blocked, until the parent has ended."""
    with suppress(OSError):
        while os.read(lifeline, 1):
            pass
    end_process()
