"""``QuarantineFolder``: reads, checks, marks and removes the copies in a quarantine folder. It blocks.

Everything in the folder is untrusted: an administrator, a backup or a defective disk may have changed it. No link is
followed below the folder, no path leaves the folder of its copy, and only regular files are opened. It does not write
copies; ``pipeline.quarantine`` does that, through a destination.
"""

import hashlib
import os
import shutil
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Struct

from aluma_async.exceptions import FileMissing, SourceError
from aluma_async.policy.naming import INTERNAL_FOLDER, PathParts, collision_key, owner_suffix, with_suffix
from aluma_async.quarantine.files import (
    BLOCK_BYTES,
    FOLDER,
    check_file,
    files_size,
    opened_file,
    read_all,
    replace_file,
    tree_size,
)
from aluma_async.quarantine.records import (
    MAX_RECORD_BYTES,
    RECORD_NAME,
    SPEC_NAME,
    SPEC_NUMBER,
    CopyState,
    QuarantineRecord,
    decode_record,
    encode_record,
    folder_names,
)

UNREADABLE = ": not readable: "
"""Text between the path of a folder and the reason why it cannot be read."""
MAX_NAMES = 1000
"""Folders that may contain copies of one task."""


class Copy(Struct, frozen=True):
    """A copy of a task, as far as it can be seen without reading its files."""

    folder: Path
    record: QuarantineRecord
    missing: Mapping[int, str]
    """Number of each file that the copy lacks, with the reason; ``SPEC_NUMBER`` is the specification."""
    size: int
    """Total size of its files in bytes."""
    record_name: str = RECORD_NAME
    spec_name: str = SPEC_NAME
    """Names of the two files in the folder. In folders of earlier versions they may have a suffix."""

    @property
    def task_id(self) -> str:
        """Id of the task."""
        return self.record.task.id

    @property
    def is_complete(self) -> bool:
        """Whether it has everything that the task contained."""
        return not self.missing

    @property
    def hashes(self) -> Mapping[int, str]:
        """The hash of each file that is there, by its number, if it is known."""
        return {file.number: file.sha256 for file in self.record.files if file.number not in self.missing}


class QuarantineFolder:
    """The folder ``path``, which need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- reading

    def copies(self) -> tuple[list[Copy], list[str]]:
        """Return all copies, ordered by folder, and a message for each folder that cannot be read."""
        copies: list[Copy] = []
        problems: list[str] = []
        for name, record_name in self._all_records():
            try:
                copies.append(self.read(name, record_name))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                problems.append(f"{self.path / name}{UNREADABLE}{reason}")
        return copies, problems

    def find(self, task_id: str) -> list[Copy]:
        """Return the copies of a task, the best one first. Raises ``OSError`` if the quarantine cannot be read.

        There are several of different versions of the task, or after a crash.
        """
        wanted = set(islice(folder_names(task_id), MAX_NAMES))
        copies = []
        for name, record_name in self._all_records(wanted):
            with suppress(OSError, ValueError):
                copies.append(self.read(name, record_name))
        return sorted((copy for copy in copies if copy.task_id == task_id), key=_rank)

    def read(self, name: str, record_name: str = RECORD_NAME) -> Copy:
        """Return the copy in a folder. Raises ``OSError``, or ``ValueError`` if the record is unreadable."""
        with self._opened(name) as folder:
            with opened_file(folder, (record_name,)) as opened:
                data = read_all(opened, MAX_RECORD_BYTES)
            record, spec_name = decode_record(data), SPEC_NAME
            if record_name != RECORD_NAME:
                record, spec_name = _with_suffixed_names(folder, record)
            paths = record.paths()
            missing = {file.number: file.missing for file in record.files if file.missing}
            total = len(data)
            for file in record.files:
                if file.number not in missing:
                    size, reason = check_file(folder, paths.get(file.number), file.size)
                    total += size
                    if reason:
                        missing[file.number] = reason
            spec = record.specification
            size, reason = check_file(folder, (spec_name,), spec.size if spec else None)
            if reason:
                missing[SPEC_NUMBER] = reason
        return Copy(self.path / name, record, missing, total + size, record_name, spec_name)

    def read_specification(self, copy: Copy) -> bytes:
        """Return the Export Specification of a copy. Raises ``SourceError`` if it is missing or has changed."""
        subject = f"task {copy.task_id}: {SPEC_NAME} in the quarantine"
        digest = copy.record.specification
        max_bytes = digest.size if digest else MAX_RECORD_BYTES
        try:
            with self._opened(copy.folder.name) as folder, opened_file(folder, (copy.spec_name,)) as file:
                data = read_all(file, max_bytes)
        except (OSError, ValueError) as error:
            raise SourceError(f"{subject}: {getattr(error, 'strerror', None) or error}") from None
        if digest and digest.sha256 not in ("", hashlib.sha256(data).hexdigest()):
            raise SourceError(f"{subject}: it has changed since it was stored")
        return data

    def read_file(self, copy: Copy, number: int) -> Generator[bytes, None, None]:
        """Yield the content of a file in blocks. Raises ``SourceError`` if it is missing, or unlike it was stored."""
        subject = f"task {copy.task_id}: file {number} in the quarantine"
        path = copy.record.paths().get(number)
        if number in copy.missing or path is None:
            raise FileMissing(f"{subject}: {copy.missing.get(number, 'not in the copy')}")
        (file,) = [file for file in copy.record.files if file.number == number][:1]
        digest, size = hashlib.sha256(), 0
        try:
            with self._opened(copy.folder.name) as folder, opened_file(folder, path) as opened:
                while block := os.read(opened, BLOCK_BYTES):
                    digest.update(block)
                    size += len(block)
                    yield block
        except (OSError, ValueError) as error:
            raise SourceError(f"{subject}: {getattr(error, 'strerror', None) or error}") from None
        if size != (size if file.size is None else file.size) or file.sha256 not in ("", digest.hexdigest()):
            raise SourceError(f"{subject}: it has changed since it was stored")

    def is_intact(self, copy: Copy, number: int) -> bool:
        """Return whether a file is as it was stored."""
        with suppress(SourceError):
            for _ in self.read_file(copy, number):
                pass
            return True
        return False

    def verify(self, copy: Copy, *, strict: bool = False) -> dict[int, str]:
        """Read all files of a copy; return the number of each one that is missing or has changed, with the reason.

        ``strict``: a file whose hash was not recorded counts as missing, too.
        """
        problems = dict(copy.missing)
        for file in copy.record.files:
            if strict and not file.sha256:
                problems.setdefault(file.number, "its hash was not recorded")
            if file.number not in problems:
                try:
                    for _ in self.read_file(copy, file.number):
                        pass
                except SourceError as error:
                    problems[file.number] = str(error)
        if strict and not (copy.record.specification and copy.record.specification.sha256):
            problems.setdefault(SPEC_NUMBER, "its hash was not recorded")
        if SPEC_NUMBER not in problems:
            try:
                self.read_specification(copy)
            except SourceError as error:
                problems[SPEC_NUMBER] = str(error)
        return problems

    def used_bytes(self) -> int:
        """Return the size of all files below the folder, including those that are no part of a copy.

        The destination's own index of owners is not counted.
        """
        return tree_size(self.path) - files_size(self.path / INTERNAL_FOLDER)

    # -- changes

    def fresh_name(self, task_id: str, reserved: Collection[str] = ()) -> str:
        """Return a name for the folder of a new copy that no folder has, and that is not ``reserved``."""
        taken = {collision_key((name,)) for name in [*self._names(), *reserved]}
        return next(name for name in folder_names(task_id) if collision_key((name,)) not in taken)

    def mark(self, copy: Copy, *, redelivered_at: float) -> Copy:
        """Change the record of a copy durably, and return the copy. Raises ``OSError``."""
        record = msgspec.structs.replace(copy.record, redelivered_at=redelivered_at)
        with self._opened(copy.folder.name) as folder:
            replace_file(folder, copy.record_name, encode_record(record))
        return msgspec.structs.replace(copy, record=record)

    def remove(self, copy: Copy) -> None:
        """Remove a copy: its record first, so that the rest is never taken for a whole copy. Raises ``OSError``.

        The rest stays if another copy in the same folder may need it.
        """
        name = copy.folder.name
        with self._opened(name) as folder:
            with suppress(FileNotFoundError):
                os.unlink(copy.record_name, dir_fd=folder)
            if _record_names(folder):
                return
        root = os.open(self.path, FOLDER)
        try:
            shutil.rmtree(name, dir_fd=root)
        finally:
            os.close(root)

    def _names(self) -> list[str]:
        """Return the names of all folders in the quarantine, ordered."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) or entry.is_symlink()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name != INTERNAL_FOLDER)

    def _all_records(self, folders: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
        """Yield the folder and the name of each record, or ``RECORD_NAME`` if a folder has none."""
        for name in self._names():
            if folders is None or name in folders:
                found: list[str] = []
                with suppress(OSError), self._opened(name) as folder:  # the error is raised again when it is read
                    found = _record_names(folder)
                yield from ((name, record_name) for record_name in found or [RECORD_NAME])

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        root = os.open(self.path, FOLDER)
        try:
            folder = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=root)
        finally:
            os.close(root)
        try:
            yield folder
        finally:
            os.close(folder)


def best_copies(copies: Iterable[Copy]) -> dict[str, Copy]:
    """Return one copy of each task, by its id: the most complete one, and of these the newest."""
    return {copy.task_id: copy for copy in sorted(copies, key=_rank, reverse=True)}


def supersedes(new: Copy, old: Copy, *, same_spec: bool) -> bool:
    """Return whether an earlier copy of a task can be removed, because nothing in it is needed any more.

    Aluma may have deleted the earlier version of the task. So the copy of a failed task is superseded only by one with
    the same bytes, and that of a parked task only by one with the same specification (``same_spec``) or with all its
    files, that lacks none of them.
    """
    if old.record.state is CopyState.FAILED:
        return new.record.state is CopyState.FAILED and new.record.fingerprint == old.record.fingerprint
    if same_spec:
        return new.missing.keys() <= old.missing.keys()
    files = _contents(old)
    return bool(files) and files <= _contents(new) and all(sha256 for _, _, sha256 in files)


def _contents(copy: Copy) -> set[tuple[str, str, str]]:
    return {(file.folder, file.filename, file.sha256) for file in copy.record.files if file.number not in copy.missing}


def _rank(copy: Copy) -> tuple[int, float]:
    return len(copy.missing), -copy.record.stored_at


def _record_names(folder: int) -> list[str]:
    """Return the names of the records in a folder; those with a suffix come last."""
    names = os.listdir(folder)
    suffixed = [name for name in names if name.startswith("quarantine~") and name.endswith(".json")]
    return [*(name for name in names if name == RECORD_NAME), *sorted(suffixed)]


def _with_suffixed_names(folder: int, record: QuarantineRecord) -> tuple[QuarantineRecord, str]:
    """Return a record with the paths of its files, and the name of its specification.

    A file has the suffix of its task, too, unless an equal one of another owner was there.
    """
    suffix = owner_suffix(record.task.id)

    def existing(parts: PathParts) -> PathParts:
        suffixed = with_suffix(parts, suffix)
        return parts if check_file(folder, suffixed, None)[1] else suffixed

    paths = {number: "/".join(existing(parts)) for number, parts in record.paths().items()}
    files = tuple(msgspec.structs.replace(file, path=paths.get(file.number, file.path)) for file in record.files)
    return msgspec.structs.replace(record, files=files), existing((SPEC_NAME,))[0]
