"""What must hold whatever happens, watched at the edges of the pipeline: ports that look on, and the rules.

Each exporter is an ``Instance``; it outlives its processes, as a machine with a state folder does.
"""

import hashlib
import random
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio

from aluma_async.clock import loop_time
from aluma_async.events import Event, TaskCancelled, TaskCompleted, TaskFailed, TaskParked
from aluma_async.exceptions import (
    Ambiguous,
    ClaimConflict,
    DestinationError,
    DestinationUnavailable,
    InvalidResponse,
    JournalError,
    SourceError,
)
from aluma_async.journal.memory import MemoryJournal, Record
from aluma_async.models import Claim, ClaimRecord, ClaimState, ExportFile, ExportTask
from aluma_async.pipeline.claim_tracker import SETTLE_RETRY_SECONDS
from aluma_async.policy.lease import LATE_START_SECONDS, SAFE_LEASE_FRACTION, elapsed
from aluma_async.ports import Clock, RequestLimiter, TaskSource
from aluma_async.testing.destination import MemoryDelivery, MemoryDestination
from aluma_async.testing.simulator import SimulatedAluma
from aluma_async.testing.virtual_loop import Process

RECOVERY_SECONDS = 5.0
"""After a restart each claim of the last process is spoken of within this."""
_SLACK = SETTLE_RETRY_SECONDS + 120.0  # a request that begins inside a limit may end outside of it


class Violation(AssertionError):
    """A rule was broken."""


class InvariantChecker:
    """Collects what is seen: a digest of all of it, and the rules that were broken."""

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self.trace: list[str] | None = None
        self._digest = hashlib.sha256()

    def record(self, event: str) -> None:
        """Take note of something that happened."""
        line = f"{loop_time():.6f} {event}"
        self._digest.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    def require(self, holds: bool, rule: str) -> None:
        """Take note if a rule does not hold."""
        if not holds:
            self.violations.append(f"{loop_time():.3f} s: {rule}")

    @property
    def digest(self) -> str:
        """Equal for two runs in which the same things happened in the same order at the same time."""
        return self._digest.hexdigest()[:16]


class WatchedAluma(SimulatedAluma):
    """Looks at the destinations at the very moment when it would delete a task."""

    checker: InvariantChecker
    saved: Callable[[str], Iterable[bytes]]
    """What is safe of a task at the destination."""
    quarantined: Callable[[str], Iterable[bytes]]

    def complete(self, task_id: str) -> None:
        """Complete."""
        done = self.counts["complete"]
        super().complete(task_id)
        if self.counts["complete"] > done:
            self.checker.require(self._all_in(self.saved, task_id), f"{task_id} completed, and not all is safe")

    def fail(self, task_id: str, message: str) -> None:
        """Fail."""
        super().fail(task_id, message)
        bad = self.ids().index(task_id) in self.behaviour.impossible_tasks
        self.checker.require(bad, f"{task_id} failed, and nothing was wrong with it")
        self.checker.require(self._all_in(self.quarantined, task_id), f"{task_id} failed, and not all is in quarantine")

    def _all_in(self, safe: Callable[[str], Iterable[bytes]], task_id: str) -> bool:
        return not Counter(data for _, _, data in self.expected(task_id)) - Counter(safe(task_id))


class Instance:
    """One exporter's machine: what it may do, and the moment at which its process is killed."""

    def __init__(self, number: int, checker: InvariantChecker, clock: Clock, claim_timeout: float) -> None:
        self.number = number
        self.checker = checker
        self.journal: WatchedJournal | Any = WatchedJournal(self)
        self.process = Process()
        self.points = 0
        self.kill_at_point = 0
        self.journal_broken_until = 0.0
        self._clock = clock
        self._timeout = claim_timeout
        self._in_flight: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._open: set[str] = set()
        self._start_unconfirmed_until: dict[str, float] = {}
        self._lost_starts: set[str] = set()
        self._settle_by: dict[str, float] = {}

    async def crash_point(self) -> None:
        """A place at which the process may be killed; if it is, this never returns."""
        self.points += 1
        if self.points == self.kill_at_point:
            self.process.kill()
            await anyio.sleep_forever()

    def on_kill(self) -> None:
        """Take note that the process has ended without a word."""
        for task_id, verb in self._in_flight.items():
            if verb == "start":
                self._start_unconfirmed_until[task_id] = float("inf")  # until the next start
        self._in_flight.clear()
        self._lost_starts.clear()
        self._settle_by.clear()

    def on_start(self) -> None:
        """Take note that a process begins: what its journal still holds is open, and is to be spoken of soon."""
        now = loop_time()
        for task_id, until in self._start_unconfirmed_until.items():
            if until == float("inf"):
                self._start_unconfirmed_until[task_id] = now + LATE_START_SECONDS + _SLACK
        for record in self.journal.durable():
            if isinstance(record, ClaimRecord):
                self._open.add(record.task_id)
                if record.step is ClaimState.STARTING:  # nobody knows whether its Start was heard
                    self._start_unconfirmed_until[record.task_id] = now + LATE_START_SECONDS + _SLACK
                if (
                    record.step is not ClaimState.ORPHANED
                    and elapsed(record.sent, self._clock()) < self._timeout * SAFE_LEASE_FRACTION
                ):
                    self._settle_by[record.task_id] = now + RECOVERY_SECONDS

    def check_overdue(self) -> None:
        """Look whether something that was owed is late."""
        late = [task_id for task_id, until in self._settle_by.items() if until < loop_time()]
        for task_id in late:
            del self._settle_by[task_id]
            self.checker.require(False, f"exporter {self.number} has not spoken of {task_id} in time after its restart")

    def on_event(self, event: Event) -> None:
        """Hear what the exporter says of itself."""
        self.checker.counts[type(event).__name__] += 1
        now = self._clock().boottime
        if loop_time() < self.journal_broken_until:
            now = float("-inf")  # what cannot be written down is not known to the next process
        match event:
            case TaskCancelled(task, _, _, seconds):
                self._not_before[task.id] = now + seconds
            case TaskParked(task, hold):
                self._not_before[task.id] = now + hold.seconds
            case TaskCompleted(task) | TaskFailed(task):
                self._not_before.pop(task.id, None)

    @contextmanager
    def request(self, verb: str, task_id: str) -> Iterator[None]:
        """The rules for what is said about a task."""
        now, require = loop_time(), self.checker.require
        subject = f"exporter {self.number}: {verb} {task_id}"
        require(task_id not in self._in_flight, f"{subject} while {self._in_flight.get(task_id)} is under way")
        self._settle_by.pop(task_id, None)
        if verb == "start":
            awake = self._clock().boottime + 1e-6
            require(awake >= self._not_before.get(task_id, 0.0), f"{subject} before its cool-down has ended")
            require(
                any(r.task_id == task_id for r in self.journal.durable() if isinstance(r, ClaimRecord)),
                f"{subject} without a durable intent",
            )
            require(task_id not in self._lost_starts, f"{subject} again, blindly")
            self._open.add(task_id)
        elif verb != "get":
            self._lost_starts.discard(task_id)
            is_owned = task_id in self._open or now <= self._start_unconfirmed_until.get(task_id, 0.0)
            require(is_owned, f"{subject} of what is not ours")
        self._in_flight[task_id] = verb
        outcome = "done"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            if isinstance(error, Ambiguous) and verb == "start":
                self._start_unconfirmed_until[task_id] = loop_time() + LATE_START_SECONDS + _SLACK
                self._lost_starts.add(task_id)
            surely_not = isinstance(error, SourceError) and not isinstance(error, Ambiguous | InvalidResponse)
            if isinstance(error, ClaimConflict) or (verb == "start" and surely_not):
                self._open.discard(task_id)
            raise
        else:
            if verb not in ("start", "get"):
                self._open.discard(task_id)
        finally:
            self._in_flight.pop(task_id, None)
            self.checker.record(f"{self.number} {verb} {task_id} {outcome}")


class WatchedSource:
    """A ``TaskSource`` around another."""

    def __init__(self, source: TaskSource, instance: Instance) -> None:
        self._source = source
        self._instance = instance

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        await self._instance.crash_point()
        async for tasks in self._source.list_pending():
            yield tasks

    async def start(self, task: ExportTask) -> Claim:
        await self._instance.crash_point()
        with self._instance.request("start", task.id):
            claim = await self._source.start(task)
        await self._instance.crash_point()
        return claim

    @asynccontextmanager
    async def open_file(self, claim: Claim, file: ExportFile) -> AsyncIterator[AsyncIterator[bytes]]:
        await self._instance.crash_point()
        async with self._source.open_file(claim, file) as chunks:
            yield chunks

    async def complete(self, task: ExportTask) -> None:
        await self._instance.crash_point()
        with self._instance.request("complete", task.id):
            await self._source.complete(task)
        await self._instance.crash_point()

    async def cancel(self, task: ExportTask) -> None:
        await self._instance.crash_point()
        with self._instance.request("cancel", task.id):
            await self._source.cancel(task)
        await self._instance.crash_point()

    async def fail(self, task: ExportTask, message: str) -> None:
        await self._instance.crash_point()
        with self._instance.request("fail", task.id):
            await self._source.fail(task, message)
        await self._instance.crash_point()

    async def state(self, task: ExportTask) -> str | None:
        with self._instance.request("get", task.id):
            return await self._source.state(task)


class WatchedRequestLimiter:
    """``Permits`` around others: never too many at once, and none before the end of a pause that Aluma asked for."""

    def __init__(self, request_limiter: RequestLimiter, limit: int, checker: InvariantChecker) -> None:
        self._request_limiter = request_limiter
        self._limit = limit
        self._checker = checker
        self._held = 0
        self._closed_until = 0.0

    @asynccontextmanager
    async def permit(self, *, urgent: bool = False) -> AsyncIterator[float]:
        async with self._request_limiter.permit(urgent=urgent) as moment:
            self._held += 1
            self._checker.require(
                self._held <= self._limit, f"{self._held} requests at once, {self._limit} are allowed"
            )
            in_pause = loop_time() < self._closed_until - 1e-6
            self._checker.require(not in_pause, f"a request left before {self._closed_until:.3f}, as Aluma had asked")
            try:
                yield moment
            except SourceError as error:
                if error.retry_after:
                    self._closed_until = max(self._closed_until, loop_time() + error.retry_after)
                raise
            finally:
                self._held -= 1

    async def consume_bytes(self, count: int) -> None:
        await self._request_limiter.consume_bytes(count)


class WatchedJournal(MemoryJournal):
    """A memory journal that can be out of order, and in which a crash may fall before and after each write."""

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
        """What a next process would find."""
        return list(self._durable.values())


class WatchedDestination:
    """A ``Destination`` in memory that takes its time and breaks; a crash may fall between any two of its steps."""

    def __init__(self, store: MemoryDestination, instance: Instance, destination_faults: "DestinationFaults") -> None:
        self._store = store
        self._instance = instance
        self._destination_faults = destination_faults

    async def probe(self) -> None:
        await self._instance.crash_point()
        self._destination_faults.raise_if_away()

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["WatchedDelivery"]:
        delivery = MemoryDelivery(self._store)
        yield WatchedDelivery(delivery, self._instance, self._destination_faults)
        await self._instance.crash_point()
        await self._destination_faults.inject()
        self._store.tasks[claim.task.id] = delivery.files
        await self._instance.crash_point()


class WatchedDelivery:
    """The files of one claim."""

    def __init__(self, delivery: MemoryDelivery, instance: Instance, destination_faults: "DestinationFaults") -> None:
        self._delivery = delivery
        self._instance = instance
        self._destination_faults = destination_faults

    def resumable_size(self, file: ExportFile) -> int | None:
        return self._delivery.resumable_size(file)

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        await self._instance.crash_point()
        await self._delivery.save(file, chunks)
        await self._destination_faults.inject()


class DestinationFaults:
    """What goes wrong with a destination: it is away for some time, breaks now and then, or is slow."""

    def __init__(self, chance: random.Random, broken: float, slow: float, away: Sequence[tuple[float, float]]) -> None:
        self._chance = chance
        self._broken = broken
        self._slow = slow
        self._away = away

    def end(self) -> None:
        """Let nothing go wrong any more."""
        self._broken = self._slow = 0.0
        self._away = ()

    def raise_if_away(self) -> None:
        """Raise if nobody's files can be saved now."""
        if any(begin <= loop_time() < end for begin, end in self._away):
            raise DestinationUnavailable("the disk is full")

    async def inject(self) -> None:
        """Let one step take its time, and go wrong."""
        if self._slow and self._chance.random() < self._slow:
            await anyio.sleep(self._chance.choice((1, 20, 400, 1600)))
        self.raise_if_away()
        if self._broken and self._chance.random() < self._broken:
            raise DestinationError("a file could not be written")
