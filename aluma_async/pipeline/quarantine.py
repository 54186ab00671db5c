"""``Quarantine``: keeps copies of failed and parked tasks, so that no document is lost.

Fail deletes the only copy at Aluma, and Aluma deletes parked tasks that are overdue. So everything that a task contains
is stored durably in a destination of its own: all files that can be fetched, the specification as received, and the
error. A file that was not fetched, for whatever reason, is missing; the record names it, and such a task must not be
failed. Each time, all files are fetched, because the ones in an earlier copy may be outdated or wrong. A new copy
replaces an earlier one only after it is stored, and only if it supersedes it; otherwise the task has both. If two
copies of the same specification differ in a file, one may be the answer of a proxy, and the task must not be failed.

The copy of a parked task is removed when this process has exported its specification. No other copy of an exported task
is removed, because nothing but the wall clock, which may be wrong, shows whether it is older than the export.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import combinations
from typing import ParamSpec, TypeVar

import anyio

from aluma_async.clock import loop_time, wall_time
from aluma_async.concurrency.threads import run_in_thread
from aluma_async.events import CopyFailed, CopyStored, QuarantineNearlyFull, QuarantineUsed
from aluma_async.exceptions import AlumaAsyncError, DestinationError, SourceError, primary_error
from aluma_async.models import Claim, ExportTask
from aluma_async.pipeline.copying import Budget, CopiesDiffer, CopyWriter, EarlierCopy, ExportDiffers, NothingNew
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.transfer import receipt_of
from aluma_async.ports import Destination, OnEvent, VerifyingDestination
from aluma_async.quarantine.folder import Copy, QuarantineFolder, supersedes
from aluma_async.quarantine.locking import locked_copy
from aluma_async.quarantine.reading import read_file
from aluma_async.quarantine.records import CopyState, folder_names

P = ParamSpec("P")
T = TypeVar("T")

_MEASURE_SECONDS = 60.0
"""Interval at which the size is measured again, because an administrator may remove copies."""
_REFRESH_SECONDS = 600.0
"""Interval at which the copies are counted again."""
MAX_VERSIONS = 4
"""Number of copies of one specification with different files; if there are as many, no further one is stored."""
NEARLY_FULL_SHARE = 0.9
"""Share of ``max_bytes`` from which the quarantine is reported as nearly full."""


class Quarantine:
    """Stores each task in a folder named after its id, with a record in ``quarantine.json``.

    Args:
        source: Fetches the files.
        destination: Stores them. Its deliveries need ``omit`` to store an incomplete copy.
        folder: The same place for reading. Without it, copies are neither reused nor removed.
        max_bytes: Maximum size of all copies; 0: no limit.
        now: Returns the time in seconds since 1970.
        on_event: Receives the events.
    """

    def __init__(
        self,
        source: RetryingSource,
        destination: Destination,
        *,
        folder: QuarantineFolder | None = None,
        max_bytes: int = 0,
        now: Callable[[], float] = wall_time,
        on_event: OnEvent,
    ) -> None:
        self._source = source
        self._destination = destination
        self._folder = folder
        self._budget = Budget(max_bytes)
        self._now = now
        self._on_event = on_event
        self._receipts: dict[str, str] = {}  # of the tasks that are being failed, by id
        self._locks: dict[str, ExitStack] = {}  # of the copies of these tasks
        self._reserved: set[str] = set()
        self._reserving = anyio.Lock()
        self._removing = anyio.Lock()
        self._exported: dict[str, Claim] = {}
        self._wakeup = anyio.Event()
        self._changes = 0
        """Number of copies that were stored or discarded by this process."""
        self._reported_full = False
        self._reported_use: QuarantineUsed | None = None
        self._measured_at = 0.0
        self.task_ids: set[str] = set()
        """Ids of the tasks that have a copy. It remains the same object."""
        self.exported_hashes: dict[str, dict[int, str]] = {}
        """SHA-256 of each downloaded file of these tasks that was exported, by task id and number of the file."""

    async def load(self) -> None:
        """Find the copies of earlier processes, and their size."""
        if self._folder:
            with suppress(OSError):  # reported when a copy is stored
                changes = self._changes
                copies, _ = await run_in_thread(self._folder.copies)
                if changes == self._changes:
                    self.task_ids.clear()
                    self.task_ids.update(copy.task_id for copy in copies)
            await self._measure()
            self._report_use()

    async def _refresh(self) -> None:
        """Find out what an administrator has removed, unless a copy is in progress."""
        if not self._reserved and not self._exported:
            await self.load()

    async def store(
        self, claim: Claim, error: AlumaAsyncError, state: CopyState = CopyState.FAILED
    ) -> Mapping[int, str]:
        """Store everything that the claim contains; return the reason for each missing file, by its number.

        Raises ``AlumaAsyncError`` if no copy could be stored. The task must not be failed then, and neither if
        anything is missing. Every file is fetched again. If an earlier copy of the same specification has other
        content, both are kept, and ``CopiesDiffer`` is raised; if one has everything, it stays. For a parked task, a
        file that cannot be fetched is taken from an earlier copy. That of a task that will be failed is locked until
        ``unlock``.
        """
        await self._destination.probe()  # creates the folder: the first task may come after months
        task = claim.task
        async with self._removing:  # because the task is pending again, and its copies must stay
            self._exported.pop(task.id, None)
            self.exported_hashes.pop(task.id, None)
        earlier = await self._find(task.id)
        same = [copy for copy in earlier if await self._has_same_spec(copy, claim)]
        if state is CopyState.FAILED or len(same) >= MAX_VERSIONS:  # first, so that no attempt adds a further copy
            await self._require_no_difference(task, same)
        reusable: EarlierCopy | None = None
        if state is CopyState.PARKED and self._folder and same:
            reusable = EarlierCopy(frozenset(same[0].missing), partial(read_file, self._folder, same[0]))
        if self._budget.max_bytes and loop_time() >= self._measured_at + _MEASURE_SECONDS:
            await self._measure()
        name = await self._reserve(task.id)
        writer = CopyWriter(self._source, claim, name, state, reusable, self._budget, self._on_event)
        try:
            stored, disputes = await self._write(writer, same, error)
        except NothingNew:
            writer.free_bytes()
            return writer.missing
        except BaseException:
            writer.free_bytes()
            raise
        finally:
            self._reserved.discard(name)
        self.task_ids.add(task.id)
        self._changes += 1
        for old in earlier:
            is_disputed = any(other is old for other, _ in disputes)
            if stored and not is_disputed and supersedes(stored, old, same_spec=old in same):
                await self._remove(task, old)
        self._on_event(CopyStored(task, len(claim.spec.files), writer.size, len(writer.missing)))
        self._report_use()
        if disputes:
            raise CopiesDiffer(task.id, disputes[0][1])
        return writer.missing

    def receipt(self, claim: Claim) -> str:
        """Return the text with which a later process finds the copy that ``store`` has just stored."""
        return self._receipts.pop(claim.task.id, "")

    def unlock(self, task: ExportTask) -> None:
        """Let an administrator delete the copy of a task. Call it when the journal says that the task is failed."""
        if lock := self._locks.pop(task.id, None):
            lock.close()

    async def holds(self, task_id: str, receipt: str) -> bool:
        """Return whether the copy with a receipt is there and complete. Raises ``AlumaAsyncError``.

        In a folder, all its files are read, so that it does not matter whether the folder is still the same.
        """
        await self._destination.probe()
        if self._folder is None:
            return isinstance(self._destination, VerifyingDestination) and await self._destination.verify(receipt)
        for copy in await self._find(task_id):
            if copy.record.fingerprint == receipt:
                return not await run_in_thread(partial(self._folder.verify, strict=True), copy)
        return False

    async def has_copy(self, task_id: str, receipt: str) -> bool:
        """Return whether the copy with a receipt is there, with the sizes of its files. Raises ``AlumaAsyncError``."""
        if self._folder is None:
            return await self.holds(task_id, receipt)
        return any(copy.is_complete and copy.record.fingerprint == receipt for copy in await self._find(task_id))

    def discard_later(self, claim: Claim) -> None:
        """Let ``run`` remove the copies of a task that this process has exported from ``claim``.

        A copy stays if its task was failed, or has another specification, or if another content of a file was exported:
        it may be the only one of its content.
        """
        self._exported[claim.task.id] = claim
        self._wakeup.set()

    async def run(self) -> None:
        """Remove the copies of exported tasks, until cancelled."""
        while True:
            await self.discard_exported()
            with anyio.move_on_after(_REFRESH_SECONDS) as waiting:
                await self._wakeup.wait()
            if waiting.cancelled_caught:
                await self._refresh()
            self._wakeup = anyio.Event()

    async def discard_exported(self) -> None:
        """Remove the copies of the tasks that were exported so far."""
        async with self._removing:
            while self._exported:
                _, claim = self._exported.popitem()
                try:
                    await self._discard(claim)
                except DestinationError as error:
                    self._on_event(CopyFailed(claim.task, error))
                self._report_use()

    async def _discard(self, claim: Claim) -> None:
        task = claim.task
        copies = await self._find(task.id)
        same = [copy for copy in copies if await self._has_same_spec(copy, claim)]
        await self._require_no_difference(task, same)
        exported = [copy for copy in same if copy.record.state is CopyState.PARKED]
        hashes = self.exported_hashes.pop(task.id, {})
        downloads = {file.number for file in claim.spec.files if file.source == "url"}
        for copy in exported:
            for number, sha256 in copy.hashes.items():
                if number in downloads and hashes.get(number) != sha256:
                    raise ExportDiffers(task.id, number)
        for copy in exported:
            await self._remove(task, copy)
        if len(exported) == len(copies):
            self.task_ids.discard(task.id)
            self._changes += 1

    async def _write(
        self, writer: CopyWriter, same: Sequence[Copy], error: AlumaAsyncError
    ) -> tuple[Copy | None, list[tuple[Copy, int]]]:
        """Write a copy; return it, and the earlier copies that differ, each with the number of a file."""
        try:
            async with self._destination.open(writer.claim) as delivery:
                await writer.fetch(delivery)
                disputes = [
                    (old, number)
                    for old in same
                    if (number := await self._first_difference(writer.hashes, old)) is not None
                ]
                lacks_files = same and not writer.missing.keys() <= same[0].missing.keys()
                if lacks_files and (writer.state is CopyState.FAILED or not disputes):
                    raise NothingNew("the earlier copy has files that this one lacks")
                if writer.state is CopyState.PARKED and [old for old in same if await self._has_all(old, writer)]:
                    raise NothingNew("an earlier copy has the same files")
                if disputes:
                    writer.state = CopyState.PARKED
                await writer.finish(delivery, error, self._now())
        except BaseExceptionGroup as group:
            raise primary_error(group) from None
        receipt, copy = receipt_of(delivery), None
        if self._folder:
            copy = await self._in_folder(self._folder.read, writer.name)
            if copy.missing.keys() != writer.missing.keys():
                raise DestinationError(f"{copy.folder}: the copy is not as it was stored")
            receipt = copy.record.fingerprint
        if writer.state is CopyState.FAILED and not writer.missing:
            self._receipts[writer.claim.task.id] = receipt
            if self._folder and copy:
                lock = self._locks[writer.claim.task.id] = ExitStack()
                await self._in_folder(lock.enter_context, locked_copy(self._folder, copy, shared=True))
        return copy, disputes

    async def _has_all(self, old: Copy, writer: CopyWriter) -> bool:
        """Return whether an earlier copy has all files of one that is being written, with the same content."""
        if self._folder is None or not old.missing.keys() <= writer.missing.keys():
            return False
        if any(old.hashes[number] != sha256 for number, sha256 in writer.hashes.items()):
            return False
        return (await run_in_thread(self._folder.verify, old)).keys() == old.missing.keys()

    async def _find(self, task_id: str) -> list[Copy]:
        return await self._in_folder(self._folder.find, task_id) if self._folder else []

    async def _has_same_spec(self, copy: Copy, claim: Claim) -> bool:
        if self._folder is None or not claim.spec.received:
            return False
        with suppress(SourceError):
            return await run_in_thread(self._folder.read_specification, copy) == claim.spec.received
        return False

    async def _require_no_difference(self, task: ExportTask, copies: Sequence[Copy]) -> None:
        """Raise ``CopiesDiffer`` if copies of the same specification have a file with different hashes."""
        for copy, other in combinations(copies, 2):
            if (number := await self._first_difference(copy.hashes, other)) is not None:
                raise CopiesDiffer(task.id, number)

    async def _first_difference(self, hashes: Mapping[int, str], copy: Copy) -> int | None:
        """Return the number of a file with another hash; one that has changed since it was stored does not count."""
        is_intact = self._folder.is_intact if self._folder else lambda _copy, _number: False
        for number, sha256 in copy.hashes.items():
            differs = sha256 and hashes.get(number, "") not in ("", sha256)
            if differs and await run_in_thread(is_intact, copy, number):
                return number
        return None

    async def _reserve(self, task_id: str) -> str:
        """Return a new name for the folder of a copy."""
        async with self._reserving:  # because two copies must not get the same name
            name = next(folder_names(task_id))
            if self._folder:
                name = await self._in_folder(self._folder.fresh_name, task_id, frozenset(self._reserved))
            self._reserved.add(name)
            return name

    async def _remove(self, task: ExportTask, copy: Copy) -> None:
        """Remove a copy. If that is impossible, it stays and can be removed by hand."""
        try:
            if self._folder:
                await self._in_folder(self._folder.remove, copy)
        except DestinationError as error:
            self._on_event(CopyFailed(task, error))
        else:
            self._budget.used = max(0, self._budget.used - copy.size)

    @property
    def _is_nearly_full(self) -> bool:
        return bool(self._budget.max_bytes) and self._budget.used >= self._budget.max_bytes * NEARLY_FULL_SHARE

    async def _measure(self) -> None:
        if self._folder and not self._reserved:  # a copy in progress would be counted twice
            self._measured_at = loop_time()
            self._budget.used = await run_in_thread(self._folder.used_bytes)

    async def _in_folder(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step of the quarantine folder in a thread. Raises ``DestinationError``."""
        try:
            return await run_in_thread(step, *args, **kwargs)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DestinationError(f"quarantine {self._folder and self._folder.path}: {reason}") from error

    def _report_use(self) -> None:
        use = QuarantineUsed(len(self.task_ids), self._budget.used, self._budget.max_bytes)
        if use != self._reported_use:  # an event without a change would look like progress of the run
            self._on_event(use)
        self._reported_use = use
        if self._is_nearly_full and not self._reported_full:
            self._on_event(QuarantineNearlyFull(self._budget.used, self._budget.max_bytes))
        self._reported_full = self._is_nearly_full
