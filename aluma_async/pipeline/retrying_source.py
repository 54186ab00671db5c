"""``RetryingSource``: wraps a ``TaskSource`` and retries the requests that may be sent again.

Reads are retried after any transient error. Start is retried only if it was certainly not executed. Complete, Cancel
and Fail are retried even if their outcome is unknown, because Aluma refuses a second one (``claim_source``).
A download is not retried here, because the bytes that were already passed on cannot be taken back; the caller retries
it with ``retry``.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, TypeVarTuple

import anyio
import anyio.lowlevel

from aluma_async.clock import loop_time
from aluma_async.events import RequestRetried
from aluma_async.exceptions import AlumaAsyncError, Ambiguous, RateLimited, SourceError, Unavailable
from aluma_async.models import Claim, ExportTask
from aluma_async.pipeline.defect import plugin_defect
from aluma_async.policy.backoff import RetryPolicy
from aluma_async.ports import OnEvent, TaskSource, Uniform
from aluma_async.source_wrapper import SourceWrapper

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_RATE_LIMITED_SECONDS = 600.0
"""Time without any success after which a 429 is no longer waited for."""


def _is_transient(error: AlumaAsyncError) -> bool:
    return error.retryable


def _was_not_executed(error: AlumaAsyncError) -> bool:
    return isinstance(error, Unavailable)


def _may_be_sent_again(error: AlumaAsyncError) -> bool:
    return isinstance(error, Ambiguous | Unavailable)


class RetryingSource(SourceWrapper):
    """Wraps ``source``; ``retry`` is the number of attempts and their delays.

    ``RateLimited`` does not count as one, until all requests have been refused for ``MAX_RATE_LIMITED_SECONDS``.
    """

    def __init__(self, source: TaskSource, retry: RetryPolicy, *, uniform: Uniform, on_event: OnEvent) -> None:
        super().__init__(source)
        self._retry = retry
        self._uniform = uniform
        self._on_event = on_event
        self._rate_limited_since: float | None = None  # time of the first refusal after the last success

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List the pending tasks; a failed listing is restarted, so tasks may come twice."""
        failed = 0
        while True:
            try:
                async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
                    async for tasks in pages:
                        if not set(map(type, tasks)) <= {ExportTask}:  # without a call for each task
                            raise TypeError
                        yield tasks
                        await anyio.lowlevel.checkpoint()  # a fast listing must not block a stop
                self._rate_limited_since = None
                return
            except AlumaAsyncError as error:
                failed = await self._sleep_or_raise("list tasks", error, failed, _is_transient)
            except BaseException as error:
                if defect := plugin_defect(error):  # must not end the run
                    raise SourceError(f"list tasks: {defect}") from error
                raise

    def start(self, task: ExportTask) -> Coroutine[Any, Any, Claim]:
        """Claim a task; retried only if Start was certainly not executed."""
        return self.retry(f"start task {task.id}", self._source.start, task, when=_was_not_executed)

    def complete(self, task: ExportTask) -> Coroutine[Any, Any, None]:
        """Complete the task; retried until the outcome is known."""
        return self.retry(f"complete task {task.id}", self._source.complete, task, when=_may_be_sent_again)

    def cancel(self, task: ExportTask) -> Coroutine[Any, Any, None]:
        """Cancel the claim; retried until the outcome is known."""
        return self.retry(f"cancel task {task.id}", self._source.cancel, task, when=_may_be_sent_again)

    def fail(self, task: ExportTask, message: str) -> Coroutine[Any, Any, None]:
        """Fail the task; retried until the outcome is known."""
        return self.retry(f"fail task {task.id}", self._source.fail, task, message, when=_may_be_sent_again)

    def state(self, task: ExportTask) -> Coroutine[Any, Any, str | None]:
        """Look up a task's state."""
        return self.retry(f"look up task {task.id}", self._source.state, task)

    async def retry(
        self,
        operation: str,
        step: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        when: Callable[[AlumaAsyncError], bool] = _is_transient,
    ) -> T:
        """Run a step; repeat it after each error for which ``when`` returns true, until the attempts are used up."""
        failed = 0
        while True:
            try:
                result = await step(*args)
            except AlumaAsyncError as error:
                failed = await self._sleep_or_raise(operation, error, failed, when)
            else:
                self._rate_limited_since = None
                return result

    async def _sleep_or_raise(
        self, operation: str, error: AlumaAsyncError, failed: int, when: Callable[[AlumaAsyncError], bool]
    ) -> int:
        """Sleep before the next attempt; return the number of failed ones. Raise the error if that was the last one."""
        delay: float | None = None
        if error.spares_others:
            pass  # the task must wait longer than a worker waits
        elif isinstance(error, RateLimited):
            if self._rate_limited_since is None:
                self._rate_limited_since = loop_time()
            if loop_time() - self._rate_limited_since <= MAX_RATE_LIMITED_SECONDS:
                delay = 0.0  # certainly not executed, and the throttle delays the next request
        elif when(error):
            failed += 1
            delay = self._retry.delay(failed, self._uniform)
        if delay is None:
            raise error
        self._on_event(RequestRetried(operation, error, delay))
        await anyio.sleep(delay)
        return failed
