"""``RetryingSource``: wraps a ``TaskSource`` and retries the requests that may be sent again.

Reads are retried after any transient error. Start is retried only if it was certainly not executed. Complete, Cancel
and Fail are retried even if their outcome is unknown, because Aluma refuses a second one (``claim_source``).
A download is not retried here, because the bytes that were already passed on cannot be taken back; the caller retries
it with ``retry``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from itertools import count
from typing import ParamSpec, TypeVar

import anyio

from aluma_async.events import RequestRetried
from aluma_async.exceptions import AlumaAsyncError, Ambiguous, RateLimited, Unavailable
from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.policy.backoff import RetryPolicy
from aluma_async.ports import OnEvent, TaskSource, Uniform

P = ParamSpec("P")
T = TypeVar("T")


class RetryingSource:
    """Wraps ``source``; ``retry`` is the number of attempts and their delays. ``RateLimited`` does not count as one."""

    def __init__(self, source: TaskSource, retry: RetryPolicy, *, uniform: Uniform, on_event: OnEvent) -> None:
        self._source = source
        self._retry = retry
        self._uniform = uniform
        self._on_event = on_event

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List the pending tasks; a failed listing is restarted, so tasks may come twice."""
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
        """Claim a task; retried only if Start was certainly not executed."""
        pause: _RetryDelay | None = None
        while True:
            try:
                return await self._source.start(task)
            except AlumaAsyncError as error:
                pause = pause or _RetryDelay(self, f"start task {task.id}")
                await pause.sleep_or_raise(error, again=isinstance(error, Unavailable))

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a download, without retries."""
        return self._source.open_file(claim, file)

    async def complete(self, task: ExportTask) -> None:
        """Complete the task; retried until the outcome is known."""
        await self._settle("complete", self._source.complete, task)

    async def cancel(self, task: ExportTask) -> None:
        """Cancel the claim; retried until the outcome is known."""
        await self._settle("cancel", self._source.cancel, task)

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail the task; retried until the outcome is known."""
        await self._settle("fail", self._source.fail, task, message)

    async def state(self, task: ExportTask) -> str | None:
        """Look up a task's state."""
        return await self.retry(f"look up task {task.id}", self._source.state, task)

    async def retry(self, request: str, step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step that may be repeated; retry it after each transient error."""
        pause: _RetryDelay | None = None
        while True:
            try:
                return await step(*args, **kwargs)
            except AlumaAsyncError as error:
                pause = pause or _RetryDelay(self, request)
                await pause.sleep_or_raise(error, again=error.retryable)

    async def _settle(self, verb: str, request: Callable[..., Awaitable[None]], task: ExportTask, *extra: str) -> None:
        pause: _RetryDelay | None = None
        while True:
            try:
                return await request(task, *extra)
            except AlumaAsyncError as error:
                pause = pause or _RetryDelay(self, f"{verb} task {task.id}")
                await pause.sleep_or_raise(error, again=isinstance(error, Ambiguous | Unavailable))


class _RetryDelay:
    """The delays between the attempts of one request."""

    def __init__(self, owner: RetryingSource, request: str) -> None:
        self._owner = owner
        self._request = request
        self._failed = count(1)

    async def sleep_or_raise(self, error: AlumaAsyncError, *, again: bool) -> None:
        """Sleep before the next attempt; raise the error if there is no further attempt."""
        owner = self._owner
        delay: float | None = None
        if isinstance(error, RateLimited):
            delay = 0.0  # certainly not executed, and the throttle delays the next request
        elif again:
            delay = owner._retry.delay(next(self._failed), owner._uniform)  # noqa: SLF001 - same module
        if delay is None:
            raise error
        owner._on_event(RequestRetried(self._request, error, delay))  # noqa: SLF001
        await anyio.sleep(delay)
