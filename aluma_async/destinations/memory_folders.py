"""Finds the exporter's folders that are on a file system in memory, by the kernel's table of mounts (Linux).

Such a file system confirms each sync, and loses all files when the machine or the container stops.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from aluma_async.config import Config
from aluma_async.config.destinations import FolderConfig, SqlConfig
from aluma_async.destinations.common.locations import Mount, file_system_of, read_mounts

_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})


def memory_warnings(config: Config, mounts: Sequence[Mount] | None = None) -> list[str]:
    """Return a warning for the state folder and for each destination that is in memory. Blocks.

    ``mounts``: the table of mounts; by default, that of this process.
    """
    mounts = read_mounts() if mounts is None else mounts
    return [
        f"{label} {path}: is on a file system in memory ({kind}), which loses all files when the machine stops; "
        "use a folder on a disk"
        for label, path in _folders(config)
        if (kind := file_system_of(path, mounts)) in _IN_MEMORY
    ]


def _folders(config: Config) -> Iterator[tuple[str, Path]]:
    yield "state folder", config.state_folder()
    for name, destination in config.destinations.items():
        if isinstance(destination, FolderConfig):
            yield f"destination {name}", destination.path
        elif isinstance(destination, SqlConfig) and (file := destination.sqlite_file(os.environ)):
            yield f"destination {name}", file
