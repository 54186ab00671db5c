"""``FileThreads``: runs blocking file operations in threads and maps their ``OSError``.

Each operation is awaited to its end. The number of threads is limited by the executor.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

import aiofiles
import anyio
from aiofiles.threadpool.binary import AsyncFileIO

from aluma_async.concurrency.batcher import wait_uncancelled
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.root import RootFolder
from aluma_async.exceptions import DestinationError, DestinationUnavailable

P = ParamSpec("P")
T = TypeVar("T")


class FileThreads:
    """Runs operations on files below ``root`` on ``executor``."""

    def __init__(self, root: RootFolder, executor: Executor | None) -> None:
        self._root = root
        self._executor = executor

    async def run(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a step to its end, even if the caller is cancelled, because a thread cannot be interrupted."""
        return await self.wait(self.start(step, *args, **kwargs))

    def start(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """Start a step; ``wait`` has to follow."""
        return asyncio.get_running_loop().run_in_executor(self._executor, partial(step, *args, **kwargs))

    async def wait(self, future: "asyncio.Future[T]") -> T:
        """Wait for a step that was started."""
        with anyio.CancelScope(shield=True), self.map_errors():
            return await wait_uncancelled(future)
        raise AssertionError  # a shielded scope swallows nothing

    async def open_staged(self, name: str) -> AsyncFileIO:
        """Open a new file in the staging folder for writing."""
        with anyio.CancelScope(shield=True), self.map_errors():
            return await aiofiles.open(name, "wb", buffering=0, opener=self._root.open_staged, executor=self._executor)
        raise AssertionError  # a shielded scope swallows nothing

    async def close(self, stream: AsyncFileIO) -> None:
        """Close a file."""
        with anyio.CancelScope(shield=True), self.map_errors():
            await stream.close()

    @contextmanager
    def map_errors(self) -> Iterator[None]:
        """Raise ``DestinationError`` in place of ``OSError``."""
        try:
            yield
        except OSError as error:
            raise self.map_error(error) from error

    def map_error(self, error: OSError) -> DestinationError:
        """Return the ``DestinationError`` that stands for an ``OSError``."""
        message = f"folder {self._root.path}: {error.strerror or error}"
        known = error.errno in fs.UNAVAILABLE
        if known or not self._root.is_same_folder():
            hint = "Check that the folder exists, is writable and has free space."
            return DestinationUnavailable(message, hint=hint, for_all=not known)
        return DestinationError(message)
