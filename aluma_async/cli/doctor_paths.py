"""The files and folders of an installation, one line each: kind, mode, owner, access and free space."""

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

from aluma_async.concurrency.daemon_threads import DaemonThreads
from aluma_async.config import Config
from aluma_async.config.destinations import FolderConfig, SqlConfig
from aluma_async.exceptions import ConfigError
from aluma_async.service.formatting import format_bytes

MAX_SECONDS = 10.0
"""Seconds in which a file server has to respond."""


def path_lines(config: Config, config_file: Path | None, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each file and folder, and for each destination elsewhere. Writes nothing."""
    from aluma_async.destinations.places import named_files  # slow to import

    threads = DaemonThreads(16, "doctor")  # a share that does not respond must not prevent the report
    if config_file:
        yield limited_line("configuration", config_file, threads)
    for label, file in named_files(config):
        yield limited_line(label, file, threads)
    try:
        yield limited_line("state folder", config.state_folder(environ), threads)
        yield limited_line("quarantine", config.quarantine_folder(environ), threads)
    except ConfigError as error:
        yield str(error)
    for name, destination in config.destinations.items():
        path = destination.path if isinstance(destination, FolderConfig) else None
        if isinstance(destination, SqlConfig):
            path = destination.sqlite_file(environ)
        label = f"destination {name}"
        yield limited_line(label, path, threads) if path else f"{label}: {destination.description}"
    threads.shutdown(wait=False)


def limited_line(
    label: str,
    path: Path,
    threads: DaemonThreads,
    describe: Callable[[Path], str] | None = None,
    seconds: float = MAX_SECONDS,
) -> str:
    """Return the line of a path, also if its file server does not respond."""
    try:
        return f"{label}: {path}: {threads.submit(describe or describe_path, path).result(seconds)}"
    except (TimeoutError, FutureTimeoutError):
        return f"{label}: {path}: no response within {seconds:g} s"


def describe_path(path: Path) -> str:
    """Return kind, mode, owner, access and free space of a path, or of the folder in which it would be created."""
    try:
        status = path.stat()
    except FileNotFoundError:
        parent = next((one for one in path.absolute().parents if one.exists()), None)
        return f"does not exist; in {parent}: {describe_path(parent)}" if parent else "does not exist"
    except OSError as error:
        return f"cannot be examined: {error.strerror}"
    is_folder = stat.S_ISDIR(status.st_mode)
    return ", ".join(
        (
            f"{'link to a ' if path.is_symlink() else ''}{'folder' if is_folder else 'file'}",
            f"mode {stat.S_IMODE(status.st_mode):04o}",
            f"owner {_owner(path, status)}",
            _access(path),
            _space(path) if is_folder else format_bytes(status.st_size),
        )
    )


def _owner(path: Path, status: os.stat_result) -> str:
    try:
        return f"{path.owner()} ({status.st_uid})"
    except (KeyError, NotImplementedError, OSError):  # no such user, or no users
        return str(status.st_uid)


def _access(path: Path) -> str:
    effective = os.access in os.supports_effective_ids
    kinds = (("readable", os.R_OK), ("writable", os.W_OK))
    allowed = [name for name, kind in kinds if os.access(path, kind, effective_ids=effective)]
    return " and ".join(allowed) or "neither readable nor writable"


def _space(path: Path) -> str:
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        return f"free space unknown: {error.strerror}"
    return f"{format_bytes(usage.free)} free of {format_bytes(usage.total)}"
