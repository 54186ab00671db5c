"""Maps untrusted names (folder + filename) to a safe relative path below any root. Pure.

A name that is unsafe on one system is changed on all systems, so that the name of a file does not depend on its
destination. The same input always gives the same path. Safe names stay unchanged.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Literal, TypeAlias

from aluma_async.models import ExportFile

PathParts: TypeAlias = tuple[str, ...]
"""The parts of a relative path; no part is empty, "." or ".."."""

OnConflict: TypeAlias = Literal["keep-both", "overwrite", "fail"]
"""What a destination does if a file of another task already has the path."""

MAX_NAME_BYTES = 255
"""Length limit of a part in UTF-8 bytes, as in ext4, XFS, APFS and others."""
MAX_FOLDER_DEPTH = 32
"""Number of folders in a path; deeper folders are joined into the last one."""
_MAX_EXTENSION_BYTES = 32
"""Length above which the text after the last dot is not kept as an extension."""
_MAX_SUFFIX_BYTES = 16
"""Length that suffixes do not exceed in practice; a name that leaves no room for it may be truncated."""
INTERNAL_FOLDER = ".aluma-async"
"""The exporter's folder below the root; no exported file may have a path in it."""

# C0, DEL, C1, zero-width and bidirectional controls, lone surrogates, separators, and characters that Windows forbids.
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff<>:"|?*/\\\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9¹²³])(?=\Z|\s*\.)", re.IGNORECASE)
_SEPARATOR = re.compile(r"[/\\]")
# A fast path: most parts match it, and all parts that match are safe.
_PLAIN = re.compile(rf"(?!(?i:{_RESERVED.pattern}))[\w-](?:[\w (),.+-]{{0,200}}[\w()+-])?", re.ASCII)


def safe_path(folder: str, filename: str) -> PathParts:
    """Return the path of a file: never empty, never outside the root."""
    parts = [_safe_part(part) for part in _SEPARATOR.split(folder) if part.strip(" .")]
    if len(parts) > MAX_FOLDER_DEPTH:
        parts = [*parts[: MAX_FOLDER_DEPTH - 1], _truncate("_".join(parts[MAX_FOLDER_DEPTH - 1 :]))]
    parts.append(_safe_part(filename))
    if parts[0].casefold() == INTERNAL_FOLDER or (not parts[0].isascii() and loose_key(parts[:1]) == INTERNAL_FOLDER):
        parts[0] = "_" + parts[0]
    return tuple(parts)


def collision_key(parts: PathParts) -> str:
    """Return a key that is equal for paths which a file system may consider equal (case, Unicode composition)."""
    path = "/".join(parts)
    if path.isascii():
        return path.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def loose_key(parts: Sequence[str]) -> str:
    """Return a key that is equal also for paths which only some servers consider equal.

    Databases behind servers may ignore accents, the width of letters and invisible characters, and servers on Windows
    remove dots and spaces at the end of a name.
    """
    path = "/".join(parts)
    if not path.isascii():
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", path).casefold())
        path = "".join(c for c in folded if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    return "/".join(part.rstrip(". ") for part in path.lower().split("/"))


def with_suffix(parts: PathParts, suffix: str) -> PathParts:
    """Return the path with ``~suffix`` before the file's extension."""
    stem, extension = _split(parts[-1])
    return (*parts[:-1], _truncate_to_fit(stem, f"~{suffix}{extension}"))


def fit_names(parts: PathParts, max_bytes: int) -> PathParts:
    """Return the path with names of at most ``max_bytes``, for a file system with a lower limit than most."""
    return tuple(_truncate(part, max_bytes) for part in parts)


def owner_suffix(task_id: str) -> str:
    """Return the suffix that distinguishes a task's file from another task's file of the same name."""
    return hashlib.sha256(task_id.encode(errors="surrogatepass")).hexdigest()[:8]


def candidate_paths(wanted: PathParts, task_id: str) -> Iterator[PathParts]:
    """Yield, without end, the possible paths of a task's file, in order of preference."""
    yield wanted
    # The name is a part of the hash if it may be truncated, so that the names of a task's files stay distinct.
    is_long = len(wanted[-1].encode()) > MAX_NAME_BYTES - _MAX_SUFFIX_BYTES
    suffix = owner_suffix(f"{task_id}/{wanted[-1]}" if is_long else task_id)
    for number in count(1):
        yield with_suffix(wanted, suffix if number == 1 else f"{suffix}~{number}")


def as_object_key(parts: PathParts, max_bytes: int) -> str:
    """Return a path as an object key of at most ``max_bytes``; if it is longer, shorten the folders and add a hash."""
    path = "/".join(parts)
    if len(path.encode()) <= max_bytes:
        return path
    digest = hashlib.sha256(path.encode()).hexdigest()[:8]
    folders = "/".join(parts[:-1]).encode()[: max_bytes - len(parts[-1].encode()) - len(digest) - 2]
    return f"{folders.decode(errors='ignore').rstrip('/. ')}~{digest}/{parts[-1]}"


def plan_paths(
    files: Sequence[ExportFile], key_of: Callable[[PathParts], str] = collision_key, *, own: ExportFile | None = None
) -> dict[str, PathParts]:
    """Return a path for each file of a task, in order, by its key. No path is a folder of another one.

    ``key_of`` returns equal keys for paths that must not occur twice. ``own`` is a file of the exporter, and comes
    last. Its folder is reserved: another file that would be in it gets an underscore before the folder's name.
    """
    wanted = [safe_path(file.folder, file.filename) for file in files]
    if own is not None:
        reserved = key_of((own.folder,))
        wanted = [(f"_{one[0]}", *one[1:]) if key_of(one[:1]) == reserved else one for one in wanted]
        wanted.append(safe_path(own.folder, own.filename))
    # Folders take precedence, because a file can be renamed, but a folder of other files cannot.
    folders = {
        key_of(folder[:depth]) for folder in {parts[:-1] for parts in wanted} for depth in range(1, len(folder) + 1)
    }
    planned: dict[str, PathParts] = {}
    numbers: dict[str, int] = {}  # the last number of each stem, so that no number is tried for each further file
    for parts in wanted:
        candidate = parts
        while (key := key_of(candidate)) in planned or key in folders:
            stem = key_of(with_suffix(parts, "0" * _MAX_SUFFIX_BYTES))
            numbers[stem] = numbers.get(stem, 1) + 1
            candidate = with_suffix(parts, str(numbers[stem]))
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


def _truncate(text: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Truncate a part that is too long; a hash of the whole part keeps different parts distinct."""
    if len(text.encode()) <= max_bytes:
        return text
    stem, extension = _split(text)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return _truncate_to_fit(stem, f"~{digest}{extension}", max_bytes)


def _split(name: str) -> tuple[str, str]:
    """Return a name without its extension, and the extension, which is empty if it is very long."""
    stem, dot, extension = name.rpartition(".")
    is_extension = stem and extension and len(extension.encode()) < _MAX_EXTENSION_BYTES
    return (stem, dot + extension) if is_extension else (name, "")


def _truncate_to_fit(stem: str, ending: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    return stem.encode()[: max_bytes - len(ending.encode())].decode(errors="ignore").rstrip(". ") + ending
