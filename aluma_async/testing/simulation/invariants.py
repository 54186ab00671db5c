"""The invariants that must hold in every schedule.

``InvariantChecker`` collects violations. ``Instance`` keeps the state of one exporter that the rules need; it outlives
the exporter's processes, as a machine with a state folder does. The wrappers in ``watched`` report to both.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import anyio

from aluma_async.clock import loop_time
from aluma_async.events import CopyFailed, Event, QuarantineFailed, TaskCancelled, TaskCompleted, TaskFailed, TaskParked
from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    ClaimConflict,
    InvalidResponse,
    RequestRejected,
    SourceError,
)
from aluma_async.journal.records import Record
from aluma_async.models import ClaimRecord, ClaimState, ExportTask
from aluma_async.pipeline.claim_tracker import SETTLE_RETRY_SECONDS
from aluma_async.policy.lease import LATE_START_SECONDS, SAFE_LEASE_FRACTION, elapsed
from aluma_async.ports import Clock, Journal
from aluma_async.testing.virtual_loop import Process

RECOVERY_SECONDS = 5.0
"""Seconds after a restart within which each claim of the previous process must be settled."""
DEFECT = "unexpected exception"
"""Contained in the violations that report a programming error of the exporter."""
MAX_FAILED_TASKS = 3
"""Number of tasks of a project that may be failed for one reason before one is exported."""
_SLACK = SETTLE_RETRY_SECONDS + 120.0  # because a request that starts within a limit may end after it


class DurableJournal(Journal, Protocol):
    """A journal that reveals what is durable."""

    def durable(self) -> Sequence[Record]:
        """Return the records that the next process would load."""
        ...


class InvariantChecker:
    """Collects events (as a digest, and optionally as a trace) and violations of the rules."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.trace: list[str] | None = None
        self._digest = hashlib.sha256()

    def record(self, event: str) -> None:
        """Record an event."""
        line = f"{loop_time():.6f} {event}"
        self._digest.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    def require(self, holds: bool, rule: str) -> None:
        """Record a violation of ``rule`` unless ``holds``."""
        if not holds:
            self.violations.append(f"{loop_time():.3f} s: {rule}")

    @property
    def digest(self) -> str:
        """Return a digest that is equal for runs with the same events in the same order at the same times."""
        return self._digest.hexdigest()[:16]


class Instance:
    """One exporter: the rules for its requests, and the point at which its process is killed."""

    def __init__(self, number: int, checker: InvariantChecker, clock: Clock, claim_timeout: float) -> None:
        self.number = number
        self.checker = checker
        self.journal: DurableJournal
        self.process = Process()
        self.points_passed = 0
        self.kill_at_point = 0
        self.journal_broken_until = 0.0
        self.is_deleted: Callable[[str], bool] = lambda _: True
        """Returns whether a task (by id) is completed or failed at Aluma."""
        self.is_sick: Callable[[str], bool] = lambda _: False
        """Returns whether the place of a task (by id) at the destination is defective."""
        self.project_of: Callable[[str], str] = lambda _: ""
        """Returns the project of a task (by id)."""
        self._clock = clock
        self._claim_timeout = claim_timeout
        self._in_flight: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._open: set[str] = set()
        self._start_unconfirmed_until: dict[str, float] = {}
        self._lost_starts: dict[str, float] = {}  # time at which the lease of such a Start has certainly ended
        self._settle_by: dict[str, float] = {}
        self._failed: dict[str, set[str]] = {}

    async def crash_point(self) -> None:
        """Mark a point at which the process can be killed. If it is killed, this never returns."""
        self.points_passed += 1
        if self.points_passed == self.kill_at_point:
            self.process.kill()
            await anyio.sleep_forever()

    def on_kill(self) -> None:
        """Update the state after the process was killed."""
        for task_id, verb in self._in_flight.items():
            if verb == "start":
                self._start_unconfirmed_until[task_id] = float("inf")  # until the next process starts
        self._in_flight.clear()
        self._lost_starts.clear()
        self._settle_by.clear()

    def on_start(self) -> None:
        """Update the state before a process starts: it has to settle the claims in its journal soon."""
        now = loop_time()
        for task_id, until in self._start_unconfirmed_until.items():
            if until == float("inf"):
                self._start_unconfirmed_until[task_id] = now + LATE_START_SECONDS + _SLACK
        for record in self.journal.durable():
            if isinstance(record, ClaimRecord):
                self._open.add(record.task_id)
                if record.state is ClaimState.STARTING:  # It is unknown whether Aluma received Start.
                    self._start_unconfirmed_until[record.task_id] = now + LATE_START_SECONDS + _SLACK
                if (
                    record.state is not ClaimState.ORPHANED
                    and elapsed(record.sent_at, self._clock()) < self._claim_timeout * SAFE_LEASE_FRACTION
                ):
                    self._settle_by[record.task_id] = now + RECOVERY_SECONDS

    def on_unclaimed(self, task_id: str) -> None:
        """Record that Aluma has shown that a task is not claimed."""
        self._lost_starts.pop(task_id, None)

    def on_fail(self, project: str, task_id: str) -> None:
        """Count a task that is about to be failed."""
        failed = self._failed.setdefault(project, set())
        failed.add(task_id)
        self.checker.require(
            len(failed) <= MAX_FAILED_TASKS,
            f"exporter {self.number}: Fail {task_id} is number {len(failed)} of its kind without an export between",
        )

    def on_fail_refused(self, project: str, task_id: str) -> None:
        """Note that Fail was not executed, because the claim had ended."""
        self._failed[project].discard(task_id)

    def on_export(self, project: str) -> None:
        """Note that a Complete was confirmed: tasks of the same project may be failed again."""
        sending = {task_id for task_id, verb in self._in_flight.items() if verb == "fail"}
        self._failed[project] = self._failed.get(project, set()) & sending

    def on_delivery(self, task: ExportTask) -> None:
        """Require that a task that is about to be saved has its own project, or none: its route may depend on it."""
        self.checker.require(
            task.project_id in ("", self.project_of(task.id)),
            f"exporter {self.number} saves {task.id} as a task of another project",
        )

    def check_overdue(self) -> None:
        """Require that all claims of the previous process have been settled in time."""
        late = [task_id for task_id, until in self._settle_by.items() if until < loop_time()]
        for task_id in late:
            del self._settle_by[task_id]
            self.checker.require(False, f"exporter {self.number} has not settled {task_id} in time after its restart")

    def on_event(self, event: Event) -> None:
        """Count an event of the exporter and note the cool-down that it starts or ends."""
        self.checker.counts[type(event).__name__] += 1
        error = getattr(event, "error", None)
        # Other exceptions are converted to it. Those of sick places and of the probe of a quarantine are planned.
        if type(error) is AlumaAsyncError and not (
            self.is_sick(event.task.id)  # type: ignore[attr-defined]
            or (isinstance(event, CopyFailed | QuarantineFailed) and str(error) == "unexpected ZeroDivisionError")
        ):
            self.checker.require(False, f"exporter {self.number}: {DEFECT}: {error}")
        now = self._clock().boottime
        if loop_time() < self.journal_broken_until:
            now = float("-inf")  # because the next process cannot know a cool-down that was not written
        match event:
            case TaskCancelled(task, _, _, seconds):
                self._not_before[task.id] = now + seconds
            case TaskParked(task, hold):
                self._not_before[task.id] = now + hold.seconds
            case TaskCompleted(task) | TaskFailed(task):
                self._not_before.pop(task.id, None)
                self.checker.require(
                    self.is_deleted(task.id),
                    f"exporter {self.number} reported {type(event).__name__} of {task.id}, which is not so",
                )

    @contextmanager
    def request(self, verb: str, task_id: str) -> Iterator[None]:
        """Check the rules for a request that concerns a task."""
        now, require, awake = loop_time(), self.checker.require, self._clock().boottime
        subject = f"exporter {self.number}: {verb} {task_id}"
        require(task_id not in self._in_flight, f"{subject} while {self._in_flight.get(task_id)} is in flight")
        self._settle_by.pop(task_id, None)
        if verb == "start":
            require(awake + 1e-6 >= self._not_before.get(task_id, 0.0), f"{subject} before its cool-down has ended")
            require(
                any(r.task_id == task_id for r in self.journal.durable() if isinstance(r, ClaimRecord)),
                f"{subject} without a durable record in the journal",
            )
            lease_ends_at = self._lost_starts.pop(task_id, 0.0)
            require(awake + 1e-6 >= lease_ends_at, f"{subject} repeated although its outcome is unknown")
            self._open.add(task_id)
        elif verb != "get":
            self._lost_starts.pop(task_id, None)
            is_owned = task_id in self._open or now <= self._start_unconfirmed_until.get(task_id, 0.0)
            require(is_owned, f"{subject} without a claim")
        self._in_flight[task_id] = verb
        outcome = "done"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            if isinstance(error, Ambiguous | RequestRejected) and verb == "start":
                self._start_unconfirmed_until[task_id] = loop_time() + LATE_START_SECONDS + _SLACK
            if isinstance(error, Ambiguous) and verb == "start":
                self._lost_starts[task_id] = awake + self._claim_timeout  # Aluma's clock goes on in a suspension
            not_executed = isinstance(error, SourceError) and not isinstance(error, Ambiguous | InvalidResponse)
            if isinstance(error, ClaimConflict) or (verb == "start" and not_executed):
                self._open.discard(task_id)
            raise
        else:
            if verb == "start":  # an earlier Fail was not executed
                for failed in self._failed.values():
                    failed.discard(task_id)
            elif verb != "get":
                self._open.discard(task_id)
        finally:
            self._in_flight.pop(task_id, None)
            self.checker.record(f"{self.number} {verb} {task_id} {outcome}")
