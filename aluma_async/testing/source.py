"""``SimulatedSource``: the simulated Aluma as a ``TaskSource`` in memory, with the faults as errors."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from aluma_async.aluma import wire
from aluma_async.exceptions import Ambiguous, BadReply, FileMissing, RateLimited, Refused, Unavailable
from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.testing.aluma import Conflict, SimulatedAluma, Unknown
from aluma_async.testing.faults import Fault, FaultPlan

T = TypeVar("T")

_NOT_DONE = {Fault.DROP_BEFORE, Fault.ERROR_BEFORE, Fault.HANG, Fault.HTML}
_DONE = {Fault.DROP_AFTER, Fault.ERROR_AFTER}
_HANG_SECONDS = 60.0


class SimulatedSource:
    """The same verbs, states and faults as over HTTP, without HTTP."""

    def __init__(self, aluma: SimulatedAluma, faults: FaultPlan | None = None) -> None:
        self._aluma = aluma
        self._faults = faults or FaultPlan()

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List, 100 rows at a time."""
        fault = await self._arrive("list")
        self._raise_before(fault, changes=False)
        decoder = wire.ListingDecoder(lambda _: None)
        decoder.feed(b'{"tasks":[' + b",".join(self._aluma.list_pending()))
        decoder.feed(b"]}")
        tasks = decoder.close()
        for start in range(0, len(tasks), 100):
            yield tasks[start : start + 100]
            if fault in _DONE or fault is Fault.TRUNCATE:
                raise Unavailable("list tasks: connection lost")

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task."""
        with anyio.CancelScope(shield=True):
            fault = await self._arrive("start")
            sent_at = anyio.current_time()
            self._raise_before(fault, changes=True)
            try:
                body = self._aluma.start(task.id)
            except (Conflict, Unknown):
                raise Refused(f"start task {task.id}: refused") from None
            self._raise_after(fault)
            if fault is Fault.TRUNCATE:
                raise BadReply(f"start task {task.id}: cut short")
            return Claim(task, wire.export_spec(body), sent_at)
        raise AssertionError  # a shielded scope swallows nothing

    @asynccontextmanager
    async def open_file(self, claim: Claim, file: ExportFile) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a download."""
        fault = await self._arrive("file")
        self._raise_before(fault, changes=False)
        _, _, collection, _, name = file.url.split("/")
        try:
            body = self._aluma.file(collection, name)
        except Unknown:
            raise FileMissing(f"file {file.number} of task {claim.task.id} is not there") from None
        yield _pieces(body, cut=fault in _DONE or fault is Fault.TRUNCATE)

    async def complete(self, task: ExportTask) -> None:
        """Complete."""
        await self._change("complete", task)

    async def cancel(self, task: ExportTask) -> None:
        """Cancel."""
        await self._change("cancel", task)

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail."""
        await self._change("fail", task, message)

    async def state(self, task: ExportTask) -> str | None:
        """Look up a task's state."""
        self._raise_before(await self._arrive("get"), changes=False)
        try:
            return wire.state(self._aluma.get(task.id))
        except Unknown:
            return None

    async def _change(self, verb: str, task: ExportTask, *said: str) -> None:
        with anyio.CancelScope(shield=True):
            fault = await self._arrive(verb)
            self._raise_before(fault, changes=True)
            try:
                getattr(self._aluma, verb)(task.id, *said)
            except (Conflict, Unknown):
                raise Refused(f"{verb} task {task.id}: refused") from None
            self._raise_after(fault)

    async def _arrive(self, verb: str) -> Fault | None:
        self._aluma.arrive()
        try:
            fault = self._faults.next(verb)
            await anyio.sleep(_HANG_SECONDS if fault is Fault.HANG else self._aluma.behaviour.latency_seconds)
            return fault
        finally:
            self._aluma.leave()

    def _raise_before(self, fault: Fault | None, *, changes: bool) -> None:
        if fault is Fault.THROTTLE:
            raise RateLimited("too many requests", retry_after=1.0)
        if fault in _NOT_DONE:
            raise (Ambiguous if changes else Unavailable)(f"no reply ({fault})")

    def _raise_after(self, fault: Fault | None) -> None:
        if fault in _DONE:
            raise Ambiguous(f"no reply ({fault})")


async def _pieces(body: bytes, *, cut: bool) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 64 * 1024):
        yield body[start : start + 64 * 1024]
        if cut:
            raise BadReply("the reply was cut short")
