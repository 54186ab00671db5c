"""``Offload``: blocking steps in threads, each awaited to its end, their ``OSError`` turned into ours.

It does not bound how many there are at once: that is the executor's.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

import anyio

from aluma_async.concurrency.batcher import wait_uncancelled
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.root import RootFolder
from aluma_async.exceptions import DestinationError, DestinationUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class FileThreads:
    """Takes steps on what is below ``place``, on ``executor``."""

    def __init__(self, place: RootFolder, executor: Executor | None) -> None:
        self.executor = executor
        self._place = place

    async def run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Take a step. It is awaited even if the caller is cancelled: a thread goes on whether or not anybody waits."""
        return await self.end(self.begin(step, *args, **kwargs))

    def begin(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """Begin a step; ``end`` has to follow, unless it raises nothing."""
        return asyncio.get_running_loop().run_in_executor(self.executor, partial(step, *args, **kwargs))

    async def end(self, begun: "asyncio.Future[T]") -> T:
        """Wait for a step that was begun."""
        with anyio.CancelScope(shield=True), self.map_errors():
            return await wait_uncancelled(begun)
        raise AssertionError  # a shielded scope swallows nothing

    @contextmanager
    def map_errors(self) -> Iterator[None]:
        """The one place where the errors of the operating system become ours."""
        try:
            yield
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in fs.UNAVAILABLE or not self._place.is_same_folder():
                raise DestinationUnavailable(
                    f"folder {self._place.path}: {why}", hint="Is it there, writable, and is there space left?"
                ) from error
            raise DestinationError(f"folder {self._place.path}: {why}") from error
