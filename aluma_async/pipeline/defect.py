"""Distinguishes a cancellation of the exporter from an exception of any kind that a plug-in raises.

Raised by a plug-in, a ``CancelledError`` or ``SystemExit`` would silently end a worker or the whole run.
A ``KeyboardInterrupt`` is always the user's.
"""

import asyncio
from collections import Counter

import anyio

from aluma_async.events import Event
from aluma_async.exceptions import AlumaAsyncError


def plugin_defect(error: BaseException) -> AlumaAsyncError | None:
    """Return the error that stands for a defect of a plug-in; None if ``error`` must be raised further."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        is_cancelled = anyio.current_effective_deadline() == float("-inf") or bool(task and task.cancelling())
        if is_cancelled:
            return None
    elif isinstance(error, KeyboardInterrupt) or (isinstance(error, GeneratorExit) and not _is_running()):
        return None
    return unexpected(error)


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


def report_listener_defect(error: Exception, counts: Counter[type[Event]]) -> None:
    """Report the first exception of a listener to the event loop, which logs it with its stack; count all of them."""
    counts[Event] += 1
    if counts[Event] == 1:
        context = {"message": "on_event raised an exception; further ones are not reported", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)
