"""``FileThreads``: runs blocking file operations in threads and maps their ``OSError``.

Each operation is awaited to its end, because a thread cannot be interrupted. But a call to a file server may never
return: an operation that takes longer than its limit is abandoned, and ``DestinationUnavailable`` is raised. While many
abandoned operations have not returned, no further one is started, so that the number of hanging threads is bounded.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

import aiofiles.os
import anyio

from aluma_async.clock import thread_time
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.root import RootFolder
from aluma_async.exceptions import DestinationError, DestinationUnavailable

P = ParamSpec("P")
T = TypeVar("T")

HANG_SECONDS = 60.0
"""Seconds after which an operation counts as hanging, besides those that its amount of work needs."""
_LOOKS = 20
_STALL = 0.25
"""Part of the limit: if this process is suspended or busy for longer, the time does not count."""
MAX_HANGING = 8
"""Number of hanging operations with which no further one is started."""


class FileStep(Generic[T]):
    """An operation in a thread, which may take ``seconds`` from its start."""

    future: "asyncio.Future[T]"

    def __init__(self, call: Callable[[], T], seconds: float) -> None:
        self.call = call
        self.seconds = seconds
        self.submitted_at = thread_time()
        self.started_at: float | None = None
        self.is_abandoned = False
        """Whether nothing waits for its end any more."""

    @property
    def age(self) -> float:
        """Seconds since its start, or since it began to wait for a thread."""
        return thread_time() - (self.submitted_at if self.started_at is None else self.started_at)


class FileThreads:
    """Runs operations on files below ``root`` on ``executor``; each may take ``seconds``, and more for much work."""

    def __init__(self, root: RootFolder, executor: Executor | None, seconds: float = HANG_SECONDS) -> None:
        self._root = root
        self._executor = executor
        self._seconds = seconds
        self._running: set[FileStep[Any]] = set()  # in a thread now
        self._hanging: set[FileStep[Any]] = set()  # abandoned, and not returned
        self._waiting: dict[FileStep[Any], asyncio.Task[Any] | None] = {}  # with the asyncio tasks that wait for them
        self._is_looking = False
        self._look_at = 0.0

    @property
    def is_hanging(self) -> bool:
        """Whether an abandoned operation has not returned."""
        return bool(self._hanging)

    def check(self) -> None:
        """Raise ``DestinationUnavailable`` if so many operations hang that no further one may be started."""
        if len(self._hanging) >= MAX_HANGING:
            raise self._error(max(step.age for step in self._hanging), for_all=True)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation to its end, even if the caller is cancelled, because a thread cannot be interrupted."""
        return await self.wait(self.start(partial(call, *args, **kwargs)))

    def start(self, call: Callable[[], T], *, work_seconds: float = 0.0) -> FileStep[T]:
        """Start an operation; ``wait`` has to follow. Raises ``DestinationUnavailable``.

        Args:
            call: The operation.
            work_seconds: Seconds that its amount of work may need on a slow file system.
        """
        if self._hanging:
            self.check()
        return self._submit(call, work_seconds)

    def start_write(self, call: Callable[[], None], *, work_seconds: float) -> FileStep[None]:
        """Start to write a part of a download; otherwise as ``start``."""
        self.check()
        step = self._new_step(call, work_seconds)
        step.future = asyncio.ensure_future(aiofiles.os.wrap(self._run)(step, executor=self._executor))
        return step

    async def wait(self, step: FileStep[T]) -> T:
        """Wait for an operation that was started. Raises ``DestinationUnavailable`` if it hangs.

        A native cancellation, from which no scope shields, is raised after the operation has ended, unless it failed.
        """
        cancelled: asyncio.CancelledError | None = None
        running = asyncio.current_task()
        with anyio.CancelScope(shield=True):
            while not step.future.done():
                if step.is_abandoned:
                    raise self._error(step.age, for_all=False)
                self._waiting[step] = running
                if not self._is_looking:
                    self._look_later()
                try:
                    await asyncio.wait([step.future])  # this does not cancel the future
                except asyncio.CancelledError as error:
                    if not running or not step.is_abandoned:
                        cancelled = error
                        continue
                    running.uncancel()
                    if not step.future.done():  # otherwise it has ended meanwhile, and its result counts
                        raise self._error(step.age, for_all=False) from None
                finally:
                    del self._waiting[step]
        if cancelled and not step.future.exception():
            raise cancelled
        return step.future.result()

    async def probe(self, call: Callable[[], T]) -> T:
        """Run an operation whose result tells whether the folder responds. While others hang, it is soon abandoned."""
        step = self.start(call)
        if self._hanging:
            step.seconds = self._seconds / 6
        return await self.wait(step)

    async def clean_up(self, call: Callable[[], object]) -> None:
        """Run an operation that removes files. If the folder does not respond, do not wait for it."""
        with suppress(DestinationError):
            step = self.start(call)
            if self._hanging:
                step.future.add_done_callback(_discard_result)
            else:
                await self.wait(step)

    async def open_staged(self, name: str) -> "StagedFile":
        """Open a new file in the staging folder for writing."""
        step = self.start(partial(self._root.open_staged, name))
        try:
            return StagedFile(self, await self.wait(step))
        except DestinationUnavailable:
            self.after(step, lambda: self._remove_late(step, name))
            raise

    async def close(self, fd: int) -> None:
        """Close a file, however many operations hang."""
        await self.wait(self._submit(partial(os.close, fd)))

    def after(self, step: FileStep[Any], call: Callable[[], object]) -> None:
        """Run an operation when a hanging one has returned, also if it has returned already."""
        if step.is_abandoned:
            step.future.add_done_callback(lambda _: self._start_late(call))

    def map_error(self, error: OSError) -> DestinationError:
        """Return the ``DestinationError`` that stands for an ``OSError``. It may block."""
        message = f"folder {self._root.path}: {error.strerror or error}"
        known = error.errno in fs.UNAVAILABLE
        if known or not self._root.is_same_folder():
            hint = "Check that the folder exists, is writable and has free space."
            return DestinationUnavailable(message, hint=hint, for_all=not known or error.errno in fs.NO_DESCRIPTORS)
        return DestinationError(message)

    def _new_step(self, call: Callable[[], T], work_seconds: float) -> FileStep[T]:
        # While others hang, the next ones probably hang, too, and must not hold their workers for long.
        return FileStep(call, (self._seconds / 3 if self._hanging else self._seconds) + work_seconds)

    def _submit(self, call: Callable[[], T], work_seconds: float = 0.0) -> FileStep[T]:
        step = self._new_step(call, work_seconds)
        step.future = asyncio.get_running_loop().run_in_executor(self._executor, self._run, step)
        return step

    def _run(self, step: FileStep[T]) -> T:
        """Run an operation in a thread."""
        step.started_at = thread_time()
        self._running.add(step)
        try:
            return step.call()
        except OSError as error:
            raise self.map_error(error) from error  # here, because it asks the file system
        finally:
            self._running.discard(step)

    def _hangs(self, step: FileStep[Any]) -> bool:
        """Return whether an operation has exceeded its limit; before its start, whether those in all threads have.

        One that has ended in its thread does not hang, although the event loop may not know of its end yet.
        """
        if step.age < step.seconds:
            return False
        if step.started_at is not None:
            return step in self._running
        return all(running.age >= running.seconds for running in tuple(self._running))

    def _look_later(self) -> None:
        """Look for hanging operations at intervals, because a timer for each operation costs more than its thread."""
        self._is_looking = True
        self._look_at = thread_time() + self._seconds / _LOOKS
        asyncio.get_running_loop().call_later(self._seconds / _LOOKS, self._look)

    def _look(self) -> None:
        self._is_looking = False
        late = thread_time() - self._look_at
        if late > self._seconds * _STALL:
            for step in {*self._waiting, *tuple(self._running)}:
                step.seconds += late
        else:
            self._abandon_hanging()
        if self._waiting:
            self._look_later()

    def _abandon_hanging(self) -> None:
        for step, waiting in list(self._waiting.items()):
            if waiting and not step.is_abandoned and self._hangs(step):
                self._abandon(step)
                waiting.cancel()

    def _abandon(self, step: FileStep[Any]) -> None:
        step.is_abandoned = True
        self._hanging.add(step)
        step.future.add_done_callback(_discard_result)
        step.future.add_done_callback(lambda _: self._hanging.discard(step))

    def _error(self, seconds: float, *, for_all: bool) -> DestinationUnavailable:
        return DestinationUnavailable(
            f"folder {self._root.path}: does not respond: an operation has not ended in {seconds:.0f} s",
            hint="Check its file server or disk.",
            for_all=for_all,
        )

    def _start_late(self, call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the threads have been shut down
            self._submit(call).future.add_done_callback(_discard_result)

    def _remove_late(self, step: FileStep[int], name: str) -> None:
        if not step.future.cancelled() and not step.future.exception():
            os.close(step.future.result())
            with self._root.open(sync=False) as folders:
                fs.unlink(folders.staging, name)


class StagedFile:
    """A file that is being written, one step at a time."""

    def __init__(self, threads: FileThreads, fd: int) -> None:
        self.fd = fd
        self._threads = threads
        self._is_closed = False
        self._last: FileStep[None] | None = None

    async def start(self, call: Callable[[], None], *, work_seconds: float = 0.0) -> None:
        """Start the next step when the last one has ended."""
        await self.wait()
        self._last = self._threads.start_write(call, work_seconds=work_seconds)

    async def wait(self) -> None:
        """Wait for the last step."""
        if self._last:
            await self._threads.wait(self._last)
            self._last = None

    async def close(self) -> None:
        """Close the file: not before the last step has ended, which would write into another file with the number.

        It has an effect only once. Raises ``DestinationError``, because some file systems write the last blocks now.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._last:
            with suppress(DestinationError):
                await self.wait()
        if self._last and not self._last.future.done():
            self._threads.after(self._last, partial(os.close, self.fd))
        else:
            await self._threads.close(self.fd)


def _discard_result(future: "asyncio.Future[Any]") -> None:
    """Read the result of an operation for which nothing waits, because asyncio reports errors that are never read."""
    if not future.cancelled():
        future.exception()
