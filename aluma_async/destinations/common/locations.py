"""Compares locations in the file system, so that two spellings of one folder are recognized.

Symbolic links are resolved. Device and inode of the existing folders decide, because a file system may ignore case.
Bind mounts, also those of a sub-folder, are recognized by the kernel's table of mounts (Linux). Not recognized: one
share that is mounted twice over different protocols or servers. It reads no file content.
"""

import os
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from aluma_async.policy.naming import collision_key

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")

Inode: TypeAlias = tuple[int, int]
"""Device and inode."""


class Relation(StrEnum):
    """How one location is related to another. The values are parts of messages."""

    SAME = "is the same as"
    INSIDE = "is inside"
    CONTAINS = "contains"

    @property
    def inverse(self) -> "Relation":
        """The relation of the other location to this one."""
        return {Relation.INSIDE: Relation.CONTAINS, Relation.CONTAINS: Relation.INSIDE}.get(self, self)


class Location(Struct, frozen=True):
    """A path, with all that is known about it in the file system."""

    existing: tuple[Inode, ...]
    """The existing folders from the root on; the last one is the path itself, if it exists."""
    missing: tuple[str, ...]
    """The names that follow and do not exist yet, without case, because the file system may ignore it."""
    on_device: tuple[str, ...] = ()
    """Device and path below the root of its file system; empty if unknown."""


class Mount(Struct, frozen=True):
    """A mounted file system, or a part of one."""

    device: str
    root: tuple[str, ...]
    """The part that is mounted, as a path below the root of the file system."""
    point: tuple[str, ...]
    """The folder where it is mounted."""
    file_system: str = ""
    """The type of the file system; empty if unknown."""


def locate(path: Path, mounts: Sequence[Mount] = ()) -> Location:
    """Return the location of a path that need not exist. Blocks."""
    parts = Path(os.path.realpath(path)).parts
    existing: list[Inode] = []
    for depth in range(1, len(parts) + 1):
        try:
            status = os.stat(Path(*parts[:depth]))  # noqa: PTH116 - `Path.stat` is the same
        except OSError:
            break
        existing.append((status.st_dev, status.st_ino))
    missing = tuple(collision_key((name,)) for name in parts[len(existing) :])
    return Location(tuple(existing), missing, _on_device(parts, mounts))


def relate(one: Location, other: Location) -> Relation | None:
    """Return how ``one`` is related to ``other``; None if neither contains the other."""
    if _contains(one, other):
        return Relation.SAME if _contains(other, one) else Relation.CONTAINS
    return Relation.INSIDE if _contains(other, one) else None


def read_mounts(table: Path = _MOUNTS) -> list[Mount]:
    """Return all mounts that this process sees, in the order in which they were mounted; none if unknown. Blocks."""
    try:
        lines = table.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []
    mounts = []
    for line in lines:  # number, number of the parent, device, root, mount point, ... - type, ...
        fields, kind = line.split(" "), line.partition(" - ")[2].partition(" ")[0]
        root, point = (Path(_ESCAPE.sub(_unescape, field)).parts for field in fields[3:5])
        mounts.append(Mount(fields[2], root, point, kind))
    return mounts


def file_system_of(path: Path, mounts: Sequence[Mount]) -> str:
    """Return the type of the file system of a path, which need not exist; empty if unknown. Blocks."""
    mount = _mount_of(Path(os.path.realpath(path)).parts, mounts)
    return mount.file_system if mount else ""


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1], 8))


def _on_device(parts: tuple[str, ...], mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Return the device and the path on it."""
    found = _mount_of(parts, mounts)
    return (found.device, *found.root, *parts[len(found.point) :]) if found else ()


def _mount_of(parts: tuple[str, ...], mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount of a path; the last of several mounts at one folder hides the others."""
    found: Mount | None = None
    for mount in mounts:
        if parts[: len(mount.point)] == mount.point and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _contains(outer: Location, inner: Location) -> bool:
    if outer.on_device and inner.on_device[: len(outer.on_device)] == outer.on_device:
        return True
    if not outer.existing:
        return False
    if outer.missing:
        return outer.existing[-1:] == inner.existing[-1:] and inner.missing[: len(outer.missing)] == outer.missing
    return outer.existing[-1] in inner.existing
