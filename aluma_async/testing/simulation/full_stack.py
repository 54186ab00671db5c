"""``FullSchedule``: a schedule with the real client and an HTTP server, connected in memory, real files and SQLite.

Files and journal are on a memory file system if there is one. A blocking call is one step of the loop, so this does not
show the effects of a crash during such a call, nor those of a power failure.
"""

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import aiohttp
from aiohttp import web

from aluma_async.aluma.client import AlumaClient
from aluma_async.aluma.download import DownloadLimits
from aluma_async.clock import loop_time
from aluma_async.config import Credentials
from aluma_async.destinations.folder.destination import FolderDestination
from aluma_async.exceptions import JournalError
from aluma_async.journal import reader
from aluma_async.journal.records import Record
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.models import Claim
from aluma_async.pipeline.exporter import Exporter
from aluma_async.pipeline.throttle import Throttle
from aluma_async.policy.naming import INTERNAL_FOLDER
from aluma_async.ports import CHECK_LEASE, Delivery
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.quarantine.records import CopyState
from aluma_async.testing.faults import WrongReply
from aluma_async.testing.http_app import simulated_app
from aluma_async.testing.memory_connector import MemoryConnector
from aluma_async.testing.simulation.invariants import Instance
from aluma_async.testing.simulation.misbehaviour import Loss
from aluma_async.testing.simulation.plans import CLAIM_TIMEOUT
from aluma_async.testing.simulation.schedule import Schedule
from aluma_async.testing.simulation.stalls import MIN_BYTES_PER_SECOND, stall_requests
from aluma_async.testing.simulation.watched import (
    WatchedAluma,
    WatchedRequestLimiter,
    WatchedSource,
)
from aluma_async.testing.simulation.watched_destination import DestinationFaults

_SHM = Path("/dev/shm")  # noqa: S108 - temporary files
_BASE_URL = "http://aluma.test/v1"
_MAX_AT_ONCE = 5


class FullSchedule(Schedule):
    """Runs a plan with the real components."""

    is_full_stack = True

    def _prepare(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="aluma-async-", dir=_SHM if _SHM.is_dir() else None))
        self._aluma = WatchedAluma(
            self._plan.tasks, seed=self._plan.seed, profile=self.profile, behaviour=self._plan.behaviour, now=self._now
        )
        self._aluma.watch(self._checker, self._plan)
        self._out = [self._folder / "out"]
        self._aluma.saved = lambda _: (data for root in self._out for data in self._visible_files(root))
        self._aluma.quarantined = lambda _: (
            data for root in self._folder.glob("quarantine-*") for data in self._visible_files(root)
        )
        self._expected = {data for task_id in self._aluma.ids() for _, _, data in self._aluma.expected(task_id)}
        self._suspending = random.Random(f"suspensions/{self._plan.seed}")
        self._runner: web.AppRunner | None = None
        self._connectors: dict[int, MemoryConnector] = {}

    @asynccontextmanager
    async def _exporter(self, instance: Instance) -> AsyncIterator[Exporter]:
        server = await self._server()
        journal = _WatchedSqlite(self._folder / f"state-{instance.number}", instance)
        instance.journal = journal
        connector = self._connectors[instance.number] = MemoryConnector(server)
        settings = self._settings(instance)
        throttle = Throttle(
            _MAX_AT_ONCE,
            adaptive=self._plan.seed % 3 > 0,
            uniform=settings["uniform"],
            on_event=instance.on_event,
        )
        copies = self._folder / f"quarantine-{instance.number}"
        folders = [FolderDestination(self._out[-1]), FolderDestination(copies, on_conflict="overwrite")]
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                credentials = Credentials(self._aluma.client_id, self._aluma.client_secret)
                request_limiter = WatchedRequestLimiter(throttle, _MAX_AT_ONCE, self._checker)
                client = AlumaClient(
                    session,
                    _BASE_URL,
                    credentials,
                    downloads=DownloadLimits(min_bytes_per_second=MIN_BYTES_PER_SECOND),
                    request_limiter=request_limiter,
                    on_event=instance.on_event,
                )
                out, quarantine = (
                    _WatchedFolder(folder, instance, self._destination_faults, may_refuse=number == 0)
                    for number, folder in enumerate(folders)
                )
                out.suspension = self._suspension
                yield Exporter(
                    WatchedSource(client, instance, self._aluma),
                    out,
                    quarantine=quarantine,
                    quarantine_folder=copies,
                    journal=journal,
                    **settings,
                )
                self._checker.require(not throttle.in_flight, "a permit is not released after the end")
        finally:
            journal.close()
            for folder in folders:
                folder.close()

    def _suspension(self, claim: Claim) -> "_Suspension | None":
        """Return a suspension during the delivery of a claim, at random; None: there is none."""
        probability = self._plan.misbehaviour.suspended
        if not probability or loop_time() >= self._plan.faulty_seconds or self._suspending.random() >= probability:
            return None
        after = self._suspending.randint(1, len(claim.spec.files))  # the last file is renamed after it
        return _Suspension(CHECK_LEASE.get(), after, lambda: self._sleep_machine(CLAIM_TIMEOUT))

    async def _server(self) -> web.Server:
        if self._runner is None:
            app = simulated_app(self._aluma, self._faults, "/v1")
            stalled = {self._aluma.ids()[number]: stall for number, stall in self._plan.misbehaviour.stalled.items()}
            if stalled:
                faulty_seconds = self._plan.faulty_seconds
                app.middlewares.append(stall_requests(stalled, lambda: loop_time() >= faulty_seconds))
            self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
            await self._runner.setup()
        assert self._runner.server
        return self._runner.server

    def _on_kill(self, instance: Instance) -> None:
        if isinstance(instance.journal, _WatchedSqlite):
            instance.journal.crash()
        if connector := self._connectors.get(instance.number):
            connector.cut()
        self._check_visible_files()

    def _lose(self, loss: Loss) -> None:
        out = self._out[-1]
        if loss is Loss.FILE:
            wanted = {
                data
                for task_id in self._aluma.ids()
                if self._aluma.is_unsettled(task_id)
                for _, _, data in self._aluma.expected(task_id)
            }
            lost = (path for path in sorted(self._visible_paths(out)) if path.read_bytes() in wanted)
            for path in islice(lost, 1):
                path.unlink()
        else:
            for root in self._folder.glob("quarantine*" if loss is Loss.QUARANTINE else out.name):
                shutil.rmtree(root)

    def _empty_quarantines(self) -> None:
        for copy in self._folder.glob("quarantine*/[!.]*"):
            shutil.rmtree(copy)

    def _change_destination(self) -> None:
        self._out.append(self._folder / f"out-{len(self._out)}")

    def _check_final_state(self) -> None:
        super()._check_final_state()
        self._check_visible_files()
        self._check_copies()
        limit = _MAX_AT_ONCE * self._plan.instances
        peak = self._aluma.in_flight_peak
        self._checker.require(peak <= limit, f"{peak} requests in flight, and the limit is {limit}")

    def _check_copies(self) -> None:
        """Require that each copy in a quarantine agrees with its record, and has the bytes of its task."""
        damaged = WrongReply.DAMAGED_TEXT in self._plan.misbehaviour.replies
        for path in self._folder.glob("quarantine-*"):
            folder = QuarantineFolder(path)
            for copy in folder.copies()[0]:
                intact = folder.verify(copy).keys() == copy.missing.keys()
                self._checker.require(intact, f"the copy {copy.folder.name} has changed since it was stored")
                expected = Counter(data for *_, data in self._aluma.expected(copy.task_id))
                files = [number for number in copy.record.paths() if number not in copy.missing]
                stored = Counter(b"".join(folder.read_file(copy, number)) for number in files)
                # The copy of an unexportable task, or after a damaged response, has a text that is not valid Unicode.
                is_unexportable = damaged or self._aluma.is_unexportable(copy.task_id)
                if copy.record.state is CopyState.PARKED and not is_unexportable:
                    self._checker.require(not stored - expected, f"the copy {copy.folder.name} has bytes of no file")
                if copy.is_complete and not self._aluma.quirk(copy.task_id):
                    self._checker.require(not expected - stored, f"the copy {copy.folder.name} is not complete")

    def _check_visible_files(self) -> None:
        """Require that all visible files are complete."""
        for data in (data for root in self._out for data in self._visible_files(root)):
            self._checker.require(
                data in self._expected, f"a visible file of {len(data)} bytes equals no expected file"
            )

    def _visible_files(self, root: Path) -> Iterator[bytes]:
        return (path.read_bytes() for path in self._visible_paths(root))

    def _visible_paths(self, root: Path) -> Iterator[Path]:
        for path in root.rglob("*"):
            if path.is_file() and INTERNAL_FOLDER not in path.relative_to(root).parts:
                yield path

    async def _clean_up(self) -> None:
        if self._runner:
            await self._runner.cleanup()
        shutil.rmtree(self._folder)


class _Suspension:
    """A check of the lease after which, once it was called ``calls`` times, the machine sleeps."""

    def __init__(self, check: Callable[[], object], calls: int, sleep: Callable[[], None]) -> None:
        self._check = check
        self._calls = calls
        self._sleep = sleep

    def __call__(self) -> None:
        self._check()
        self._calls -= 1
        if not self._calls:
            self._sleep()

    @property
    def has_happened(self) -> bool:
        """Whether the machine has slept."""
        return self._calls <= 0


class _WatchedFolder:
    """The real folder destination, with faults and crash points."""

    def __init__(
        self, folder: FolderDestination, instance: Instance, destination_faults: DestinationFaults, *, may_refuse: bool
    ) -> None:
        self._folder = folder
        self._may_refuse = may_refuse
        self._instance = instance
        self._destination_faults = destination_faults
        self.suspension: Callable[[Claim], _Suspension | None] = lambda _: None

    async def probe(self) -> None:
        await self._instance.crash_point()
        self._destination_faults.probe()
        await self._folder.probe()

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Delivery]:
        if self._may_refuse:
            self._instance.on_delivery(claim.task)
            await self._destination_faults.raise_if_sick(claim.task.id, "open")
        suspension = self.suspension(claim)
        token = CHECK_LEASE.set(suspension or CHECK_LEASE.get())
        opened = self._folder.open(claim)
        CHECK_LEASE.reset(token)
        async with opened as delivery:
            yield delivery
            await self._instance.crash_point()
            if self._may_refuse:
                await self._destination_faults.raise_if_sick(claim.task.id, "commit")
                self._destination_faults.raise_if_refused(claim.task.id)
            await self._destination_faults.inject()
        is_late = suspension is not None and suspension.has_happened
        self._instance.checker.require(not is_late, f"{claim.task.id} was published although its lease had ended")
        await self._instance.crash_point()

    async def verify(self, receipt: str) -> bool:
        await self._instance.crash_point()
        self._destination_faults.raise_if_away()
        return await self._folder.verify(receipt)


class _WatchedSqlite(SqliteJournal):
    """The real journal, which can fail to write, with crash points before and after each write."""

    def __init__(self, folder: Path, instance: Instance) -> None:
        super().__init__(folder, on_event=instance.on_event)
        self._instance = instance

    async def flush(self) -> None:
        if self._batcher.pending:
            await self._instance.crash_point()
            if loop_time() < self._instance.journal_broken_until:
                raise JournalError("the journal's disk is full")
        await super().flush()
        await self._instance.crash_point()

    def durable(self) -> Sequence[Record]:
        """Return the records that the next process would load."""
        return reader.read_records(self._folder)

    def crash(self) -> None:
        """Close the journal as the system does after a crash: pending changes are lost."""
        self._batcher.pending.clear()
        self.close()
