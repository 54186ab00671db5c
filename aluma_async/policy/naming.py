"""Names that come from scanned pages, made safe: folder + filename -> a relative path inside any root. Pure.

Unsafe on one system is unsafe on all, so that what a file is called does not depend on where it lands. The
same input gives the same path, always. Names that are fine are not touched.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import PurePosixPath
from typing import TypeAlias

from aluma_async.models import ExportFile

PathParts: TypeAlias = tuple[str, ...]
"""A relative path, part by part; none is empty, a dot or two dots."""

MAX_NAME_BYTES = 255
"""Bytes (UTF-8) in a part: the limit of ext4, XFS, APFS and others."""
MAX_FOLDER_DEPTH = 32
"""Folders in a path; what is deeper is joined into the last of them."""
INTERNAL_FOLDER = ".aluma-async"
"""The folder below the root that is ours; no export may reach it."""

# C0, DEL, C1, zero-width and bidirectional controls, lone surrogates, separators, and what Windows forbids.
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff<>:"|?*/\\\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9¹²³])(?=\Z|\s*\.)", re.IGNORECASE)
_SEPARATOR = re.compile(r"[/\\]")
# What most parts are, and what surely comes out of all that follows as it is.
_PLAIN = re.compile(rf"(?!(?i:{_RESERVED.pattern}))[\w-](?:[\w (),.+-]{{0,200}}[\w()+-])?", re.ASCII)


def safe_path(folder: str, filename: str) -> PathParts:
    """Make a path of what a specification asks for: never empty, never outside the root."""
    parts = [_safe_part(part) for part in _SEPARATOR.split(folder) if part.strip(" .")]
    if len(parts) > MAX_FOLDER_DEPTH:
        parts = [*parts[: MAX_FOLDER_DEPTH - 1], _truncate("_".join(parts[MAX_FOLDER_DEPTH - 1 :]))]
    parts.append(_safe_part(filename))
    if parts[0].casefold() == INTERNAL_FOLDER:
        parts[0] = "_" + parts[0]
    return tuple(parts)


def collision_key(parts: PathParts) -> str:
    """What two paths have in common that some file system holds to be one (case, Unicode composition)."""
    path = "/".join(parts)
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def with_suffix(parts: PathParts, suffix: str) -> PathParts:
    """The same path with ``~suffix`` before the file's extension."""
    path = PurePosixPath(parts[-1])
    return (*parts[:-1], _truncate_to_fit(path.stem, f"~{suffix}{path.suffix}"))


def owner_suffix(task_id: str) -> str:
    """What tells one task's file from another's that has the name already."""
    return hashlib.sha256(task_id.encode()).hexdigest()[:8]


def candidate_paths(wanted: PathParts, task_id: str) -> Iterator[PathParts]:
    """The paths that a task's file may be given, the best first, where others have theirs already. Without end."""
    yield wanted
    suffix = owner_suffix(task_id)
    for number in count(1):
        yield with_suffix(wanted, suffix if number == 1 else f"{suffix}~{number}")


def as_object_key(parts: PathParts, room: int) -> str:
    """A path as one name of at most ``room`` bytes; of one that is too long the folders are cut, and a hash added."""
    path = "/".join(parts)
    if len(path.encode()) <= room:
        return path
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    folders = "/".join(parts[:-1]).encode()[: room - len(parts[-1].encode()) - len(digest) - 2]
    return f"{folders.decode(errors='ignore').rstrip('/. ')}~{digest}/{parts[-1]}"


def plan_paths(files: Sequence[ExportFile]) -> dict[str, PathParts]:
    """A path for each file of a task, in their order and by ``collision_key``; none is a folder of another."""
    wanted = [safe_path(file.folder, file.filename) for file in files]
    # Folders come first: a file can give way to a folder, but not the other way round.
    folders = {collision_key(parts[:depth]) for parts in wanted for depth in range(1, len(parts))}
    planned: dict[str, PathParts] = {}
    for parts in wanted:
        candidate, number = parts, 1
        while (key := collision_key(candidate)) in planned or key in folders:
            number += 1
            candidate = with_suffix(parts, str(number))
        planned[key] = candidate
    return planned


def _safe_part(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _sanitize(text)


def _sanitize(text: str) -> str:
    text = unicodedata.normalize("NFC", _UNSAFE.sub("_", text)).strip()
    if text.endswith((".", " ")):
        text = text.rstrip(". ") + "_"
    if not text.strip("."):
        text = "_"
    if _RESERVED.match(text):
        text = "_" + text
    return _truncate(text)


def _truncate(text: str) -> str:
    """Cut a part that is too long; a hash of the whole keeps different ones apart."""
    if len(text.encode()) <= MAX_NAME_BYTES:
        return text
    path = PurePosixPath(text)
    suffix = path.suffix if len(path.suffix.encode()) <= 32 else ""
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return _truncate_to_fit(path.stem if suffix else text, f"~{digest}{suffix}")


def _truncate_to_fit(stem: str, ending: str) -> str:
    room = MAX_NAME_BYTES - len(ending.encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(". ") + ending
