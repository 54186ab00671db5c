"""``run_virtual``: runs a program in virtual time, in which hours pass in moments.

Limitation: aiohttp's pool of idle connections uses ``time.monotonic``, which hardly advances during such a run.
"""

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any, TypeVar

from anyio._backends import _asyncio as anyio_backend

from aluma_async.testing.virtual_loop import VirtualTimeLoop

T = TypeVar("T")


def run_virtual(main: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
    """Run a coroutine function in virtual time and return its result.

    Raises ``DeadlockError`` if all tasks wait and nothing is scheduled, ``LivelockError`` if no time passes any more.
    """
    # anyio keeps cancel scopes in small sets. With equal hashes their order does not depend on addresses.
    scope = anyio_backend.CancelScope
    original_hash = scope.__hash__
    scope.__hash__ = lambda _: 0  # type: ignore[assignment,method-assign]
    loop = VirtualTimeLoop()
    try:
        return loop.run_until_complete(main(*args))
    finally:
        _shut_down(loop)
        scope.__hash__ = original_hash  # type: ignore[method-assign]


def _shut_down(loop: VirtualTimeLoop) -> None:
    """Cancel the remaining tasks, and close those of killed processes, which must not run any more."""
    unfinished = [task for task in loop.created_tasks if not task.done()]
    alive = [task for task in unfinished if not (task.owner and task.owner.killed)]
    some_are_dead = len(alive) < len(unfinished)
    del unfinished
    try:
        for task in alive:
            task.cancel()
        if alive:
            loop.run_until_complete(asyncio.gather(*alive, return_exceptions=True))
        if some_are_dead:
            _close_dead_tasks(loop)
        else:
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.created_tasks.clear()
        loop.close()


def _close_dead_tasks(loop: VirtualTimeLoop) -> None:
    """Close the coroutines of killed processes. Their handlers run now, and all errors that they raise are ignored."""
    loop.asyncgens.clear()
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    asyncio._set_running_loop(loop)  # noqa: SLF001 - because handlers use the running loop
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for task in islice(loop.created_tasks, 100_000):  # Closing a task can start another one.
                if not task.done():
                    _close_coroutine(task)
            for process in loop.processes:
                process.tasks.clear()
            loop.created_tasks.clear()
            loop.discard_scheduled()
            task = None  # type: ignore[assignment]
            if gc.isenabled():
                gc.collect()  # Closes coroutines in reference cycles while their errors are still ignored.
    finally:
        sys.unraisablehook = hook
        asyncio._set_running_loop(None)  # noqa: SLF001


def _close_coroutine(task: asyncio.Task[Any]) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - killed on purpose
    anyio_backend._task_states.pop(task, None)  # noqa: SLF001 - because it keeps the task alive
    coroutine = task.get_coro()
    for _ in range(50):  # Each await in a handler needs another attempt.
        try:
            coroutine.close()
        except BaseException:  # noqa: BLE001, S112
            continue
        break
