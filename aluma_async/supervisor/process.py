"""``ExporterProcess``: one of several exporter processes, as its parent sees it: start, messages, output, end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import anyio
import msgspec

from aluma_async.clock import thread_time
from aluma_async.policy.partition import Partition
from aluma_async.service import journald
from aluma_async.supervisor.messages import (
    MAX_MESSAGE_BYTES,
    VARIABLE,
    Command,
    End,
    Message,
    Page,
    Report,
    decode,
    encode,
)

_PRIVATE = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", VARIABLE)
"""Variables of the parent alone: only it informs the service manager."""
_MAX_LINE_BYTES = 64 * 1024
_BLOCK_BYTES = 64 * 1024
_LAST_OUTPUT_SECONDS = 1.0
"""Time to read what an ended process has written; a program that it has started may hold its output open."""


class ExporterProcess:
    """Starts one process at a time, with the arguments of this one.

    Args:
        partition: Its tasks.
        state: The state folder of all processes.
        write: Receives each line that it writes to stderr, and its number.
        on_report: Called after each message.
    """

    def __init__(
        self,
        partition: Partition,
        state: Path,
        *,
        write: Callable[[str, int], object],
        on_report: Callable[[], object],
    ) -> None:
        self.number = partition.number
        self._partition = partition
        self._state = state
        self._write_line = write
        self._on_report = on_report
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.report: Report | None = None
        """Its last report; None: it has not sent one, or does not run."""
        self.last_report: Report | None = None
        """The same, also after its end."""
        self.end: End | None = None
        """Its result, if it has ended by itself."""
        self.page: Page | None = None
        """Its metrics, when they were last asked for."""
        self.pages = 0
        """Number of pages that were received."""
        self.heard_at = 0.0
        """Time of its last message, or of the command to export (the monotonic clock); 0: it has no command yet."""
        self.has_listed = False
        """Whether it has ever listed the pending tasks."""
        self._draining = False

    @property
    def is_running(self) -> bool:
        """Whether the process exists."""
        return self._process is not None and self._process.returncode is None

    async def run(self, may_begin: asyncio.Event) -> int:
        """Start the process and return its exit code, or the negative number of the signal that ended it.

        It exports from the moment that ``may_begin`` is set.
        """
        self.report = self.last_report = self.end = self.page = None
        self.heard_at = 0.0
        with ExitStack() as stack:
            lifeline, own_end = os.pipe()
            stack.callback(os.close, own_end)  # closed at the end of the parent at the latest
            ours, theirs = socket.socketpair()
            output, process = await self._start(lifeline, theirs, stack)
            self._process = process
            reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_MESSAGE_BYTES)
            stack.callback(self._writer.close)
            if self._draining:
                self.send("drain")
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._begin, may_begin)
                    ends = [anyio.Event(), anyio.Event()]
                    group.start_soon(self._receive, reader, ends[0])
                    group.start_soon(self._forward, output, ends[1])
                    code = await process.wait()
                    with anyio.move_on_after(_LAST_OUTPUT_SECONDS):
                        for end in ends:
                            await end.wait()
                    group.cancel_scope.cancel()
            finally:
                self.report = self._writer = None
                self.signal(signal.SIGKILL)  # if the parent ends because of an error
        return code

    def send(self, command: Command) -> None:
        """Send a command, if the process runs."""
        if self._writer and not self._writer.is_closing():
            self._writer.write(encode(command))

    def drain(self) -> None:
        """Let the process finish its tasks in progress, and end; also if it is starting, or is started again."""
        self._draining = True
        self.send("drain")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process runs."""
        if self._process and self.is_running:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _start(
        self, lifeline: int, control: socket.socket, stack: ExitStack
    ) -> tuple[asyncio.StreamReader, asyncio.subprocess.Process]:
        """Start the process; return its stderr. Closes what only the process needs."""
        output, written = os.pipe()
        try:
            status = os.fstat(written)
            environ = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
            environ[VARIABLE] = f"{self.number}/{self._partition.count} {control.fileno()} {lifeline}"
            environ["ALUMA_ASYNC_STATE"] = str(self._state)  # it stays on its journal, whatever the file says then
            if journald.is_journal(2):
                environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"  # so that its lines have priorities
            process = await asyncio.create_subprocess_exec(
                *command_line(sys.argv[1:]),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=written,
                pass_fds=[control.fileno(), lifeline],
                env=environ,
                process_group=0,  # so that Ctrl-C reaches it through the parent alone
            )
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(written)
            os.close(lifeline)
            control.close()
        reader = asyncio.StreamReader()
        pipe = os.fdopen(output, "rb", 0)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        stack.callback(transport.close)
        return reader, process

    async def _begin(self, may_begin: asyncio.Event) -> None:
        await may_begin.wait()
        self.heard_at = thread_time()
        self.send("begin")

    async def _receive(self, reader: asyncio.StreamReader, ended: anyio.Event) -> None:
        """Take over the messages of the process."""
        with suppress(OSError, ValueError):  # ended in the middle of a message
            while line := await reader.readline():
                self.heard_at = thread_time()
                self._take(decode(line))
                self._on_report()
        ended.set()

    def _take(self, message: Message) -> None:
        match message:
            case Report():
                self.report = self.last_report = message
                self.has_listed |= message.listed
            case Page():
                self.page = message
                self.pages += 1
            case End():
                self.end = message
                self.has_listed = True

    async def _forward(self, output: asyncio.StreamReader, ended: anyio.Event) -> None:
        """Pass on whole lines, because those of several processes must not mix."""
        rest = b""
        while block := await output.read(_BLOCK_BYTES):
            *lines, rest = (rest + block).split(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            self._write(lines)
        self._write([rest] if rest else [])
        ended.set()

    def _write(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._write_line(line.decode(errors="replace"), self.number)


def command_line(arguments: Sequence[str], path: Sequence[str] = sys.path) -> list[str]:
    """Return the command that starts this program again.

    Modules in the working folder are not imported, unless this program was started from there.
    """
    isolated = [] if {"", str(Path.cwd())} & set(path) else ["-P"]
    return [sys.executable, *isolated, "-m", "aluma_async", *arguments]


def decorate(line: str, number: int, *, as_json: bool, now: Callable[[], str]) -> str:
    """Return a line of the output of a process with its number: a prefix, or a field of JSON.

    ``now`` returns the time for a line that is not JSON although the others are, such as that of a traceback.
    """
    priority, text = line[:3], line[3:]
    if not (priority.startswith("<") and priority.endswith(">")):
        priority, text = "", line
    if not as_json:
        return f"{priority}[{number}] {text}"
    if text.startswith("{") and text.endswith("}"):
        return f'{priority}{text[:-1]},"process":{number}}}'
    fields: Mapping[str, object] = {
        "time": now(),
        "level": "error",
        "event": "ProcessOutput",
        "message": text,
        "process": number,
    }
    return priority + msgspec.json.encode(fields).decode()
