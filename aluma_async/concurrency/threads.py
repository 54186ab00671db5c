"""Runs blocking steps in a thread, each to its end."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio

from aluma_async.concurrency.batcher import wait_uncancelled

P = ParamSpec("P")
T = TypeVar("T")


async def run_in_thread(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a step in a thread of the loop's executor, to its end even if the caller is cancelled."""
    with anyio.CancelScope(shield=True):
        loop = asyncio.get_running_loop()
        return await wait_uncancelled(loop.run_in_executor(None, partial(step, *args, **kwargs)))
    raise AssertionError  # a shielded scope swallows nothing
