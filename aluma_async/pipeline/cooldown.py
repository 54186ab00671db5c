"""``Cooldown``: the tasks that are on hold, with the reason, and the number of failures of each task.

It is a time-to-live cache, as Aluma's guide recommends, with a copy in the journal. An entry expires some time after
its cool-down, so that the next failure counts as the first one again.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from aiocache import SimpleMemoryCache
from msgspec import Struct
from msgspec.structs import replace

from aluma_async.clock import loop_time
from aluma_async.exceptions import AlumaAsyncError, Crash, DestinationError, JournalError, JournalLost, SourceError
from aluma_async.models import HoldRecord
from aluma_async.pipeline.pauses import MAX_PAUSE_SECONDS
from aluma_async.policy.backoff import Backoff
from aluma_async.policy.lease import elapsed, remaining
from aluma_async.ports import Clock, Journal, Uniform

SUSPECT_AFTER = 3
"""Number of crashes during the export of a task after which it is a crash suspect: suspects run one at a time."""
PARK_AFTER_CRASHES = 6
"""Number of crashes after which a task is parked: in the last half of them it was the only suspect in progress."""
PARK_AFTER_PERSISTENT = 5
"""Number of failures in a row with the same persistent error after which a task is parked: with the default cool-downs,
a quarter of an hour after the first one, so that the error page of a proxy that restarts does not park it."""

_MIN_MEMORY_SECONDS = 3600.0  # after a cool-down, the failures and crashes of its task count for at least this long


class CooldownEntry(Struct, frozen=True, gc=False):
    """The failures of one task, and whether it is on hold."""

    is_active: bool = False
    """Whether the task is on hold now."""
    parked: bool = False
    """Whether its last hold was a long one."""
    failures: int = 0
    """Failures in a row."""
    crashes: int = 0
    """Number of times that an exporter process crashed during its export."""
    needs_copy: bool = False
    """Whether it is parked for crashes, and a copy of it was not tried yet."""

    @property
    def is_crash_suspect(self) -> bool:
        """Whether the process crashed often enough during its export to suspect it."""
        return self.crashes >= SUSPECT_AFTER


_NO_ENTRY = CooldownEntry()


class Cooldown:
    """Holds with a delay that grows with each failure of a task, according to ``backoff``.

    A task is parked for ``park_seconds`` at its ``park_after``-th failure in a row (0: never), and earlier if its last
    ``PARK_AFTER_PERSISTENT`` failures had the same persistent error. Holds of another API or client than ``source_id``
    are kept, but their tasks are not looked up here.
    """

    def __init__(
        self,
        backoff: Backoff,
        journal: Journal,
        clock: Clock,
        uniform: Uniform,
        source_id: str = "",
        *,
        park_seconds: float,
        park_after: int,
    ) -> None:
        self._source_id = source_id
        self._backoff = backoff
        self._memory = max(backoff.maximum, _MIN_MEMORY_SECONDS)
        self._journal = journal
        self._park_seconds = park_seconds
        self._park_after = park_after
        self._clock = clock
        self._uniform = uniform
        # Task id -> (hold, end of the cool-down). Without its default time-out of 5 s, which would turn a slow moment
        # of the event loop into an error.
        self._cache: Any = SimpleMemoryCache(timeout=None)
        self._expired: dict[str, HoldRecord] = {}  # holds of an earlier process, so old that they have no effect
        self._foreign: set[str] = set()  # tasks whose last hold another exporter, or an earlier client, has begun
        # Tasks that may be in the cache, in order: most tasks never fail, and need no look-up.
        self._ids: dict[str, float] = {}  # with the time at which the entry expires

    async def load(self, holds: Iterable[HoldRecord]) -> None:
        """Take over the holds of an earlier process."""
        now = self._clock()
        for hold in holds:
            is_foreign = bool(self._source_id) and hold.source not in ("", self._source_id)
            if elapsed(hold.since, now) > hold.seconds + self._memory:
                if is_foreign:
                    continue
                self._journal.delete(HoldRecord, hold.task_id)
                self._expired[hold.task_id] = hold
            else:
                await self._store(hold, remaining(hold.since, hold.seconds, now))
                if is_foreign:
                    self._foreign.add(hold.task_id)

    async def merge(self, holds: Iterable[HoldRecord]) -> None:
        """Take over holds that other exporters have begun since; the younger hold of a task counts."""
        now = self._clock()
        for hold in holds:
            own = await self.hold(hold.task_id)
            left = remaining(hold.since, hold.seconds, now)
            if left + self._memory > 0 and (own is None or elapsed(own.since, now) > elapsed(hold.since, now)):
                await self._store(hold, left)
                self._foreign.add(hold.task_id)
                self._journal.put(hold)

    async def count_active(self, *, of_others: bool) -> tuple[int, int]:
        """Return the number of tasks on hold and of parked ones, with or without those that others have put on hold."""
        active = parked = 0
        for task_id in list(self._ids):
            if of_others or task_id not in self._foreign:
                entry = await self.get(task_id)
                active += entry.is_active
                parked += entry.is_active and entry.parked
        return active, parked

    async def get(self, task_id: str) -> CooldownEntry:
        """Return the entry of a task as of now."""
        if task_id not in self._ids:
            return _NO_ENTRY
        hold, until = await self._entry(task_id)
        is_active = loop_time() < until
        needs_copy = is_active and hold.crashes >= PARK_AFTER_CRASHES and not hold.copy_tried
        return CooldownEntry(is_active, hold.parked, hold.failures, hold.crashes, needs_copy)

    async def start(
        self,
        task_id: str,
        error: AlumaAsyncError,
        *,
        park: bool = False,
        blame: bool = True,
        created_at: float | None = None,
        unexportable: str = "",
    ) -> HoldRecord:
        """Put a task on hold after an error.

        Args:
            task_id: The task.
            error: What ended the attempt.
            park: Hold the task for long.
            blame: Whether the error counts as a failure of the task.
            created_at: Creation of the task; stored, so that the time until its deadline can be shown.
            unexportable: Hash of the Export Specification if it can never be exported.
        """
        hold, _ = await self._entry(task_id)
        failures = max(1, hold.failures + blame)
        same_failures = hold.same_failures + 1 if hold.error == type(error).__name__ else 1
        if self._park_after and blame:
            is_persistent = error.persistent and same_failures >= PARK_AFTER_PERSISTENT
            park = park or is_persistent or failures >= self._park_after
        # While a destination is unavailable to some tasks, each attempt costs a Start and a Cancel.
        attempts = same_failures if isinstance(error, DestinationError) and error.spares_others else failures
        if isinstance(error, SourceError) and error.ended_early:  # no failure, but each attempt holds a worker for long
            attempts = max(failures, same_failures)
        delay = self._backoff.delay(attempts, self._uniform)
        if isinstance(error, SourceError) and error.spares_others:
            delay = max(delay, min(error.retry_after or 0.0, MAX_PAUSE_SECONDS))
        hold = replace(
            hold,
            since=self._clock(),
            seconds=max(delay, self._park_seconds) if park else delay,
            failures=failures,
            same_failures=same_failures,
            parked=park,
            error=type(error).__name__,
            message=error.text,
            created_at=hold.created_at if created_at is None else created_at,
            unexportable=unexportable,
            source=self._source_id,
        )
        await self.restart(hold)
        return hold

    async def was_unexportable(self, task_id: str, specification: str) -> bool:
        """Return whether the last attempt at a task, before a hold that has ended, had the same specification.

        ``specification`` is its hash. Only then is it certain that a repetition brings the same text.
        """
        hold, until = await self._entry(task_id)
        return bool(specification) and hold.unexportable == specification and until <= loop_time()

    async def restart(self, hold: HoldRecord) -> None:
        """Restart the time of a hold now."""
        hold = replace(hold, since=self._clock())
        await self._store(hold, hold.seconds)
        with suppress(JournalError):  # the hold is still in effect for the life of this process
            await self._journal.write(hold)

    async def record_crashes(self, task_ids: Iterable[str]) -> list[HoldRecord]:
        """Count a crash for each task that was in progress; return the holds of those that are parked for it."""
        counted = []
        for task_id in task_ids:
            hold, until = await self._entry(task_id)
            crashes = hold.crashes + 1
            park = crashes >= PARK_AFTER_CRASHES
            message = f"the exporter ended {crashes} times while exporting this task"
            remaining_seconds = max(until - loop_time(), self._park_seconds if park else 0.0)
            reason = {"error": Crash.__name__, "message": message} if park else {}
            hold = replace(
                hold,
                since=self._clock(),
                seconds=max(0.0, remaining_seconds),
                crashes=crashes,
                parked=hold.parked or park,
                source=self._source_id,
                **reason,
            )
            await self._store(hold, hold.seconds)
            counted.append(hold)
        with suppress(JournalError):  # the open claims must be settled in any case
            await self._journal.write(*counted)
        return [hold for hold in counted if hold.crashes >= PARK_AFTER_CRASHES]

    async def begin_copy(self, task_id: str) -> Crash:
        """Record durably that a copy of a task parked for crashes is tried; return the error for which it is parked.

        Raises ``JournalError``. The copy must not be tried then, because it could crash the process again and again.
        """
        hold, until = await self._entry(task_id)
        hold = replace(hold, copy_tried=True)
        await self._journal.write(hold)
        await self._store(hold, max(0.0, until - loop_time()))
        return Crash(hold.message)

    def task_ids(self) -> Iterator[str]:
        """Yield the ids of the tasks that are or were on hold, unless they were exported or failed since.

        Those that another exporter or an earlier client has put on hold are left to it.
        """
        yield from [task_id for task_id in self._ids if task_id not in self._foreign]
        yield from list(self._expired)

    async def hold(self, task_id: str) -> HoldRecord | None:
        """Return the last hold of one of these tasks."""
        if task_id in self._expired:
            return self._expired[task_id]
        return (await self._entry(task_id))[0] if task_id in self._ids else None

    async def clear_task(self, task_id: str) -> None:
        """Remove the hold and the failures of a task."""
        self._expired.pop(task_id, None)
        self._foreign.discard(task_id)
        if task_id in self._ids:
            del self._ids[task_id]
            await self._cache.delete(task_id)
            self._journal.delete(HoldRecord, task_id)

    def forget_expired(self, task_id: str) -> None:
        """Forget the hold of an earlier process that has no effect any more, because its task is pending."""
        self._expired.pop(task_id, None)

    async def apply_releases(self) -> None:
        """Remove the holds that the administrator has released (``aluma-async retry``). Raises ``JournalLost``."""
        try:
            for task_id in await self._journal.pop_released():
                await self.clear_task(task_id)
        except JournalLost:
            raise
        except JournalError:
            pass

    async def close(self) -> None:
        """Cancel all timers in the event loop; the journal keeps the holds."""
        for task_id in self._ids:
            await self._cache.delete(task_id)
        self._ids.clear()

    async def _store(self, hold: HoldRecord, seconds: float) -> None:
        self._ids.pop(hold.task_id, None)
        self._foreign.discard(hold.task_id)
        self._ids[hold.task_id] = loop_time() + seconds + self._memory
        self._forget_one()
        self.forget_expired(hold.task_id)
        entry = (hold, loop_time() + seconds)
        await self._cache.set(hold.task_id, entry, ttl=seconds + self._memory)

    def _forget_one(self) -> None:
        """Look at the next task, and forget it if its entry has expired: a task that vanished is never looked up."""
        task_id = next(iter(self._ids))
        expires_at = self._ids.pop(task_id)
        if expires_at > loop_time():
            self._ids[task_id] = expires_at
        else:
            self._foreign.discard(task_id)
            self._journal.delete(HoldRecord, task_id)

    async def _entry(self, task_id: str) -> tuple[HoldRecord, float]:
        entry: tuple[HoldRecord, float] | None = None
        if task_id in self._ids:
            entry = await self._cache.get(task_id)
            if entry is None:
                self._ids.pop(task_id, None)
                self._journal.delete(HoldRecord, task_id)
        return entry or (HoldRecord(task_id, self._clock(), 0.0), 0.0)
