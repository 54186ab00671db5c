"""``Supervisor``: keeps several exporter processes running, and ends them together. It exports nothing.

The first process begins alone, so that a mistake is reported once and folders are created once. A process that fails is
started again on its journal, with a growing delay; a mistake that a restart cannot correct ends all processes. So does
a process that fails again and again. A process that makes no progress is ended with a traceback of its threads.
"""

import asyncio
import signal
from collections.abc import Callable, Collection
from pathlib import Path

import anyio

from aluma_async.clock import thread_time
from aluma_async.policy.partition import Partition
from aluma_async.service.logs import Level
from aluma_async.service.stats import RunStats
from aluma_async.supervisor.process import ExporterProcess
from aluma_async.supervisor.restarts import Restarts
from aluma_async.supervisor.totals import Totals

MAX_FIRST_SECONDS = 5.0
"""Time after which the other processes begin, even if the first listing of the first one is not complete."""
ABORT_SECONDS = 5.0
"""Time that a stuck process has to print its traceback."""
_WATCH_SECONDS = 1.0
_UNAVAILABLE = 69
"""Exit code for a process that could not even be started."""
_MAX_START_SECONDS = 120.0
"""Time that a process may need for its first report, because imports take long on a busy machine."""
_STALL_SECONDS = 10.0
"""If this process was not scheduled for so long, silence of the others shows nothing."""


class Supervisor:
    """The processes of one service.

    Args:
        processes: Number of processes.
        state: Their state folder.
        stats: Receives the sums of their states.
        final_codes: Exit codes that a restart cannot change.
        once: Whether each process ends by itself, with code 0 or 1.
        stuck_after_seconds: Silence of a process after which it counts as stuck.
        write: Receives each line of output, and the number of the process.
        report: Receives messages about processes: level, event, text.
    """

    def __init__(
        self,
        processes: int,
        state: Path,
        stats: RunStats,
        *,
        final_codes: Collection[int],
        once: bool,
        stuck_after_seconds: float,
        write: Callable[[str, int], object],
        report: Callable[[Level, str, str], object],
    ) -> None:
        self.processes = [
            ExporterProcess(Partition(number, processes), state, write=write, on_report=self._on_report)
            for number in range(1, processes + 1)
        ]
        self.totals = Totals(self.processes, stats)
        self.restarts = [0] * processes
        """Number of restarts of each process."""
        self.on_ready: Callable[[], None] = lambda: None
        """Called once, when every process has listed the pending tasks."""
        self.killed = False
        """Whether the processes were ended at once."""
        self._stats = stats
        self._final_codes = final_codes
        self._once = once
        self._stuck_after_seconds = stuck_after_seconds
        self._report = report
        self._codes: dict[int, int] = {}
        self._begin = asyncio.Event()
        self._begin_others = asyncio.Event()
        self._stop = asyncio.Event()
        self._aborted_at: dict[int, float] = {}
        self._was_ready = False
        self._reported = asyncio.Event()

    async def run(self) -> int:
        """Run all processes to their end; return the worst exit code."""
        self._begin.set()
        async with anyio.create_task_group() as watchers:
            watchers.start_soon(self._watch)
            async with anyio.create_task_group() as group:
                for process in self.processes:
                    group.start_soon(self._keep_running, process)
            watchers.cancel_scope.cancel()
        return max(self._codes.values(), default=0)

    def drain(self) -> None:
        """Let every process finish the tasks in progress, and end."""
        self._stop.set()
        self._stats.draining = True
        for process in self.processes:
            process.drain()

    def kill(self) -> None:
        """End every process at once. The next run releases their claims."""
        self.killed = True
        self._stop.set()
        for process in self.processes:
            process.signal(signal.SIGKILL)

    async def reload(self, max_seconds: float) -> None:
        """Let every process read its configuration again, and wait until all have done so."""
        before = {process.number: process.report.reloads for process in self.processes if process.report}
        for process in self.processes:
            process.send("reload")
        with anyio.move_on_after(max_seconds):
            while any(one.report and one.report.reloads <= before.get(one.number, -1) for one in self.processes):
                self._reported.clear()
                await self._reported.wait()

    async def _keep_running(self, process: ExporterProcess) -> None:
        """Run a process until it ends as it should, or all processes stop."""
        restarts = Restarts()
        while not self._stop.is_set():
            started_at = thread_time()
            try:
                code = await process.run(self._begin if process.number == 1 else self._begin_others)
            except OSError as error:  # the system has no room for another process at present
                self._report("error", "ProcessFailed", f"process {process.number}: cannot be started: {error.strerror}")
                code = _UNAVAILABLE
            self._aborted_at.pop(process.number, None)
            self.totals.add_ended(process)
            if self.killed or self._stop.is_set() or (self._once and code in (0, 1)):
                self._codes[process.number] = _exit_code(code)
                self._begin_others.set()
                return
            self._codes[process.number] = _exit_code(code) or 1  # unless a later run of the process ends well
            name, reason = f"process {process.number}", _describe(code)
            delay = restarts.delay(started_at, thread_time())
            is_first = code > 0 and not self._begin_others.is_set()  # an error that all processes would report
            if code in self._final_codes or delay is None or is_first:
                again = "" if delay else ", again and again"
                self._report("error", "ProcessFailed", f"{name} {reason}{again}; all processes stop")
                self.drain()
                return
            self.restarts[process.number - 1] += 1
            self._report("error", "ProcessEnded", f"{name} {reason}; restart in {delay:.2f} s")
            with anyio.move_on_after(delay):
                await self._stop.wait()

    async def _watch(self) -> None:
        """Let the other processes begin in time, and end stuck ones, until cancelled."""
        first_report_at = checked_at = thread_time()
        while True:
            await anyio.sleep(_WATCH_SECONDS)
            now = thread_time()
            if not self.processes[0].report:
                first_report_at = now
            elif now - first_report_at > MAX_FIRST_SECONDS:
                self._begin_others.set()
            if now - checked_at < _STALL_SECONDS:
                for process in self.processes:
                    self._end_if_stuck(process, now)
            checked_at = now

    def _end_if_stuck(self, process: ExporterProcess, now: float) -> None:
        report, number = process.report, process.number
        if number in self._aborted_at:
            if now - self._aborted_at[number] > ABORT_SECONDS:
                process.signal(signal.SIGKILL)
            return
        silence = now - process.heard_at
        reason = report.stuck if report else ""
        allowed = self._stuck_after_seconds if report else max(_MAX_START_SECONDS, self._stuck_after_seconds)
        if process.heard_at and process.is_running and silence > allowed:
            reason = f"no report for {silence:.0f} s"
        if reason:
            self._report("error", "ProcessStuck", f"process {number} is stuck, so it is ended: {reason}")
            self._aborted_at[number] = now
            process.signal(signal.SIGABRT)

    def _on_report(self) -> None:
        self.totals.update()
        self._reported.set()
        if self.processes[0].has_listed:
            self._begin_others.set()
        if not self._was_ready and all(process.has_listed for process in self.processes):
            self._was_ready = self._stats.listed = True
            self.on_ready()


def _exit_code(code: int) -> int:
    """Return the exit code for a process that has ended with ``code``; it is negative after a signal."""
    return 1 if code < 0 else code


def _describe(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"has ended with exit code {code}"
