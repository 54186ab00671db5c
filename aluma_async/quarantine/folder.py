"""``QuarantineFolder``: reads, checks, marks and removes the copies in a quarantine folder. It blocks.

Everything in the folder is untrusted: an administrator, a backup or a defective disk may have changed it. No link is
followed below the folder, no path leaves the folder of its copy, and only regular files are opened. It does not write
copies; ``pipeline.quarantine`` does that, through a destination.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Struct

from aluma_async.exceptions import FileMissing, SourceError
from aluma_async.policy.naming import INTERNAL_FOLDER, PathParts, collision_key
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

_BLOCK = 1024 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # O_NONBLOCK: opening a named pipe must not wait for its other end
_MAX_NAMES = 1000


class Copy(Struct, frozen=True):
    """A copy of a task, as far as it can be seen without reading its files."""

    folder: Path
    record: QuarantineRecord
    missing: Mapping[int, str]
    """Number of each file that the copy lacks, with the reason; ``SPEC_NUMBER`` is the specification."""
    size: int
    """Total size of its files in bytes."""

    @property
    def task_id(self) -> str:
        """Id of the task."""
        return self.record.task.id

    @property
    def is_complete(self) -> bool:
        """Whether it has everything that the task contained."""
        return not self.missing


class QuarantineFolder:
    """The folder ``path``, which need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- reading

    def copies(self) -> tuple[list[Copy], list[str]]:
        """Return all copies, ordered by folder, and a message for each folder that cannot be read."""
        copies: list[Copy] = []
        problems: list[str] = []
        for name in self._names():
            try:
                copies.append(self.read(name))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                problems.append(f"{self.path / name}: not readable: {reason}")
        return copies, problems

    def find(self, task_id: str) -> list[Copy]:
        """Return the copies of a task, the best one first. There are several only after a crash.

        Raises ``OSError`` if the quarantine cannot be read.
        """
        wanted = set(islice(folder_names(task_id), _MAX_NAMES))
        copies = []
        for name in self._names():
            if name in wanted:
                with suppress(OSError, ValueError):
                    copies.append(self.read(name))
        return sorted((copy for copy in copies if copy.task_id == task_id), key=_rank)

    def read(self, name: str) -> Copy:
        """Return the copy in a folder. Raises ``OSError``, or ``ValueError`` if the record is unreadable."""
        with self._opened(name) as folder:
            with _opened_file(folder, (RECORD_NAME,)) as opened:
                data = _read_all(opened, MAX_RECORD_BYTES)
            record = decode_record(data)
            paths = record.paths()
            missing = {file.number: file.missing for file in record.files if file.missing}
            total = len(data)
            for file in record.files:
                if file.number not in missing:
                    size, reason = _check(folder, paths.get(file.number), file.size)
                    total += size
                    if reason:
                        missing[file.number] = reason
            spec = record.specification
            size, reason = _check(folder, (SPEC_NAME,), spec.size if spec else None)
            if reason:
                missing[SPEC_NUMBER] = reason
        return Copy(self.path / name, record, missing, total + size)

    def read_specification(self, copy: Copy, max_bytes: int = MAX_RECORD_BYTES) -> bytes:
        """Return the Export Specification of a copy. Raises ``SourceError`` if it is missing or has changed."""
        subject = f"task {copy.task_id}: {SPEC_NAME} in the quarantine"
        try:
            with self._opened(copy.folder.name) as folder, _opened_file(folder, (SPEC_NAME,)) as file:
                data = _read_all(file, max_bytes)
        except (OSError, ValueError) as error:
            raise SourceError(f"{subject}: {getattr(error, 'strerror', None) or error}") from None
        digest = copy.record.specification
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
            with self._opened(copy.folder.name) as folder, _opened_file(folder, path) as opened:
                while block := os.read(opened, _BLOCK):
                    digest.update(block)
                    size += len(block)
                    yield block
        except (OSError, ValueError) as error:
            raise SourceError(f"{subject}: {getattr(error, 'strerror', None) or error}") from None
        if size != (size if file.size is None else file.size) or file.sha256 not in ("", digest.hexdigest()):
            raise SourceError(f"{subject}: it has changed since it was stored")

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
        return _tree_size(self.path) - _files_size(self.path / INTERNAL_FOLDER)

    # -- changes

    def fresh_name(self, task_id: str, reserved: Collection[str] = ()) -> str:
        """Return a name for the folder of a new copy that no folder has, and that is not ``reserved``."""
        taken = {collision_key((name,)) for name in [*self._names(), *reserved]}
        return next(name for name in folder_names(task_id) if collision_key((name,)) not in taken)

    def mark(self, copy: Copy, *, state: CopyState | None = None, redelivered_at: float | None = None) -> Copy:
        """Change the record of a copy durably, and return the copy. Raises ``OSError``."""
        record = msgspec.structs.replace(
            copy.record,
            state=state or copy.record.state,
            redelivered_at=copy.record.redelivered_at if redelivered_at is None else redelivered_at,
        )
        with self._opened(copy.folder.name) as folder:
            _replace_file(folder, RECORD_NAME, encode_record(record))
        return msgspec.structs.replace(copy, record=record)

    def remove(self, copy: Copy) -> None:
        """Remove a copy: its record first, so that the rest is never taken for a whole copy. Raises ``OSError``."""
        name = copy.folder.name
        with self._opened(name) as folder, suppress(FileNotFoundError):
            os.unlink(RECORD_NAME, dir_fd=folder)
        root = os.open(self.path, _FOLDER)
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

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        root = os.open(self.path, _FOLDER)
        try:
            folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=root)
        finally:
            os.close(root)
        try:
            yield folder
        finally:
            os.close(folder)


def best_copies(copies: Iterable[Copy]) -> dict[str, Copy]:
    """Return one copy of each task, by its id: the most complete one, and of these the newest."""
    return {copy.task_id: copy for copy in sorted(copies, key=_rank, reverse=True)}


def _rank(copy: Copy) -> tuple[int, float]:
    return len(copy.missing), -copy.record.stored_at


@contextmanager
def _opened_file(folder: int, parts: PathParts) -> Iterator[int]:
    """Open a regular file below a folder, never through a link."""
    folders: list[int] = []
    try:
        for part in parts[:-1]:
            folders.append(os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folders[-1] if folders else folder))
        file = os.open(parts[-1], _FILE, dir_fd=folders[-1] if folders else folder)
    finally:
        for opened in folders:
            os.close(opened)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("not a regular file")
        yield file
    finally:
        os.close(file)


def _check(folder: int, parts: PathParts | None, size: int | None) -> tuple[int, str]:
    """Return the size of a file of a copy, and the reason why it counts as missing; empty if it is there."""
    if parts is None:
        return 0, "its path in the record is invalid"
    try:
        with _opened_file(folder, parts) as file:
            actual = os.fstat(file).st_size
    except OSError as error:
        return 0, f"not in the quarantine: {error.strerror}"
    except ValueError as error:
        return 0, f"not in the quarantine: {error}"
    if size is not None and size != actual:
        return actual, f"has {actual} bytes in the quarantine, and was stored with {size}"
    return actual, ""


def _read_all(file: int, max_bytes: int) -> bytes:
    blocks, size = [], 0
    while block := os.read(file, _BLOCK):
        blocks.append(block)
        size += len(block)
        if size > max_bytes:
            raise ValueError(f"larger than {max_bytes} bytes")
    return b"".join(blocks)


def _replace_file(folder: int, name: str, data: bytes) -> None:
    """Replace a file atomically and durably."""
    temporary = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)  # left by a crash, or a link
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=folder)
    try:
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    finally:
        os.close(file)
    os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    with suppress(OSError):  # some file systems do not support it
        os.fsync(folder)


def _tree_size(path: Path) -> int:
    """Return the size of all files below a folder."""
    return sum(_files_size(Path(folder)) for folder, _, _ in os.walk(path))


def _files_size(path: Path) -> int:
    """Return the size of the files directly in a folder; 0 if it cannot be read."""
    total = 0
    with suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with suppress(OSError):
                total += 0 if entry.is_dir(follow_symlinks=False) else entry.stat(follow_symlinks=False).st_size
    return total
