"""``QuarantineRecord``: the content of ``quarantine.json``, and the paths of the files of a copy. Pure.

A copy is a folder below the quarantine, named after the task's id::

    quarantine.json       this record; it is written last, so that a folder with a record is a whole copy
    specification.json    the Export Specification as Aluma sent it
    files/                the task's files under their own names, made safe

Records of earlier versions have neither ``state`` nor ``path``, ``size`` and ``sha256``; they stay readable.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from itertools import count
from math import isfinite

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from aluma_async.models import ExportFile, ExportTask
from aluma_async.policy.naming import PathParts, owner_suffix, plan_paths, safe_path, with_suffix

RECORD_NAME = "quarantine.json"
"""Name of the record in the folder of a copy."""
SPEC_NAME = "specification.json"
"""Name of the Export Specification in the folder of a copy."""
SPEC_NUMBER = -1
"""Number of the Export Specification among the missing files of a copy."""
MAX_RECORD_BYTES = 64 * 1024 * 1024
"""Maximum size of a record; a larger one is unreadable."""


class CopyState(StrEnum):
    """What happened to the task of a copy at Aluma."""

    FAILED = "failed"
    """The task was failed, or was about to be: this may be the only copy."""
    PARKED = "parked"
    """The task was released and parked. Aluma has it until its project's deadline."""


class Digest(Struct, frozen=True, gc=False):
    """Size and SHA-256 of a stored file; the hash is empty if it is not known."""

    size: int
    sha256: str = ""


class CopiedFile(Struct, frozen=True, gc=False):
    """A file of the task."""

    number: int
    """Position in the Export Specification, from 0."""
    folder: str
    filename: str
    missing: str = ""
    """Reason why the copy lacks the file; empty if it has it."""
    path: str = ""
    """Path in the folder of the copy, with slashes; empty in records of earlier versions."""
    size: int | None = None
    sha256: str = ""


class QuarantineRecord(Struct, frozen=True):
    """The record of a copy."""

    task: ExportTask
    error: str
    """Class of the error; earlier versions used other names."""
    message: str
    files: tuple[CopiedFile, ...] = ()
    state: CopyState = CopyState.FAILED
    stored_at: float = 0.0
    """Time when the copy was stored, in seconds since 1970; 0 if it is not known."""
    redelivered_at: float | None = None
    """Time of the last redelivery, in seconds since 1970."""
    specification: Digest | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the copy contains. Two versions of a file give two fingerprints."""
        hashes = [self.specification.sha256 if self.specification else "", *(file.sha256 for file in self.files)]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def paths(self) -> Mapping[int, PathParts]:
        """Return the path of each stored file by its number. Paths that could leave the folder are left out."""
        stored = [file for file in self.files if not file.missing]
        planned = iter(copy_paths("_", [(file.folder, file.filename) for file in stored]))
        paths: dict[int, PathParts] = {}
        for file, default in zip(stored, planned, strict=False):
            parts = tuple(file.path.split("/")) if file.path else default[1:]
            if all(part not in ("", ".", "..") and "\0" not in part for part in parts):
                paths[file.number] = parts
        return paths


def encode_record(record: QuarantineRecord) -> bytes:
    """Return the record as JSON. Names with lone surrogates, which UTF-8 cannot contain, are changed."""
    return msgspec.json.format(msgspec.json.encode(_encodable(msgspec.to_builtins(record)))) + b"\n"


def decode_record(data: bytes) -> QuarantineRecord:
    """Return a record. Raises ``ValueError`` if it cannot be read."""
    try:
        record = msgspec.json.decode(data, type=QuarantineRecord)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a record of a task: {type(error).__name__}") from None
    if not record.task.id:
        raise ValueError("not a record of a task: it has no task id")
    numbers = [file.number for file in record.files]
    if len(set(numbers)) < len(numbers) or min(numbers, default=0) < 0:
        raise ValueError("not a record of a task: the numbers of its files are not unique")
    return _with_finite_times(record)


def copy_files(folder: str, names: Iterable[tuple[str, str]]) -> list[ExportFile]:
    """Return the files of a copy in ``folder`` as a destination stores them: the task's files, then spec and record."""
    inner = [(f"{folder}/files/{inside}", filename) for inside, filename in names]
    outer = [(folder, SPEC_NAME), (folder, RECORD_NAME)]
    return [ExportFile(number, 0, *name, "url") for number, name in enumerate([*inner, *outer])]


def copy_paths(folder: str, names: Iterable[tuple[str, str]]) -> list[PathParts]:
    """Return the paths that a destination gives to the files of a copy, below the quarantine."""
    return list(plan_paths(copy_files(folder, names)).values())


def folder_names(task_id: str) -> Iterator[str]:
    """Yield, without end, the possible names of a copy's folder, in order of preference.

    Several are needed, because ids may differ only in case, and a copy is replaced only after the new one is complete.
    """
    (name,) = safe_path("", task_id)[-1:]
    yield name
    suffix = owner_suffix(task_id)
    for number in count(1):
        yield with_suffix((name,), suffix if number == 1 else f"{suffix}~{number}")[0]


def _with_finite_times(record: QuarantineRecord) -> QuarantineRecord:
    """Replace times that are no time, because nothing can be calculated with them."""
    task = record.task
    if task.created_at is not None and not isfinite(task.created_at):
        record = replace(record, task=replace(task, created_at=None))
    if record.redelivered_at is not None and not isfinite(record.redelivered_at):
        record = replace(record, redelivered_at=None)
    return record if isfinite(record.stored_at) else replace(record, stored_at=0.0)


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list | tuple) else value
