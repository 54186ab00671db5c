"""``SimulatedSource``: the simulated Aluma as a ``TaskSource`` in memory; faults become exceptions.

A request that was sent is executed even if the process that sent it is killed.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import anyio

from aluma_async.aluma import wire
from aluma_async.aluma.listing import ListingDecoder
from aluma_async.clock import loop_time
from aluma_async.config.config import REQUEST_TIMEOUT_SECONDS
from aluma_async.exceptions import (
    Ambiguous,
    AuthenticationFailed,
    ClaimConflict,
    FileMissing,
    InvalidResponse,
    RateLimited,
    RequestRejected,
    SourceError,
    Unavailable,
    Unreachable,
)
from aluma_async.models import Claim, ExportFile, ExportTask, TaskState
from aluma_async.testing.faults import (
    LONG_PAUSE_SECONDS,
    PROXY_REPLIES,
    WRONG_FILES,
    AnyFault,
    Fault,
    FaultPlan,
    WrongReply,
)
from aluma_async.testing.simulator import NotFound, SimulatedAluma, StateConflict
from aluma_async.testing.virtual_loop import UNOWNED_CONTEXT

T = TypeVar("T")

_NOT_EXECUTED = {Fault.DROP_BEFORE, Fault.ERROR_BEFORE, Fault.HANG, Fault.HTML, Fault.LATE}
_NO_RESPONSE = {Fault.DROP_AFTER, Fault.ERROR_AFTER}


class SimulatedSource:
    """The same requests, states and faults as ``simulated_app``, without HTTP."""

    def __init__(self, aluma: SimulatedAluma, faults: FaultPlan | None = None) -> None:
        self._aluma = aluma
        self._faults = faults or FaultPlan()

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """Yield the pending tasks, 100 at a time."""
        fault, rows = await self._request("list", lambda: b",".join(self._aluma.list_pending()), changes=False)
        decoder = ListingDecoder(lambda _: None)
        tasks = decoder.feed(b'{"tasks":[' + rows + b"]}")
        tasks += decoder.close()
        for start in range(0, len(tasks), 100):
            yield tasks[start : start + 100]
            if fault is Fault.TRUNCATE:
                raise Unavailable("list tasks: no response (truncate)")

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task."""
        with anyio.CancelScope(shield=True):
            sent_at = loop_time()
            fault, body = await self._change("start", task, lambda: self._aluma.start(task.id))
            if fault is Fault.TRUNCATE:
                raise InvalidResponse(f"start task {task.id}: the response is incomplete")
            return Claim(task, wire.export_spec(self._aluma.changed(body, fault)), sent_at)
        raise AssertionError  # a shielded scope cancels nothing

    @asynccontextmanager
    async def open_file(self, claim: Claim, file: ExportFile) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the download of a file."""
        operation = f"download file {file.number} of task {claim.task.id}"
        if file.url.startswith("https:"):
            raise SourceError(f"{operation}: url is on another host")
        *_, collection, _, name = file.url.split("/")
        try:
            fault, body = await self._request("file", lambda: self._aluma.file(collection, name), changes=False)
        except NotFound:
            raise FileMissing(f"{operation}: not found") from None
        if fault in WRONG_FILES:
            raise InvalidResponse(f"{operation}: not the requested file ({fault})")
        async with aclosing(_chunks(body, truncated=fault is Fault.TRUNCATE)) as chunks:
            yield chunks

    async def complete(self, task: ExportTask) -> None:
        """Complete a task."""
        with anyio.CancelScope(shield=True):
            await self._change("complete", task, lambda: self._aluma.complete(task.id))

    async def cancel(self, task: ExportTask) -> None:
        """Cancel a claim."""
        with anyio.CancelScope(shield=True):
            await self._change("cancel", task, lambda: self._aluma.cancel(task.id))

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail a task."""
        with anyio.CancelScope(shield=True):
            await self._change("fail", task, lambda: self._aluma.fail(task.id, message))

    async def state(self, task: ExportTask) -> str | None:
        """Return the state of a task, or None if there is no such task."""
        try:
            fault, row = await self._request("get", lambda: self._aluma.get(task.id), changes=False)
            return "maintenance" if fault is WrongReply.MAINTENANCE else wire.decode_state(row)
        except NotFound:  # the answer may be a proxy's
            for state in (TaskState.CLAIMED, TaskState.PENDING):
                _, ids = await self._request("list", partial(self._aluma.ids, state), changes=False)
                if task.id in ids:
                    return state
        return None

    async def _change(self, verb: str, task: ExportTask, call: Callable[[], T]) -> tuple[AnyFault | None, T]:
        try:
            return await self._request(verb, call, changes=True)
        except (StateConflict, NotFound):
            raise ClaimConflict(f"{verb} task {task.id}: conflict with the task's state") from None

    async def _request(self, verb: str, call: Callable[[], T], *, changes: bool) -> tuple[AnyFault | None, T]:
        """Send a request; return its fault and its result. Raises the same errors as ``AlumaClient``."""
        self._aluma.request_started()
        try:
            fault = self._faults.next(verb)
            latency = self._aluma.behaviour.latency_seconds
            if fault in PROXY_REPLIES:
                await anyio.sleep(latency)
                raise _proxy_error(fault, verb, changes=changes)
            if fault is WrongReply.LONG_PAUSE:
                await anyio.sleep(latency)
                raise (Ambiguous if changes else Unavailable)(f"{verb}: 503", retry_after=LONG_PAUSE_SECONDS)
            if fault is Fault.LATE and changes:
                asyncio.get_running_loop().call_later(
                    self._faults.seconds(fault), _ignore_conflict, call, context=UNOWNED_CONTEXT
                )
            if fault in _NOT_EXECUTED or fault in (Fault.THROTTLE, Fault.UNAUTHORISED):
                await anyio.sleep(REQUEST_TIMEOUT_SECONDS if fault in (Fault.HANG, Fault.LATE) else latency)
                raise _error(fault, changes=changes)
            result = await self._execute(call, latency)
            if fault is WrongReply.BLOCKED:
                raise RequestRejected(f"{verb}: a web page answered 403")
            if fault is WrongReply.OTHER_SPECIFICATION:
                raise Ambiguous(f"{verb}: received the specification of another task")
            if fault is WrongReply.OTHER_SUCCESS:
                raise Ambiguous(f"{verb}: unexpected status 201")
            if fault is Fault.SLOW:
                await anyio.sleep(self._faults.seconds(fault))
            if fault in _NO_RESPONSE:
                raise (Ambiguous if changes else Unavailable)(f"no response ({fault})")
            return fault, result
        finally:
            self._aluma.request_finished()

    async def _execute(self, call: Callable[[], T], latency: float) -> T:
        """Execute a request after half the latency, and return its result after the other half."""
        if not latency:
            return call()
        loop = asyncio.get_running_loop()
        executed: asyncio.Future[T | StateConflict | NotFound] = loop.create_future()

        def execute() -> None:
            result: T | StateConflict | NotFound
            try:
                result = call()
            except (StateConflict, NotFound) as error:
                result = error
            if not executed.done():
                executed.set_result(result)

        loop.call_later(latency / 2, execute, context=UNOWNED_CONTEXT)
        result = await executed
        await anyio.sleep(latency / 2)
        if isinstance(result, StateConflict | NotFound):
            raise result
        return result


def _proxy_error(fault: AnyFault | None, verb: str, *, changes: bool) -> Exception:
    """Return what the client raises for a reply of a proxy."""
    if fault is WrongReply.LOG_IN:
        return AuthenticationFailed("no token is valid")
    if fault is WrongReply.NOT_FOUND and (changes or verb in ("file", "get")):
        return NotFound()
    return (RequestRejected if changes else SourceError)(f"{verb}: refused ({fault})")


def _error(fault: AnyFault | None, *, changes: bool) -> Exception:
    match fault:
        case Fault.THROTTLE:
            return RateLimited("too many requests", retry_after=1.0)
        case Fault.UNAUTHORISED:
            return AuthenticationFailed("no token is valid")
        case Fault.DROP_BEFORE if not changes:
            return Unreachable("no connection")
    return (Ambiguous if changes else Unavailable)(f"no response ({fault})")


def _ignore_conflict(call: Callable[[], object]) -> None:
    with suppress(StateConflict, NotFound):
        call()


async def _chunks(body: bytes, *, truncated: bool) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(body), 64 * 1024):
        yield body[start : start + 64 * 1024]
        if truncated:
            raise InvalidResponse("the response is incomplete")
