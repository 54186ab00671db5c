"""``Resilient``: a ``TaskSource`` around a ``TaskSource`` that repeats what may be repeated.

Reads are repeated after any error that may pass. Start is repeated only if it was surely not carried out.
Complete, Cancel and Fail are repeated even if they may have been: carried out twice, the second is refused,
and then the first one was ours. A download is not repeated here, since what was already handed on
cannot be taken back; ``repeat`` serves the one who can begin it anew.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from itertools import count
from typing import ParamSpec, TypeVar

import anyio

from aluma_async.events import RequestRetried
from aluma_async.exceptions import AlumaAsyncError, Ambiguous, ClaimConflict, RateLimited, Unavailable
from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.policy.backoff import RetryPolicy
from aluma_async.ports import OnEvent, TaskSource, Uniform

P = ParamSpec("P")
T = TypeVar("T")


class RetryingSource:
    """Wraps ``source``; ``retry`` says how often and how slowly. ``RateLimited`` does not count as an attempt."""

    def __init__(self, source: TaskSource, retry: RetryPolicy, *, uniform: Uniform, on_event: OnEvent) -> None:
        self._source = source
        self._retry = retry
        self._uniform = uniform
        self._on_event = on_event

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List; a listing that broke begins anew, so tasks may come twice."""
        pause: _RetryDelay | None = None
        while True:
            try:
                async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
                    async for tasks in pages:
                        yield tasks
                return
            except AlumaAsyncError as error:
                pause = pause or _RetryDelay(self, "list tasks")
                await pause.sleep_or_raise(error, again=error.retryable)

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task; repeated only where it was surely not carried out."""
        pause: _RetryDelay | None = None
        while True:
            try:
                return await self._source.start(task)
            except AlumaAsyncError as error:
                pause = pause or _RetryDelay(self, f"start task {task.id}")
                await pause.sleep_or_raise(error, again=isinstance(error, Unavailable))

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a download, once."""
        return self._source.open_file(claim, file)

    async def complete(self, task: ExportTask) -> None:
        """Complete until an answer is certain."""
        await self._settle("complete", self._source.complete, task)

    async def cancel(self, task: ExportTask) -> None:
        """Cancel until an answer is certain."""
        await self._settle("cancel", self._source.cancel, task)

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail until an answer is certain."""
        await self._settle("fail", self._source.fail, task, message)

    async def state(self, task: ExportTask) -> str | None:
        """Look up a task's state."""
        return await self.retry(f"look up task {task.id}", self._source.state, task)

    async def retry(self, request: str, step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step that may be run again; repeat it after each error that may pass."""
        pause: _RetryDelay | None = None
        while True:
            try:
                return await step(*args, **kwargs)
            except AlumaAsyncError as error:
                pause = pause or _RetryDelay(self, request)
                await pause.sleep_or_raise(error, again=error.retryable)

    async def _settle(self, verb: str, say: Callable[..., Awaitable[None]], task: ExportTask, *more: str) -> None:
        pause: _RetryDelay | None = None
        doubtful = False
        while True:
            try:
                return await say(task, *more)
            except ClaimConflict:
                if not doubtful:
                    raise
                return None  # an earlier one was carried out, and its answer was lost
            except AlumaAsyncError as error:
                doubtful = doubtful or isinstance(error, Ambiguous)
                pause = pause or _RetryDelay(self, f"{verb} task {task.id}")
                await pause.sleep_or_raise(error, again=isinstance(error, Ambiguous | Unavailable))


class _RetryDelay:
    """The pauses between the attempts at one request."""

    def __init__(self, owner: RetryingSource, request: str) -> None:
        self._owner = owner
        self._request = request
        self._failed = count(1)

    async def sleep_or_raise(self, error: AlumaAsyncError, *, again: bool) -> None:
        """Sleep before the next attempt; raise the error if there is none."""
        owner = self._owner
        delay: float | None = None
        if isinstance(error, RateLimited):
            delay = 0.0  # surely not carried out, and the throttle holds back what comes next
        elif again:
            delay = owner._retry.delay(next(self._failed), owner._uniform)  # noqa: SLF001 - one room
        if delay is None:
            raise error
        owner._on_event(RequestRetried(self._request, error, delay))  # noqa: SLF001
        await anyio.sleep(delay)
