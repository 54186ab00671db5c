"""``StagedTask``: the files of one claim until they are published: in memory or below ``.aluma-async``."""

import hashlib
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from aluma_async.destinations.folder import fs
from aluma_async.destinations.folder.kept import KeptFile, KeptFiles
from aluma_async.destinations.folder.owners import Owners
from aluma_async.destinations.folder.root import RootFolder
from aluma_async.exceptions import DestinationError
from aluma_async.models import Claim
from aluma_async.policy.naming import OnConflict
from aluma_async.ports import CHECK_LEASE


class FolderSettings(NamedTuple):
    """Where files are exported to, and how."""

    root: RootFolder
    kept: KeptFiles
    owners: Owners
    on_conflict: OnConflict
    sync: bool
    """Whether files and folders are made durable with fsync."""
    manifest: bool
    now: Callable[[], float]
    boot: str
    """Identifier of the machine's current boot."""


class StagedTask:
    """The staged files of one claim, by their numbers. The names of its files on disk begin with ``prefix``."""

    def __init__(self, settings: FolderSettings, claim: Claim, prefix: str) -> None:
        self.settings = settings
        self.claim = claim
        self.files = claim.spec.files
        """The files to publish."""
        self.in_memory: dict[int, bytes] = {}
        """Small files. They are written when the task is published, in one thread hop for all."""
        self.on_disk: set[int] = set()
        """Files that may exist in the staging folder, complete or not."""
        self.resumed: dict[int, KeptFile] = {}
        """The files that an earlier attempt has finished."""
        self.ids: dict[int, fs.FileId] = {}
        """Identities of the files that are complete and durable on disk."""
        self.sizes: dict[int, int] = {}
        self.versions: dict[int, str] = {}
        """Versions of the files on disk at the server; empty if unknown."""
        self.hashes: dict[int, hashlib._Hash] = {}
        """SHA-256 of the files on disk, if a manifest will be written."""
        self.receipt = ""
        """The receipt of the published files; empty before."""
        self.check_lease = CHECK_LEASE.get()
        """Raises ``DestinationError`` if another exporter may have claimed the task, or the delivery is abandoned."""
        self.is_abandoned = False
        """Whether the delivery has failed although an operation in a thread has not returned."""
        self._prefix = prefix
        kept = settings.kept
        self.may_resume = bool(kept) and any(self._resume_key(file.number) in kept for file in claim.spec.files)
        """Whether an earlier attempt may have finished files."""

    def staged_name(self, number: int) -> str:
        """Return the name of a file in the staging folder."""
        return f"{self._prefix}-{number}.part"

    def hasher(self, number: int) -> "hashlib._Hash | None":
        """Return the hash object that the bytes of a file on disk must update; None if no hash is needed."""
        return self.hashes.setdefault(number, hashlib.sha256()) if self.settings.manifest else None

    def finish(self, number: int, fd: int, size: int, version: str = "") -> None:
        """Make a file durable to which ``size`` bytes of this version were written. Blocks."""
        self.ids[number] = fs.fsync_checked(fd, size, sync=self.settings.sync)
        self.sizes[number] = size
        self.versions[number] = version

    def restart(self, number: int) -> None:
        """Discard the record of a saved file."""
        self.in_memory.pop(number, None)
        self.resumed.pop(number, None)
        self.ids.pop(number, None)
        self.hashes.pop(number, None)

    def omit(self, number: int) -> None:
        """Leave a file out. Its staged bytes are removed at the end."""
        self.restart(number)
        self.files = tuple(file for file in self.files if file.number != number)

    def abandon(self) -> None:
        """Let no further file be published."""
        self.is_abandoned = True
        self.check_lease = self._raise_abandoned

    def _raise_abandoned(self) -> None:
        raise DestinationError(f"task {self.claim.task.id}: its delivery has been abandoned")

    # -- start and end of a delivery; all of it blocks

    def restore(self) -> None:
        """Stage the files that an earlier attempt at the same specification has finished."""
        kept = self.settings.kept
        for number in [file.number for file in self.claim.spec.files if self._resume_key(file.number) in kept]:
            self.on_disk.add(number)
            if taken := kept.take(self._resume_key(number), self._staged_path(number)):
                file, status = taken
                self.ids[number], self.sizes[number], self.versions[number] = fs.file_id(status), *file
                if self.settings.manifest:
                    with self.settings.root.open(sync=False) as folders:
                        self.hashes[number] = fs.sha256(folders.staging, self.staged_name(number))
                self.resumed[number] = file

    def save_for_resume(self) -> None:
        """Keep the finished files on disk for a later attempt, and remove the others."""
        with suppress(OSError):
            for number in self.on_disk & self.ids.keys() - self.in_memory.keys():
                file = KeptFile(self.sizes[number], self.versions[number])
                self.settings.kept.store(
                    self._staged_path(number), self._resume_key(number), file, synced=self.settings.sync
                )
        self.discard()

    def discard(self) -> None:
        """Remove all staged files."""
        self._remove(self.on_disk)

    def discard_omitted(self) -> None:
        """Remove the staged files that were not published."""
        self._remove(self.on_disk - {file.number for file in self.files})

    def _remove(self, numbers: AbstractSet[int]) -> None:
        if numbers:
            with suppress(OSError, DestinationError), self.settings.root.open(sync=False) as folders:
                for number in numbers:
                    fs.unlink(folders.staging, self.staged_name(number))

    @cached_property
    def _spec_fingerprint(self) -> str:
        """A hash of the specification, because another one may have other files with the same numbers."""
        task, spec = self.claim.task, self.claim.spec
        names = "\0".join((task.id, *(text for file in spec.files for text in (file.folder, file.filename, file.url))))
        return hashlib.sha256(names.encode(errors="surrogatepass") + b"\0" + spec.received).hexdigest()[:32]

    def _staged_path(self, number: int) -> Path:
        return self.settings.root.staging / self.staged_name(number)

    def _resume_key(self, number: int) -> str:
        return f"{self._spec_fingerprint}-{number}"
