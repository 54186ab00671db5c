"""``SqliteFleetStore``: a fleet of processes on one machine, in one SQLite file.

The file is not synced (``synchronous=OFF``), because the store carries no correctness: after a reboot, and if the file
is damaged or removed, the fleet starts with an empty one. A node is present while it locks a file of its id; the system
ends the lock with the process. Notices are bytes appended to a file whose size each subscriber polls.
"""

import asyncio
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import anyio
import msgspec

from aluma_async import sqlite_file
from aluma_async.clock import system_clock, wall_time
from aluma_async.exceptions import FleetStoreError
from aluma_async.fleet.ports import (
    TIMEOUT_SECONDS,
    FleetClaim,
    FleetUpdate,
    FleetView,
    ListingPage,
    NodeReport,
    Notice,
    NoticeKind,
)
from aluma_async.fleet.stores.tables import FleetTables
from aluma_async.models import Timestamp
from aluma_async.policy.liveness import NodeSnapshot
from aluma_async.private_files import open_private

T = TypeVar("T")

FILE_NAME = "fleet.sqlite3"
_NOTICES = "fleet-notices"
_NODE_PREFIX = "fleet-node-"
_SET_UP = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=OFF")
_BUSY_SECONDS = 0.8 * TIMEOUT_SECONDS
_POLL_SECONDS = 0.05
_MAX_NOTICE_BYTES = 512  # then the file is emptied; subscribers that have not read it all report once
_LOCK_ATTEMPTS = 20  # another process may hold the lock for a moment, to see whether the node is present
_LOCK_RETRY_SECONDS = 0.01
_OLD_FILE_SECONDS = 86_400.0


class SqliteFleetStore:
    """The files ``fleet*`` in ``folder``, which must exist and be local. Blocking steps run on ``executor``."""

    def __init__(
        self, folder: Path, *, executor: Executor | None = None, clock: Callable[[], Timestamp] = system_clock
    ) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        self._executor = executor
        self._clock = clock
        self._database: sqlite3.Connection | None = None
        self._tables: FleetTables | None = None
        self._file: os.stat_result | None = None  # of the open database
        self._lock = threading.Lock()  # the threads of one process use one connection

    async def sync(self, report: NodeReport) -> FleetUpdate:
        """Apply a report."""

        def step(tables: FleetTables, now: float) -> FleetUpdate:
            update, notices = tables.sync(report, now)
            self._notify(notices)
            return update

        return await self._run(step)

    async def begin_listing(self, node_id: str, scope: str = "") -> bool:
        """Start or renew a node's turn to list."""
        return await self._run(lambda tables, now: tables.begin_listing(node_id, scope, now))

    async def publish_listing(self, page: ListingPage) -> None:
        """Store a page of a listing."""
        await self._run(lambda tables, now: self._notify(tables.publish_listing(page, now)))

    async def take_over(self, node_id: str, dead: NodeSnapshot) -> Sequence[FleetClaim]:
        """Move the claims of a dead node."""
        return await self._run(lambda tables, now: tables.take_over(node_id, dead, now))

    async def release_holds(self, task_ids: Sequence[str]) -> None:
        """End holds."""
        await self._run(lambda tables, now: self._notify(tables.release_holds(task_ids, now)))

    async def inspect(self) -> FleetView:
        """Return the content."""
        return await self._run(lambda tables, now: tables.inspect(now))

    @asynccontextmanager
    async def subscribe(self, node_id: str) -> AsyncIterator[AsyncIterator[Notice]]:
        """Lock the file of a node, and receive notices."""
        with ExitStack() as stack:
            with _map_errors(self._folder):
                await self._lock_node(self._node_path(node_id), stack)
                notices = open_private(self._folder / _NOTICES)
                stack.callback(os.close, notices)
            async with aclosing(_read_notices(notices, os.fstat(notices).st_size)) as received:
                yield received

    def close(self) -> None:
        """Close the file. It blocks, and MUST NOT be called during a call."""
        if self._database:
            with suppress(sqlite3.Error):
                self._database.close()
        self._database = self._tables = self._file = None

    async def _run(self, step: Callable[[FleetTables, float], T]) -> T:
        """Run a step in a thread. Raises ``FleetStoreError``, also if it takes too long; it may then run later."""
        result = asyncio.get_running_loop().run_in_executor(self._executor, self._run_step, step)
        result.add_done_callback(_ignore_error)
        with anyio.move_on_after(TIMEOUT_SECONDS):
            return await asyncio.shield(result)
        raise FleetStoreError(f"{self._path}: no answer within {TIMEOUT_SECONDS:.0f} s")

    async def _lock_node(self, path: Path, stack: ExitStack) -> None:
        """Create and lock the file of a node until the stack is closed. Raises ``OSError``."""
        for _ in range(_LOCK_ATTEMPTS):
            if self._try_lock(path, stack):
                return
            await anyio.sleep(_LOCK_RETRY_SECONDS)
        raise BlockingIOError(errno.EWOULDBLOCK, f"{path.name} is locked by another process")

    # -- blocking steps

    def _run_step(self, step: Callable[[FleetTables, float], T]) -> T:
        if not self._lock.acquire(timeout=_BUSY_SECONDS):
            raise FleetStoreError(f"{self._path}: an earlier step has not ended")
        try:
            with _map_errors(self._path):
                return self._execute(step)
        finally:
            self._lock.release()

    def _execute(self, step: Callable[[FleetTables, float], T]) -> T:
        try:
            return step(self._open(), self._clock().boottime)
        except (sqlite3.Error, msgspec.DecodeError) as error:
            if not isinstance(error, sqlite3.Error) or sqlite_file.is_damaged(error):
                self._discard()
            raise

    def _open(self) -> FleetTables:
        if self._tables and self._is_same_file():
            return self._tables
        self.close()
        os.close(open_private(self._path))  # others could read a file that SQLite creates
        self._database = sqlite_file.connect(self._path, _SET_UP, timeout=_BUSY_SECONDS)
        self._tables = FleetTables(self._database, self._is_present, boot=self._clock().boot)
        self._file = self._path.stat()
        return self._tables

    def _is_same_file(self) -> bool:
        with suppress(FileNotFoundError):
            return self._file is not None and os.path.samestat(self._file, self._path.stat())
        return False

    def _discard(self) -> None:
        """Remove a damaged file, unless another process has done so."""
        if self._file is None or self._is_same_file():
            for ending in ("", *sqlite_file.SIDE_FILES):
                self._path.with_name(FILE_NAME + ending).unlink(missing_ok=True)
        self.close()

    def _is_present(self, node_id: str) -> bool:
        return _is_locked(self._node_path(node_id))

    def _node_path(self, node_id: str) -> Path:
        name = blake2b(node_id.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return self._folder / f"{_NODE_PREFIX}{name}"

    def _try_lock(self, path: Path, stack: ExitStack) -> bool:
        with ExitStack() as attempt:
            lock = open_private(path)
            attempt.callback(os.close, lock)
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), path.stat()):  # another process has not just removed it
                    stack.push(attempt.pop_all())
                    stack.callback(path.unlink, missing_ok=True)
                    self._remove_old_files()
                    return True
        return False

    def _remove_old_files(self) -> None:
        """Remove the files that killed processes have left."""
        for path in self._folder.glob(f"{_NODE_PREFIX}*"):
            with suppress(OSError):
                if path.stat().st_mtime < wall_time() - _OLD_FILE_SECONDS and not _is_locked(path):
                    path.unlink()

    def _notify(self, notices: Sequence[NoticeKind]) -> None:
        if not notices:
            return
        file = open_private(self._folder / _NOTICES)
        try:
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
            if os.fstat(file).st_size > _MAX_NOTICE_BYTES:
                os.ftruncate(file, 0)
            os.write(file, "".join(notices).encode())
        finally:
            os.close(file)


def _is_locked(path: Path) -> bool:
    """Return whether a process locks a file, which need not exist."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


async def _read_notices(file: int, offset: int) -> AsyncGenerator[Notice, None]:
    """Yield the notices that are appended to a file after ``offset``; of several equal ones at once, only one."""
    number = 0
    while True:
        await anyio.sleep(_POLL_SECONDS)
        size = os.fstat(file).st_size
        if size == offset:
            continue
        start = offset if size > offset else 0
        data, offset = os.pread(file, size - start, start), size
        for kind in dict.fromkeys(data.decode("ascii", "replace")):
            with suppress(ValueError):
                number += 1
                yield Notice(NoticeKind(kind), number)


def _ignore_error(step: "asyncio.Future[T]") -> None:
    """Retrieve the error of a step for which its caller may not have waited, so that asyncio does not log it."""
    if not step.cancelled():
        step.exception()


@contextmanager
def _map_errors(path: Path) -> Iterator[None]:
    """Convert errors of SQLite and the operating system."""
    try:
        yield
    except OSError as error:
        raise FleetStoreError(f"{path}: {error.strerror or error}") from error
    except (sqlite3.Error, msgspec.DecodeError) as error:
        raise FleetStoreError(f"{path}: {error}") from error
