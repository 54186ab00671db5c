"""Refuses configurations in which two destinations, or a destination and the exporter's own files, share a place.

Each destination keeps its own index of owners and replaces what a task delivered before. So two of them in one place
replace or delete each other's files and rows, independently of routes and columns. Two configurations of two exporters
are not compared: the owners of files and rows are task ids, which are the same for all exporters of one account.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from aluma_async.config import Config
from aluma_async.config.destinations import FolderConfig, ObjectStoreConfig, PluginConfig, SqlConfig, WebDavConfig
from aluma_async.config.mistakes import Mistakes
from aluma_async.destinations.common.locations import Mount, Relation, locate, read_mounts, relate
from aluma_async.destinations.common.place import DatabaseFile, FolderPlace, Place, TablePlace, holds_file, overlap
from aluma_async.exceptions import ConfigError
from aluma_async.ports import Destination

_SEPARATE = "Give each destination a place of its own; routes may send different files to one destination."
_SEPARATE_TABLES = (
    "Give each destination a table of its own, and write schema.table for both if only the schemas differ; "
    "routes may send different files to one destination."
)


def check_places(config: Config, destinations: Mapping[str, Destination]) -> None:
    """Raise ``ConfigError`` if two of the destinations, or one and the exporter's own files, overlap. Blocks.

    Args:
        config: Names the state folder and the files with secrets.
        destinations: The opened destinations. Those with an attribute ``place`` are compared by it.
    """
    mounts, mistakes = read_mounts(), Mistakes()
    places = {
        name: place
        for name, destination in destinations.items()
        if isinstance(place := getattr(destination, "place", None), Place)
    }
    for one, other in combinations(destinations, 2):
        same_plugin = _is_same_plugin(config.destinations.get(one), config.destinations.get(other))
        with mistakes.collect(("destinations", other)):
            if destinations[one] is destinations[other] or same_plugin:
                raise ConfigError(f"[destinations.{other}]: is the same as [destinations.{one}]", hint=_SEPARATE)
            if one in places and other in places:
                _check_pair(one, places[one], other, places[other], mounts)
    for name, place in places.items():
        with mistakes.collect(("destinations", name)):
            _check_manifest(name, place)
            _check_own_files(config, name, place, mounts)
    with mistakes.collect():
        _check_state(config, mounts)
    mistakes.raise_all()


def check_config_file(config: Config, file: Path | None) -> None:
    """Raise ``ConfigError`` if an exported file could replace the file of the configuration. Blocks."""
    mistakes = Mistakes()
    for name, destination in config.destinations.items():
        if isinstance(destination, FolderConfig) and destination.on_conflict == "overwrite" and file:
            with mistakes.collect(("destinations", name)):
                _check_file(name, destination.path, "the configuration", file, read_mounts())
    mistakes.raise_all()


def _check_pair(one: str, place: Place, other: str, other_place: Place, mounts: Sequence[Mount]) -> None:
    relation = overlap(other_place, place, mounts)
    if not relation:
        return
    if isinstance(place, TablePlace) and isinstance(other_place, TablePlace):
        raise ConfigError(
            f"[destinations.{other}] table: can be the same table as that of [destinations.{one}]; "
            "each would replace or delete the other's rows, whatever columns and routes they have",
            hint=_SEPARATE_TABLES,
        )
    raise ConfigError(
        f"[destinations.{other}]: its place {relation} that of [destinations.{one}]; "
        "each would replace the other's files, whatever the routes are",
        hint=_SEPARATE,
    )


def _check_manifest(name: str, place: Place) -> None:
    if isinstance(place, TablePlace) and place.manifest and place.table == place.manifest:
        raise ConfigError(
            f"[destinations.{name}] table: is the table of manifests", hint="Choose another table, or manifest = false."
        )


def _check_own_files(config: Config, name: str, place: Place, mounts: Sequence[Mount]) -> None:
    """Compare a destination with the state folder and with the files that the configuration names."""
    match place:
        case FolderPlace(path=path):
            pass
        case TablePlace(database=DatabaseFile(path=path)):
            pass
        case _:
            return
    for label, folder in _state_folders(config):
        relation = relate(locate(path, mounts), locate(folder, mounts))
        if relation:
            raise ConfigError(
                f"[destinations.{name}] {path}: {relation} the {label} {folder}; "
                "exported files could replace the exporter's own, or the reverse",
                hint="Choose another folder for one of them; --state sets the state folder.",
            )
    if isinstance(place, FolderPlace):
        for label, file in named_files(config):
            _check_file(name, path, label, file, mounts)


def _check_file(name: str, folder: Path, label: str, file: Path, mounts: Sequence[Mount]) -> None:
    if holds_file(folder, file, mounts):
        raise ConfigError(
            f"[destinations.{name}] {folder}: contains {label}, {file}; an exported file could replace it",
            hint="Move that file out of the folder.",
        )


def _check_state(config: Config, mounts: Sequence[Mount]) -> None:
    """Compare the folders below the state folder, which may be links, and look for secrets in them."""
    folders = _state_folders(config)
    for (_, one), (label, other) in combinations(folders, 2):
        expected = Relation.CONTAINS if one == folders[0][1] else None
        relation = relate(locate(one, mounts), locate(other, mounts))
        if relation not in (expected, None):
            raise ConfigError(f"the {label} {other}: overlaps with {one}", hint="Remove the link.")
    for label, file in named_files(config):
        if holds_file(config.quarantine_folder(), file, mounts):
            raise ConfigError(f"{label}, {file}: is in the quarantine", hint="Move that file out of the folder.")


def _state_folders(config: Config) -> list[tuple[str, Path]]:
    state = config.state_folder()
    return [("state folder", state), ("quarantine", config.quarantine_folder()), ("spool folder", state / "spool")]


def named_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield the files that the configuration names, with section and key; most of them contain secrets."""
    files: list[tuple[str, Any]] = [
        ("[aluma] client_secret_file", config.aluma.client_secret_file),
        ("[aluma] ca_file", config.aluma.ca_file),
    ]
    for name, destination in config.destinations.items():
        section = f"[destinations.{name}]"
        match destination:
            case SqlConfig():
                files.append((f"{section} url_file", destination.url_file))
            case WebDavConfig():
                files += [(f"{section} {key}", getattr(destination, key)) for key in _WEBDAV_FILES]
            case ObjectStoreConfig():
                options = destination.options.items()
                files += [
                    (f"{section} options.{key}", value.get("file")) for key, value in options if isinstance(value, dict)
                ]
    for label, file in files:
        if file:
            yield label, Path(file).expanduser()


_WEBDAV_FILES = ("password_file", "token_file", "ca_file")


def _is_same_plugin(one: object, other: object) -> bool:
    return isinstance(one, PluginConfig) and one == other
