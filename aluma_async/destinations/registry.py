"""Maps each ``type`` of destination to its class. A new destination is one file, and one line here.

Modules that need an optional package are imported only when their type is used.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from aluma_async.concurrency.daemon_threads import DaemonThreads
from aluma_async.config.destinations import (
    DestinationConfig,
    FolderConfig,
    ObjectStoreConfig,
    PluginConfig,
    SqlConfig,
    WebDavConfig,
)
from aluma_async.destinations.folder.destination import FolderDestination
from aluma_async.destinations.plugin import open_plugin
from aluma_async.destinations.webdav.client import open_session
from aluma_async.destinations.webdav.destination import WebDavDestination
from aluma_async.exceptions import ConfigError
from aluma_async.ports import Destination

FILE_THREADS = 16
"""Threads of a folder destination: enough for a file system to merge the syncs of many tasks."""


@asynccontextmanager
async def open_destinations(
    configs: Mapping[str, DestinationConfig], state: Path
) -> AsyncIterator[dict[str, Destination]]:
    """Open destinations, by name. Their local files are stored below ``state``.

    Raises ``ConfigError``. Nothing is sent or written yet.
    """
    async with AsyncExitStack() as stack:
        yield {name: _open(name, config, state, stack) for name, config in configs.items()}


def open_folder(config: FolderConfig, state: Path, stack: AsyncExitStack) -> Destination:
    """Open a folder destination."""
    executor = stack.enter_context(DaemonThreads(FILE_THREADS, "aluma-async-files"))
    destination = FolderDestination(
        config.path,
        newline=config.newline,
        on_conflict=config.on_conflict,
        durability=config.durability,
        manifest=config.manifest,
        executor=executor,
        mounts=state / "mounts",
        file_mode=int(config.file_mode, 8) if config.file_mode else None,
        folder_mode=int(config.folder_mode, 8) if config.folder_mode else None,
    )
    stack.callback(destination.close)
    return destination


def _open_sql(config: SqlConfig, state: Path, stack: AsyncExitStack) -> Destination:
    from aluma_async.destinations.sql.convert import FileFormat
    from aluma_async.destinations.sql.destination import SqlDestination

    destination = SqlDestination(
        config.database_url(os.environ),
        config.table,
        key=config.key,
        create=config.create,
        mode=config.mode,
        column_types=config.column_types,
        file_format=FileFormat(
            column_names=config.column_names,
            header_names=config.header_names,
            delimiter=config.delimiter,
            encoding=config.encoding,
            decimal=config.decimal,
            date_format=config.date_format,
        ),
        trigger_columns=config.trigger_columns,
        manifest=config.manifest,
        spool=state / "spool",
    )
    stack.push_async_callback(destination.close)
    return destination


def _open_object_store(config: ObjectStoreConfig, state: Path, stack: AsyncExitStack) -> Destination:  # noqa: ARG001
    from aluma_async.destinations.object_store.destination import ObjectStoreDestination

    return ObjectStoreDestination(
        config.url,
        options=config.read_options(os.environ),
        on_conflict=config.on_conflict,
        manifest=config.manifest,
        spool=state / "spool",
    )


def _open_webdav(config: WebDavConfig, state: Path, stack: AsyncExitStack) -> Destination:
    session = open_session(config.authorization(), config.ca_file)
    stack.push_async_callback(session.close)
    return WebDavDestination(
        session, config.url, on_conflict=config.on_conflict, manifest=config.manifest, spool=state / "spool"
    )


_OPENERS: Mapping[type[Any], Callable[[Any, Path, AsyncExitStack], Destination]] = {
    FolderConfig: open_folder,
    SqlConfig: _open_sql,
    ObjectStoreConfig: _open_object_store,
    WebDavConfig: _open_webdav,
    PluginConfig: open_plugin,
}
_EXTRAS: Mapping[type[Any], str] = {SqlConfig: "sql", ObjectStoreConfig: "object-store"}
"""Extra requirements of this package that a type needs."""


def _open(name: str, config: DestinationConfig, state: Path, stack: AsyncExitStack) -> Destination:
    try:
        return _OPENERS[type(config)](config, state, stack)
    except ConfigError as error:
        raise ConfigError(f"[destinations.{name}] {error}", hint=error.hint) from None
    except ModuleNotFoundError as error:
        if type(config) not in _EXTRAS:
            raise
        raise ConfigError(
            f"[destinations.{name}]: needs {error.name}, which is not installed",
            hint=f"Run: pip install 'aluma-async[{_EXTRAS[type(config)]}]'",
        ) from None
