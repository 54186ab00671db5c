"""Distinguishes a cancellation of the exporter from an exception of any kind that a plug-in raises.

Raised by a plug-in, a ``CancelledError`` or ``SystemExit`` would silently end a worker or the whole run.
A ``KeyboardInterrupt`` is always the user's.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import anyio

from aluma_async.events import Event
from aluma_async.exceptions import AlumaAsyncError

_IN_WORKER: ContextVar[bool] = ContextVar("in_worker", default=False)
"""Whether the running asyncio task is a worker, or was started by one."""
UNEXPECTED_END = "the run ended without a reason: an asyncio task of the exporter was cancelled"
"""The message of a run that was neither stopped nor cancelled; otherwise it would look like one that was stopped."""


def plugin_defect(error: BaseException) -> AlumaAsyncError | None:
    """Return the error that stands for a defect of a plug-in; None if ``error`` must be raised further."""
    if isinstance(error, asyncio.CancelledError):
        if not _undo_cancellation():
            return None
    elif isinstance(error, KeyboardInterrupt) or (isinstance(error, GeneratorExit) and not _is_running()):
        return None
    return unexpected(error)


async def run_again_if_cancelled(step: Callable[[], Awaitable[None]]) -> None:
    """Run a step to its end in an asyncio task of its own; run it again whenever a plug-in has cancelled that task.

    The exporter itself cancels its workers only by cancel scopes. A plug-in that cancels the task in which it is called
    would end all workers without an error.
    """
    _IN_WORKER.set(True)
    while True:
        try:
            return await step()
        except asyncio.CancelledError:
            if not _undo_cancellation():
                raise


def _undo_cancellation() -> bool:
    """Return whether a plug-in is the cause of a ``CancelledError``; then undo its cancellation of a worker."""
    task = asyncio.current_task()
    if task is None or anyio.current_effective_deadline() == float("-inf"):
        return False
    if not _IN_WORKER.get():  # the caller of ``Exporter.run`` may have cancelled its own task
        return not task.cancelling()
    while task.cancelling():
        task.uncancel()
    return True


def _is_running() -> bool:
    """Return whether an event loop runs; otherwise a coroutine is discarded, and may do nothing more."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def unexpected(error: BaseException) -> AlumaAsyncError:
    """Return the error that stands for an exception of another kind; its message may contain values."""
    defect = AlumaAsyncError(f"unexpected {type(error).__name__}")
    defect.__cause__ = error
    return defect


def report_listener_defect(error: BaseException, counts: Counter[type[Event]]) -> None:
    """Report the first exception of a listener to the event loop, which logs it with its stack; count all of them."""
    counts[Event] += 1
    if counts[Event] == 1:
        context = {"message": "on_event raised an exception; further ones are not reported", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
