"""``SimulatedSource``: the simulated Aluma as a ``TaskSource`` in memory, with the faults as errors.

A request that has left is carried out even if the one who sent it is killed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio

from aluma_async.aluma import wire
from aluma_async.clock import loop_time
from aluma_async.exceptions import (
    Ambiguous,
    AuthenticationFailed,
    ClaimConflict,
    FileMissing,
    InvalidResponse,
    RateLimited,
    Unavailable,
    Unreachable,
)
from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.testing.faults import Fault, FaultPlan
from aluma_async.testing.simulator import NotFound, SimulatedAluma, StateConflict
from aluma_async.testing.virtual_time import UNOWNED_CONTEXT

T = TypeVar("T")

_NOT_DONE = {Fault.DROP_BEFORE, Fault.ERROR_BEFORE, Fault.HANG, Fault.HTML, Fault.LATE}
_NO_REPLY = {Fault.DROP_AFTER, Fault.ERROR_AFTER}
_GIVE_UP_SECONDS = 60.0


class SimulatedSource:
    """The same verbs, states and faults as over HTTP, without HTTP."""

    def __init__(self, aluma: SimulatedAluma, faults: FaultPlan | None = None) -> None:
        self._aluma = aluma
        self._faults = faults or FaultPlan()

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List, 100 rows at a time."""
        fault, rows = await self._request("list", lambda: b",".join(self._aluma.list_pending()), changes=False)
        decoder = wire.ListingDecoder(lambda _: None)
        decoder.feed(b'{"tasks":[' + rows + b"]}")
        tasks = decoder.close()
        for start in range(0, len(tasks), 100):
            yield tasks[start : start + 100]
            if fault is Fault.TRUNCATE:
                raise Unavailable("list tasks: connection lost")

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task."""
        with anyio.CancelScope(shield=True):
            sent_at = loop_time()
            fault, body = await self._change("start", task, lambda: self._aluma.start(task.id))
            if fault is Fault.TRUNCATE:
                raise InvalidResponse(f"start task {task.id}: cut short")
            return Claim(task, wire.export_spec(body), sent_at)
        raise AssertionError  # a shielded scope swallows nothing

    @asynccontextmanager
    async def open_file(self, claim: Claim, file: ExportFile) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a download."""
        _, _, collection, _, name = file.url.split("/")
        try:
            fault, body = await self._request("file", lambda: self._aluma.file(collection, name), changes=False)
        except NotFound:
            raise FileMissing(f"file {file.number} of task {claim.task.id} is not there") from None
        yield _chunks(body, cut=fault is Fault.TRUNCATE)

    async def complete(self, task: ExportTask) -> None:
        """Complete."""
        with anyio.CancelScope(shield=True):
            await self._change("complete", task, lambda: self._aluma.complete(task.id))

    async def cancel(self, task: ExportTask) -> None:
        """Cancel."""
        with anyio.CancelScope(shield=True):
            await self._change("cancel", task, lambda: self._aluma.cancel(task.id))

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail."""
        with anyio.CancelScope(shield=True):
            await self._change("fail", task, lambda: self._aluma.fail(task.id, message))

    async def state(self, task: ExportTask) -> str | None:
        """Look up a task's state."""
        try:
            _, row = await self._request("get", lambda: self._aluma.get(task.id), changes=False)
        except NotFound:
            return None
        return wire.decode_state(row)

    async def _change(self, verb: str, task: ExportTask, act: Callable[[], T]) -> tuple[Fault | None, T]:
        try:
            return await self._request(verb, act, changes=True)
        except (StateConflict, NotFound):
            raise ClaimConflict(f"{verb} task {task.id}: refused") from None

    async def _request(self, verb: str, act: Callable[[], T], *, changes: bool) -> tuple[Fault | None, T]:
        """Send a request: what goes wrong with it, and what it brought. Raises what a client would."""
        self._aluma.request_started()
        try:
            fault = self._faults.next(verb)
            latency = self._aluma.behaviour.latency_seconds
            if fault is Fault.LATE and changes:
                asyncio.get_running_loop().call_later(
                    self._faults.seconds(fault), _ignore_conflict, act, context=UNOWNED_CONTEXT
                )
            if fault in _NOT_DONE or fault in (Fault.THROTTLE, Fault.UNAUTHORISED):
                await anyio.sleep(_GIVE_UP_SECONDS if fault in (Fault.HANG, Fault.LATE) else latency)
                raise _refusal(fault, changes=changes)
            result = await self._carry_out(act, latency)
            if fault is Fault.SLOW:
                await anyio.sleep(self._faults.seconds(fault))
            if fault in _NO_REPLY:
                raise (Ambiguous if changes else Unavailable)(f"no reply ({fault})")
            return fault, result
        finally:
            self._aluma.request_finished()

    async def _carry_out(self, act: Callable[[], T], latency: float) -> T:
        """Half the latency there, half back."""
        if not latency:
            return act()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T | StateConflict | NotFound] = loop.create_future()

        def arrived() -> None:
            result: T | StateConflict | NotFound
            try:
                result = act()
            except (StateConflict, NotFound) as error:
                result = error
            if not done.done():
                done.set_result(result)

        loop.call_later(latency / 2, arrived, context=UNOWNED_CONTEXT)
        result = await done
        await anyio.sleep(latency / 2)
        if isinstance(result, StateConflict | NotFound):
            raise result
        return result


def _refusal(fault: Fault | None, *, changes: bool) -> Exception:
    match fault:
        case Fault.THROTTLE:
            return RateLimited("too many requests", retry_after=1.0)
        case Fault.UNAUTHORISED:
            return AuthenticationFailed("no token is good")
        case Fault.DROP_BEFORE if not changes:
            return Unreachable("no connection")
    return (Ambiguous if changes else Unavailable)(f"no reply ({fault})")


def _ignore_conflict(act: Callable[[], object]) -> None:
    with suppress(StateConflict, NotFound):
        act()


async def _chunks(body: bytes, *, cut: bool) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 64 * 1024):
        yield body[start : start + 64 * 1024]
        if cut:
            raise InvalidResponse("the reply was cut short")
