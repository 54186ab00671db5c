"""``FolderDestination``: exports files into a folder: write to a staging folder, fsync, rename, fsync the folders.

A final name appears only with complete, durable content. Unpublished files stay in ``.aluma-async`` inside the same
folder. Files that a task delivered earlier and does not contain any more are not deleted.
"""

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

from aluma_async.clock import system_clock, wall_time
from aluma_async.concurrency.batcher import Batch, Batcher
from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.place import FolderPlace
from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.delivery import WORK_BYTES_PER_SECOND, FolderDelivery, Usage
from aluma_async.destinations.folder.kept import KeptFiles
from aluma_async.destinations.folder.owners import Owners
from aluma_async.destinations.folder.permissions import Permissions
from aluma_async.destinations.folder.publish import publish
from aluma_async.destinations.folder.receipt import Receipt
from aluma_async.destinations.folder.root import KEPT, RootFolder
from aluma_async.destinations.folder.staging import FolderSettings, StagedTask
from aluma_async.destinations.folder.threads import HANG_SECONDS, FileStep, FileThreads
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import Claim
from aluma_async.policy.naming import OnConflict

_PROBE_BYTES = 20
_MAX_BATCHES = 4
"""Batches that are published at the same time, because a file system merges concurrent syncs."""
_WORK_SECONDS_PER_FILE = 0.1
"""Seconds in which even a slow file system publishes or looks up a file."""


class FolderDestination:
    """A folder on this machine.

    Args:
        path: The folder. ``probe`` creates it if it is missing.
        newline: ``"crlf"`` converts the line ends of texts, but not of downloads.
        on_conflict: What happens to a file if another task's file already has its name.
        durability: ``"rename"`` means no fsync. A power loss may then lose files that Aluma has already deleted.
        manifest: Whether to write a manifest for each task, after its other files are durable.
        executor: Runs the blocking steps.
        mounts: A folder elsewhere that records where this one was mounted. With it, a share that is not mounted is
            distinguished from a new folder even by the first ``probe`` of a process.
        file_mode: Mode of new files. None: the umask decides.
        folder_mode: Mode of new folders. None: the umask decides.
        now: Returns the time in seconds since 1970.
        boot: Identifier of the machine's current boot. None: ask the system.
        hang_seconds: Seconds after which an operation counts as hanging, besides those that its amount of work needs.
    """

    warning = ""
    """What the probe has found to be restricted; empty if nothing is."""

    def __init__(
        self,
        path: str | Path,
        *,
        newline: Literal["keep", "crlf"] = "keep",
        on_conflict: OnConflict = "keep-both",
        durability: Literal["full", "rename"] = "full",
        manifest: bool = False,
        executor: Executor | None = None,
        mounts: Path | None = None,
        file_mode: int | None = None,
        folder_mode: int | None = None,
        now: Callable[[], float] = wall_time,
        boot: str | None = None,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        self.root = Path(path)
        self.place = FolderPlace(self.root)
        folder = RootFolder(self.root, mounts, Permissions(file_mode, folder_mode))
        owners = Owners(folder.internal / "owners.sqlite3")
        boot = boot or system_clock().boot
        sync = durability == "full"
        kept = KeptFiles(folder.internal / KEPT, "" if sync else boot)  # an earlier run may have had another durability
        self._settings = FolderSettings(folder, kept, owners, on_conflict, sync, manifest, now, boot)
        self._threads = FileThreads(folder, executor, hang_seconds)
        self._crlf = newline == "crlf"
        self._usage = Usage()
        self._chose_mode = False
        self._abandoned: set[str] = set()  # ids of tasks whose publication hangs
        # The names of staged files contain host and process, so that a later run on this host can recognize the files
        # of a process that has ended. No other user can guess the rest.
        self._host = f"{socket.gethostname().split('.')[0]}-"
        self._prefix = f"{self._host}{os.getpid()}-{secrets.token_hex(8)}"
        self._numbers = count(1)
        self._batcher = Batcher(self._publish, concurrency=_MAX_BATCHES if self._settings.sync else 1)

    async def probe(self) -> None:
        """Create missing folders, remove files that crashed runs have left, and check that files can be written."""
        await self._threads.probe(self._probe)

    def open(self, claim: Claim) -> FolderDelivery:
        """Start a delivery of a claim's files. Raises ``DestinationUnavailable`` if the folder does not respond."""
        self._threads.check()
        if claim.task.id in self._abandoned:
            raise DestinationUnavailable(
                f"folder {self.root}: an earlier delivery of task {claim.task.id} has not ended",
                hint="Check its file server or disk.",
            )
        task = StagedTask(self._settings, claim, f"{self._prefix}-{next(self._numbers)}")
        return FolderDelivery(task, self._threads, self._batcher, self._usage, crlf=self._crlf)

    async def verify(self, receipt: str) -> bool:
        """Return whether the files of an earlier delivery are still there: same folder, names and sizes.

        Files that were not synced count as lost after a reboot, because the machine may have lost its power.
        """
        return await self._threads.run(self._verify, receipt)

    def close(self) -> None:
        """Close the index of owners, unless the folder does not respond."""
        if not self._threads.is_hanging:
            self._settings.owners.close()

    async def _publish(self, batch: Batch[StagedTask]) -> None:
        # Each task counts as failed until the thread has published it, because the thread may never run.
        interrupted = DestinationError(f"folder {self.root}: publishing was interrupted")
        batch.errors = dict.fromkeys(batch.items, interrupted)
        size = sum(len(data) for task in batch.items for data in task.in_memory.values())
        files = sum(len(task.files) for task in batch.items)
        step = self._threads.start(
            partial(self._publish_all, batch.items, batch.errors),
            work_seconds=size / WORK_BYTES_PER_SECOND + files * _WORK_SECONDS_PER_FILE,
        )
        try:
            await self._threads.wait(step)
        except DestinationUnavailable:
            self._abandon(step, batch.items)
            raise

    def _publish_all(self, tasks: Sequence[StagedTask], errors: dict[StagedTask, Exception]) -> None:
        publish(self._settings, tasks, errors)
        for task, error in errors.items():
            if isinstance(error, OSError):
                errors[task] = self._threads.map_error(error)
                errors[task].__cause__ = error
        for task in tasks:
            if task.is_abandoned:
                task.discard()

    def _abandon(self, step: FileStep[None], tasks: Sequence[StagedTask]) -> None:
        """Let a hanging publication change nothing more when it returns: its tasks may be exported anew by then."""
        ids = {task.claim.task.id for task in tasks}
        for task in tasks:
            task.abandon()
        self._abandoned |= ids
        step.future.add_done_callback(lambda _: self._abandoned.difference_update(ids))

    def _probe(self) -> None:
        root, owners = self._settings.root, self._settings.owners
        if not root.is_same_folder():
            owners.close()  # because an open file outlives its folder, and would continue to answer
        root.ensure()
        if not self._chose_mode:
            owners.choose_mode(root.staging / f"{self._prefix}-{next(self._numbers)}.probe")
            self.warning, self._chose_mode = owners.warning, True
        owners.check()
        self._settings.kept.load(root.now())
        with root.open(sync=False) as folders:
            for name in fs.names(folders.staging):
                if self._is_orphan(name):
                    fs.unlink(folders.staging, name)
            trial = f"{self._prefix}-{next(self._numbers)}.probe"  # because probes may run at the same time
            # As large as a task for which there was no space, so that it decides whether others have some.
            size = max(_PROBE_BYTES, min(self._usage.refused_bytes, BLOCK))
            fs.try_to_write(folders.staging, trial, size, sync=self._settings.sync)
            self._usage.refused_bytes = 0

    def _verify(self, text: str) -> bool:
        receipt = Receipt.parse(text)
        if receipt is None or receipt.boot not in ("", self._settings.boot):
            return False
        with self._settings.root.open(sync=False) as folders:
            files = receipt.stored(folders.identifier)
            return files is not None and all(folders.size_of(path) == size for path, size in files)

    def _is_orphan(self, name: str) -> bool:
        pid = name.removeprefix(self._host).partition("-")[0]
        return name.startswith(self._host) and pid.isdigit() and not _process_exists(int(pid))


def _process_exists(pid: int) -> bool:
    """Return whether a process runs on this machine; True if that is unknown."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
