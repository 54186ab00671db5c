"""Distinguishes a cancellation of the exporter from a ``CancelledError`` or ``SystemExit`` that a plug-in raises.

Raised by a plug-in, these exceptions would silently end a worker or the whole run.
"""

import asyncio

import anyio

from aluma_async.exceptions import AlumaAsyncError


def plugin_defect(error: BaseException) -> AlumaAsyncError | None:
    """Return the error that stands for a defect of a plug-in; None if ``error`` must be raised further."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        is_cancelled = anyio.current_effective_deadline() == float("-inf") or bool(task and task.cancelling())
        if is_cancelled:
            return None
    elif not isinstance(error, Exception | SystemExit):
        return None
    return AlumaAsyncError(f"unexpected {type(error).__name__}")
