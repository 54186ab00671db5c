"""Wrappers that watch the edges of the pipeline: they report to the invariants, inject faults and have crash points."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from aluma_async.clock import loop_time
from aluma_async.exceptions import (
    ClaimConflict,
    JournalError,
    RateLimited,
    SourceError,
)
from aluma_async.journal.memory import MemoryJournal
from aluma_async.journal.records import Record
from aluma_async.models import Claim, ExportFile, ExportTask, TaskState
from aluma_async.pipeline.pauses import MAX_PAUSE_SECONDS, MAX_URGENT_PAUSE_SECONDS
from aluma_async.ports import RequestLimiter, TaskSource
from aluma_async.source_wrapper import SourceWrapper
from aluma_async.testing.simulation.invariants import MAX_FAILED_TASKS, Instance, InvariantChecker
from aluma_async.testing.simulation.plans import Plan
from aluma_async.testing.simulator import SimulatedAluma

T = TypeVar("T")


class WatchedAluma(SimulatedAluma):
    """Checks the destinations at the moment when a task is completed or failed."""

    checker: InvariantChecker
    saved: Callable[[str], Iterable[bytes]]
    """Returns the files of a task (by id) that are durable at the destination."""
    quarantined: Callable[[str], Iterable[bytes]]
    """Returns the files of a task (by id) that are durable in the quarantine."""

    def watch(self, checker: InvariantChecker, chosen: Plan) -> None:
        """Report violations to ``checker``."""
        self.checker = checker
        self.losses = 0
        """Number of times that files were lost at a destination."""
        self._deleted: dict[str, tuple[str, int]] = {}  # state, and number of losses at that moment
        self._sent: dict[tuple[str, str], int] = {}  # number of losses when a request was last sent
        self._limited: set[str] = set()  # projects in which only three tasks may be failed
        if chosen.instances == 1:
            exportable = set(range(chosen.tasks)) - set(self.behaviour.impossible_tasks)
            projects = {self.sample_data.project(number)[0] for number in self.behaviour.impossible_tasks}
            self._limited = projects - {self.sample_data.project(number)[0] for number in exportable}
        self._failures: Counter[str] = Counter()

    def project(self, task_id: str) -> str:
        """Return the id of a task's project."""
        return self.sample_data.project(self._tasks[task_id].number)[0]

    def is_unsettled(self, task_id: str) -> bool:
        """Return whether a task is neither completed nor failed."""
        return self._tasks[task_id].state not in ("completed", "failed")

    def is_deleted(self, task_id: str) -> bool:
        """Return whether a task is completed or failed."""
        return not self.is_unsettled(task_id)

    def is_unexportable(self, task_id: str) -> bool:
        """Return whether a task has a text that is not valid Unicode."""
        return self._tasks[task_id].number in self.behaviour.impossible_tasks

    def is_limited(self, task_id: str) -> bool:
        """Return whether the task must not be failed without the administrator."""
        return self.is_unexportable(task_id) and self._failures[self.project(task_id)] >= MAX_FAILED_TASKS

    def note_sent(self, verb: str, task_id: str) -> None:
        """Note that an exporter sends a request now."""
        self._sent[verb, task_id] = self.losses

    def complete(self, task_id: str) -> None:
        """Complete a task; all its files must be at the destination."""
        completed = self.counts["complete"]
        super().complete(task_id)
        if self.counts["complete"] > completed and not self._is_late("complete", task_id):
            self._deleted[task_id] = "completed", self.losses
            self._require_copy(task_id, "completed before all its files were durable")

    def fail(self, task_id: str, message: str) -> None:
        """Fail a task; it must be unexportable, and all its files must be in the quarantine."""
        super().fail(task_id, message)
        project = self.project(task_id)
        self._failures[project] += 1
        self.checker.require(self.is_unexportable(task_id), f"{task_id} failed although it can be exported")
        self.checker.require(
            project not in self._limited or self._failures[project] <= MAX_FAILED_TASKS,
            f"{task_id} failed although {MAX_FAILED_TASKS} tasks of its project were failed before",
        )
        if not self._is_late("fail", task_id):
            self._deleted[task_id] = "failed", self.losses
            self._require_copy(task_id, "failed before all its files were in the quarantine")

    def check_deleted_tasks(self) -> None:
        """Require that the files of all deleted tasks are still there."""
        for task_id, (state, losses) in self._deleted.items():
            if losses == self.losses:
                self._require_copy(task_id, f"{state}, and its files are not there in the end")

    def _is_late(self, verb: str, task_id: str) -> bool:
        """Return whether files were lost after the request was sent."""
        return self._sent.get((verb, task_id), self.losses) < self.losses

    def _require_copy(self, task_id: str, rule: str) -> None:
        """Require that every byte of a deleted task is at the destination, or if it was failed, in the quarantine."""
        expected = Counter(data for _, _, data in self.expected(task_id))
        if self._deleted[task_id][0] == "failed":
            expected[self.specification(task_id)] += 1
            missing = expected - Counter(self.quarantined(task_id))
        else:
            missing = expected - Counter(self.saved(task_id))
        self.checker.require(not missing, f"{task_id} {rule}")


class WatchedSource(SourceWrapper):
    """Checks each request of a source, with crash points before and after the requests that change a task."""

    def __init__(self, source: TaskSource, instance: Instance, aluma: WatchedAluma) -> None:
        super().__init__(source)
        self._instance = instance
        self._aluma = aluma

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        await self._instance.crash_point()
        async for tasks in self._source.list_pending():
            yield tasks

    async def start(self, task: ExportTask) -> Claim:
        return await self._change("start", self._source.start, task)

    @asynccontextmanager
    async def open_file(self, claim: Claim, file: ExportFile) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._instance.crash_point()
        async with self._source.open_file(claim, file) as chunks:
            yield chunks

    async def complete(self, task: ExportTask) -> None:
        await self._change("complete", self._source.complete, task)
        self._instance.on_export(self._aluma.project(task.id))

    async def cancel(self, task: ExportTask) -> None:
        await self._change("cancel", self._source.cancel, task)

    async def fail(self, task: ExportTask, message: str) -> None:
        project = self._aluma.project(task.id)
        self._instance.on_fail(project, task.id)
        try:
            await self._change("fail", self._source.fail, task, message)
        except ClaimConflict:
            if self._aluma.is_unsettled(task.id):
                self._instance.on_fail_refused(project, task.id)
            raise

    async def state(self, task: ExportTask) -> str | None:
        with self._instance.request("get", task.id):
            state = await self._source.state(task)
        if state != TaskState.CLAIMED:
            self._instance.on_unclaimed(task.id)
        return state

    async def _change(self, verb: str, send: Callable[..., Awaitable[T]], task: ExportTask, *args: str) -> T:
        await self._instance.crash_point()
        self._aluma.note_sent(verb, task.id)
        with self._instance.request(verb, task.id):
            result = await send(task, *args)
        await self._instance.crash_point()
        return result


class WatchedRequestLimiter:
    """Checks that a limiter keeps its limit, and that no request is sent during a pause that Aluma asked for.

    If only requests about single tasks were answered with the pause, one other request may test it; if it succeeds, the
    pause ends for all other tasks.
    """

    def __init__(self, request_limiter: RequestLimiter, limit: int, checker: InvariantChecker) -> None:
        self._request_limiter = request_limiter
        self._limit = limit
        self._checker = checker
        self._held = 0
        self._closed_until = self._urgent_closed_until = self._refused_at = 0.0
        self._is_of_tasks = self._is_tested = False

    @asynccontextmanager
    async def permit(self, *, urgent: bool = False) -> AsyncIterator[float]:
        async with self._request_limiter.permit(urgent=urgent) as moment:
            self._held += 1
            self._checker.require(
                self._held <= self._limit, f"{self._held} requests in flight, and the limit is {self._limit}"
            )
            closed_until = self._urgent_closed_until if urgent else self._closed_until
            in_pause = loop_time() < closed_until - 1e-6
            self._checker.require(not in_pause, f"a request was sent before {closed_until:.3f}, during a pause")
            try:
                yield moment
                if urgent and moment > self._refused_at:
                    self._urgent_closed_until = 0.0
            except SourceError as error:
                if error.retry_after:
                    self._close(error)
                elif isinstance(error, RateLimited):  # its pause is as long as the limiter wants
                    self._note_refusal(error)
                elif urgent and isinstance(error, ClaimConflict) and moment > self._refused_at:
                    self._urgent_closed_until = 0.0
                raise
            finally:
                self._held -= 1

    @property
    def is_contended(self) -> bool:
        return self._request_limiter.is_contended

    @property
    def pause_is_unverified(self) -> bool:
        return self._request_limiter.pause_is_unverified

    @asynccontextmanager
    async def probe_permit(self) -> AsyncIterator[float]:
        async with self._request_limiter.probe_permit() as moment:
            self._held += 1
            self._checker.require(self._held <= self._limit, "a request that tests a pause exceeds the limit")
            self._checker.require(self._is_of_tasks, "a pause that all requests were asked for was tested")
            try:
                yield moment
                self._is_tested = True
            except SourceError as error:
                if error.retry_after:  # another error tests nothing
                    self._close(error)
                raise
            finally:
                self._held -= 1

    def end_pause(self) -> None:
        self._checker.require(self._is_of_tasks and self._is_tested, "a pause was ended without a successful test")
        self._closed_until = self._urgent_closed_until = 0.0
        self._request_limiter.end_pause()

    def _close(self, error: SourceError) -> None:
        """Note a pause. Requests that settle claims may be sent earlier, because claims expire."""
        now = self._refused_at = loop_time()
        seconds = error.retry_after or 0.0
        self._note_refusal(error)
        self._closed_until = max(self._closed_until, now + min(seconds, MAX_PAUSE_SECONDS))
        self._urgent_closed_until = max(self._urgent_closed_until, now + min(seconds, MAX_URGENT_PAUSE_SECONDS))

    def _note_refusal(self, error: SourceError) -> None:
        self._is_tested = False
        self._is_of_tasks = bool(error.operation) and (self._is_of_tasks or loop_time() >= self._closed_until)

    async def consume_bytes(self, count: int) -> None:
        await self._request_limiter.consume_bytes(count)


class WatchedJournal(MemoryJournal):
    """A journal in memory that can fail to write, with crash points before and after each write."""

    def __init__(self, instance: Instance) -> None:
        super().__init__()
        self._instance = instance

    async def flush(self) -> None:
        if self._pending:
            await self._instance.crash_point()
            if loop_time() < self._instance.journal_broken_until:
                raise JournalError("the journal's disk is full")
        await super().flush()
        await self._instance.crash_point()

    def durable(self) -> Sequence[Record]:
        """Return the records that the next process would load."""
        return list(self._durable.values())
