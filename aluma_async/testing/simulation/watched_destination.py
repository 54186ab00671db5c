"""``WatchedDestination``: a destination in memory whose faults, sick places and crash points a plan determines."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Literal, TypeAlias

import anyio

from aluma_async.clock import loop_time
from aluma_async.exceptions import DestinationError, DestinationUnavailable, SchemaMismatch
from aluma_async.models import Claim, ExportFile
from aluma_async.testing.destination import MemoryDelivery, MemoryDestination
from aluma_async.testing.simulation.invariants import Instance
from aluma_async.testing.simulation.misbehaviour import Sickness

Step: TypeAlias = Literal["open", "commit"]
_STEPS: tuple[Step, ...] = ("open", "commit")
_SICKNESS_ERRORS: Mapping[Sickness, Callable[[], BaseException]] = {
    Sickness.ERROR: partial(DestinationError, "cannot write to this folder"),
    Sickness.UNAVAILABLE: partial(DestinationUnavailable, "this folder is on a disk that is full"),
    Sickness.EXCEPTION: ZeroDivisionError,
    Sickness.CANCELLED: asyncio.CancelledError,
    Sickness.EXIT: partial(SystemExit, 3),
}


class DestinationFaults:
    """Faults of a destination.

    Args:
        rng: Random decisions.
        broken: Probability that a step fails.
        slow: Probability that a step takes longer.
        away: Start and end of the times at which the destination is unavailable.
        refused: Ids of the tasks whose content the destination refuses.
        sick: Ids of the tasks whose place is defective, and how.
        probe_raises: Whether the probe raises an exception of another kind while the destination is unavailable.
    """

    def __init__(
        self,
        rng: random.Random,
        broken: float,
        slow: float,
        away: Sequence[tuple[float, float]],
        refused: Collection[str] = (),
        sick: Mapping[str, Sickness] = MappingProxyType({}),
        *,
        probe_raises: bool = False,
    ) -> None:
        self._refused = refused
        self._sick = sick
        self._ended = False
        self._probe_raises = probe_raises
        self._rng = rng
        self._broken = broken
        self._slow = slow
        self._away = away

    def end(self) -> None:
        """Remove all faults."""
        self._broken = self._slow = 0.0
        self._away = ()
        self._refused = ()
        self._ended = True

    def is_sick(self, task_id: str) -> bool:
        """Return whether the place of a task is defective, until the end of the faults."""
        return task_id in self._sick

    def probe(self) -> None:
        """Raise the error of a probe, if the destination is unavailable now."""
        try:
            self.raise_if_away()
        except DestinationUnavailable:
            if self._probe_raises:
                raise ZeroDivisionError from None
            raise

    async def raise_if_sick(self, task_id: str, step: Step) -> None:
        """Raise the error of a task's place, or never return, at one of the steps of a delivery."""
        if task_id in self._sick and not self._ended and step == random.Random(task_id).choice(_STEPS):
            if self._sick[task_id] is Sickness.LEAK:
                if running := asyncio.current_task():
                    running.cancel()
                return
            if self._sick[task_id] is Sickness.SILENT:
                await anyio.sleep(random.Random(f"silent/{task_id}").choice((200.0, float("inf"))))
                return
            make_error = _SICKNESS_ERRORS[self._sick[task_id]]
            raise make_error()

    def raise_if_refused(self, task_id: str) -> None:
        """Raise ``SchemaMismatch`` if the content of a task does not fit the table at present."""
        if task_id in self._refused:
            raise SchemaMismatch("a value is too long for its column")

    def raise_if_away(self) -> None:
        """Raise ``DestinationUnavailable`` if the destination is unavailable now."""
        if any(start <= loop_time() < end for start, end in self._away):
            raise DestinationUnavailable("the disk is full")

    async def inject(self) -> None:
        """Delay a step, or let it fail."""
        if self._slow and self._rng.random() < self._slow:
            await anyio.sleep(self._rng.choice((1, 20, 400, 1600)))
        self.raise_if_away()
        if self._broken and self._rng.random() < self._broken:
            raise DestinationError("cannot write a file")


class WatchedDestination:
    """A destination in memory with faults, and with crash points between its steps."""

    def __init__(
        self, store: MemoryDestination, instance: Instance, faults: DestinationFaults, *, may_refuse: bool = False
    ) -> None:
        self._may_refuse = may_refuse
        self._store = store
        self._instance = instance
        self._faults = faults

    async def probe(self) -> None:
        await self._instance.crash_point()
        self._faults.probe()

    async def verify(self, receipt: str) -> bool:
        await self._instance.crash_point()
        self._faults.raise_if_away()
        return any(receipt == _receipt(task_id, files) for task_id, files in self._store.tasks.items())

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator["WatchedDelivery"]:
        delivery = MemoryDelivery(self._store)
        watched = WatchedDelivery(delivery, self._instance, self._faults)
        if self._may_refuse:
            self._instance.on_delivery(claim.task)
            await self._faults.raise_if_sick(claim.task.id, "open")
        yield watched
        await self._instance.crash_point()
        if self._may_refuse:
            await self._faults.raise_if_sick(claim.task.id, "commit")
            self._faults.raise_if_refused(claim.task.id)
        await self._faults.inject()
        self._store.tasks[claim.task.id] = delivery.files
        watched.receipt = _receipt(claim.task.id, delivery.files)
        await self._instance.crash_point()


def _receipt(task_id: str, files: Mapping[tuple[str, str, int], bytes]) -> str:
    """Return a text that is different for each content of a task."""
    return hashlib.sha256(repr((task_id, sorted(files.items()))).encode()).hexdigest()


class WatchedDelivery:
    """The files of one claim."""

    receipt = ""

    def __init__(self, delivery: MemoryDelivery, instance: Instance, faults: DestinationFaults) -> None:
        self._delivery = delivery
        self._instance = instance
        self._faults = faults

    def resumable_size(self, file: ExportFile) -> int | None:
        return self._delivery.resumable_size(file)

    async def omit(self, file: ExportFile) -> None:
        await self._delivery.omit(file)

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        await self._instance.crash_point()
        await self._delivery.save(file, chunks)
        await self._faults.inject()
