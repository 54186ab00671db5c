"""The places that destinations write to, and which of them overlap. All of it is about names; it sends no request.

Where it is not certain that two places are different, they count as the same: a refused configuration costs a minute,
and two destinations that replace each other's files cost documents.
"""

import ipaddress
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from aluma_async.destinations.common.locations import Mount, Relation, locate, relate

ANY = ""
"""A part of a place that is not known. It may be equal to every other one."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class FolderPlace(Struct, frozen=True):
    """A folder, with everything below it."""

    path: Path


class DatabaseFile(Struct, frozen=True):
    """A database that is a file on this machine."""

    path: Path


class DatabaseServer(Struct, frozen=True):
    """A database on a server."""

    hosts: AbstractSet[tuple[str, str]]
    """Host and port of each server of the cluster; empty if unknown."""
    name: str


class TablePlace(Struct, frozen=True):
    """The tables of a database whose names match a template."""

    database: DatabaseFile | DatabaseServer
    schema: str
    table: str
    """Name of the table, with placeholders in braces."""
    manifest: str = ""
    """Name of the table of manifests; empty if there is none."""


class RemotePlace(Struct, frozen=True):
    """A folder on a server, or a prefix in a bucket, with everything below it."""

    kind: str
    server: str
    """Host, or endpoint and account."""
    path: tuple[str, ...]
    """Parts of the path; for an object store, the bucket is the first one."""


Place: TypeAlias = FolderPlace | TablePlace | RemotePlace


def overlap(one: Place, other: Place, mounts: Sequence[Mount] = ()) -> Relation | None:
    """Return how ``one`` is related to ``other``; None if they have nothing in common. Blocks."""
    match one, other:
        case FolderPlace(), FolderPlace():
            return relate(locate(one.path, mounts), locate(other.path, mounts))
        case FolderPlace(), TablePlace(database=DatabaseFile() as file):
            return Relation.CONTAINS if holds_file(one.path, file.path, mounts) else None
        case TablePlace(), FolderPlace():
            relation = overlap(other, one, mounts)
            return relation and relation.inverse
        case TablePlace(), TablePlace():
            return Relation.SAME if _share_a_table(one, other, mounts) else None
        case RemotePlace(), RemotePlace():
            return _relate_remote(one, other)
    return None


def holds_file(folder: Path, file: Path, mounts: Sequence[Mount] = ()) -> bool:
    """Return whether a file, or the symbolic link to it, is somewhere below a folder. Blocks."""
    location = locate(folder, mounts)
    for place in (locate(file, mounts), locate(file.parent, mounts)):
        if relate(location, place) in (Relation.SAME, Relation.CONTAINS):
            return True
    return False


def server_name(url: str) -> str:
    """Return host and port of a URL; equal for http and https with their default ports, and for all loopbacks."""
    parts = urlsplit(url)
    host, port = host_name(parts.hostname or ""), parts.port
    return host if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f"{host}:{port}"


def host_name(host: str) -> str:
    """Return a host without differences of spelling; one name for all names of this machine that are certain."""
    host = host.lower().rstrip(".")
    if not host or host.startswith("/"):  # a socket in the file system
        return "localhost"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "localhost" if host.startswith("localhost.") else host
    return "localhost" if address.is_loopback else str(address)


def templates_overlap(one: str, other: str) -> bool:
    """Return whether some name matches both templates; each placeholder may stand for any text."""
    first, second = _parse(one), _parse(other)
    reached = {(0, 0)}
    pending = [(0, 0)]
    while pending:
        i, j = pending.pop()
        a, b = first[i : i + 1], second[j : j + 1]
        following = set()
        if a == [None]:
            following |= {(i + 1, j)} | ({(i, j + 1)} if b else set())
        if b == [None]:
            following |= {(i, j + 1)} | ({(i + 1, j)} if a else set())
        if a and a == b:
            following.add((i + 1, j + 1))
        pending += following - reached
        reached |= following
    return (len(first), len(second)) in reached


def _parse(template: str) -> list[str | None]:
    """Return the characters of a template, with None for each placeholder."""
    text = template.replace("{folder}", "\0").replace("{stem}", "\0")
    return [None if character == "\0" else character for character in text]


def _share_a_table(one: TablePlace, other: TablePlace, mounts: Sequence[Mount]) -> bool:
    if not _same_database(one.database, other.database, mounts):
        return False
    if ANY not in (one.schema, other.schema) and one.schema != other.schema:
        return False
    pairs = ((one.table, other.table), (one.table, other.manifest), (one.manifest, other.table))
    return any(first and second and templates_overlap(first, second) for first, second in pairs)


def _same_database(
    one: DatabaseFile | DatabaseServer, other: DatabaseFile | DatabaseServer, mounts: Sequence[Mount]
) -> bool:
    match one, other:
        case DatabaseFile(), DatabaseFile():
            return relate(locate(one.path, mounts), locate(other.path, mounts)) is Relation.SAME
        case DatabaseServer(), DatabaseServer():
            same_server = not one.hosts or not other.hosts or bool(one.hosts & other.hosts)
            return same_server and (one.name == other.name or ANY in (one.name, other.name))
    return False


def _relate_remote(one: RemotePlace, other: RemotePlace) -> Relation | None:
    if one.kind != other.kind or (one.server != other.server and ANY not in (one.server, other.server)):
        return None
    if one.path == other.path:
        return Relation.SAME
    if one.path == other.path[: len(one.path)]:
        return Relation.CONTAINS
    return Relation.INSIDE if other.path == one.path[: len(other.path)] else None
