"""Builds a client or an exporter from a ``Config``. No other module combines the concrete classes."""

import os
import random
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import aiohttp
import anyio.to_thread

from aluma_async.aluma.client import AlumaClient
from aluma_async.aluma.download import DownloadLimits
from aluma_async.aluma.redirects import PublicResolver
from aluma_async.clock import system_clock
from aluma_async.config import Config, Credentials, FolderConfig
from aluma_async.config.credentials import source_id
from aluma_async.config.reload import restart_required
from aluma_async.config.tls import ssl_context
from aluma_async.connections import GuardedConnector
from aluma_async.destinations.places import check_places
from aluma_async.destinations.registry import open_destinations, open_folder
from aluma_async.destinations.router import DestinationRouter
from aluma_async.events import Event, TaskCompleted
from aluma_async.exceptions import ConfigError
from aluma_async.journal.history import History
from aluma_async.journal.opening import open_journal
from aluma_async.pipeline.confirmed import ConfirmedDestination, ConfirmedJournal, ConfirmedSource, ConfirmedTask
from aluma_async.pipeline.exporter import Exporter
from aluma_async.pipeline.pauses import MAX_URGENT_PAUSE_SECONDS
from aluma_async.pipeline.selection import Select, SelectedSource
from aluma_async.pipeline.throttle import Outage, Throttle
from aluma_async.policy.backoff import Backoff, RetryPolicy
from aluma_async.policy.partition import Partition
from aluma_async.ports import Destination, OnEvent, TaskSource
from aluma_async.private_files import check_folder
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.quarantine.source import QuarantineSource

_USER_AGENT = f"aluma-async/{version('aluma-async')}"
_READ_BUFFER_BYTES = 1024 * 1024  # a connection buffers twice as much before it stops reading
_NO_LEASE_SECONDS = 366 * 86400.0  # no other exporter can claim a copy in the quarantine
_MIN_DESTINATION_SECONDS = 60.0  # a commit may take so long, even if the service shall be restarted earlier
_KEEP_ALIVE_SECONDS = 15.0  # shorter than that of load balancers, so that no PUT is sent on a closing connection


@asynccontextmanager
async def open_client(
    config: Config, credentials: Credentials | None = None, *, on_event: OnEvent | None = None
) -> AsyncIterator[AlumaClient]:
    """Open a client of the configured API. Raises ``ConfigError``. Sends no request yet."""
    async with _open_client(config, credentials, _make_throttle(config, on_event), on_event) as client:
        yield client


@asynccontextmanager
async def _open_client(
    config: Config, credentials: Credentials | None, throttle: Throttle, on_event: OnEvent | None
) -> AsyncIterator[AlumaClient]:
    credentials = credentials or config.credentials()
    downloads = DownloadLimits(
        hosts=config.aluma.download_hosts,
        verify_content=config.aluma.verify_content,
        max_bytes=config.limits.max_file_bytes,
        max_specification_bytes=config.limits.max_specification_bytes,
        min_bytes_per_second=config.limits.min_bytes_per_second,
    )
    connector = GuardedConnector(
        limit=0,  # the throttle limits requests, and its limit may change
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        ssl=ssl_context(config.aluma.ca_file, "[aluma] "),
        resolver=PublicResolver(aiohttp.DefaultResolver(), config.aluma.download_hosts),
    )
    async with aiohttp.ClientSession(
        connector=connector,
        read_bufsize=_READ_BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": _USER_AGENT},
        proxy=config.aluma.proxy or None,
    ) as session:
        client = AlumaClient(
            session,
            config.aluma.base_url,
            credentials,
            projects=config.aluma.projects,
            downloads=downloads,
            max_files=config.limits.max_files,
            request_limiter=throttle,
            on_event=on_event,
        )
        throttle.paused_requests = lambda: client.paused_requests
        yield client


class ReloadableExporter:
    """An exporter whose workers, limits and routes can be changed while it runs."""

    def __init__(
        self,
        config: Config,
        exporter: Exporter,
        throttle: Throttle,
        router: DestinationRouter,
        extra_destinations: Collection[str],
        warnings: Sequence[str],
    ) -> None:
        self.exporter = exporter
        self.warnings = warnings
        """Who else can change the exporter's own files."""
        self._config = config
        self._throttle = throttle
        self._router = router
        self._extra_destinations = extra_destinations

    @property
    def outage(self) -> Outage:
        """The time for which no request to Aluma has succeeded although some were sent."""
        return self._throttle.outage

    def reload(self, config: Config) -> list[str]:
        """Apply a changed config without dropping a claim; return the changed keys that require a restart."""
        restart_keys = list(restart_required(self._config, config))
        self.exporter.set_workers(config.exporter.workers)
        self._throttle.set_limits(
            config.max_at_once,
            max_per_second=config.limits.max_per_second,
            max_bytes_per_second=config.limits.max_bytes_per_second,
        )
        if "destinations" not in restart_keys:
            self._router.set_routing(config.routing(self._extra_destinations))
        return restart_keys


@asynccontextmanager
async def open_exporter(
    config: Config,
    credentials: Credentials | None = None,
    *,
    on_event: OnEvent | None = None,
    destinations: Mapping[str, Destination] | None = None,
    select: Select | None = None,
) -> AsyncIterator[Exporter]:
    """Open an exporter. Raises ``ConfigError``. Sends no request and writes no file yet.

    Args:
        config: The configuration.
        credentials: Id and secret of the API client; by default as ``Config.credentials`` collects them.
        on_event: A listener for all events.
        destinations: Additional destinations by name. Routes may name them. The caller opens and closes them.
        select: Returns whether a pending task may be claimed; by default, all may be.
    """
    async with open_reloadable_exporter(
        config, credentials, on_event=on_event, destinations=destinations, select=select
    ) as reloadable:
        yield reloadable.exporter


@asynccontextmanager
async def open_reloadable_exporter(
    config: Config,
    credentials: Credentials | None = None,
    *,
    on_event: OnEvent | None = None,
    destinations: Mapping[str, Destination] | None = None,
    select: Select | None = None,
    partition: Partition | None = None,
) -> AsyncIterator[ReloadableExporter]:
    """Open an exporter whose configuration can be changed while it runs. Other arguments as for ``open_exporter``.

    ``partition``: the tasks of this process, if several processes share the tasks; it has a journal of its own.
    """
    extra_destinations = destinations or {}
    _check_environment()
    routing, retry, state = config.routing(extra_destinations), config.retry, config.state_folder()
    credentials = credentials or config.credentials()
    throttle = _make_throttle(config, on_event)
    async with (
        _open_client(config, credentials, throttle, on_event) as client,
        open_destinations(config.destinations, state) as opened,
        AsyncExitStack() as stack,
    ):
        targets = {**opened, **extra_destinations}
        warnings = await anyio.to_thread.run_sync(check_private_folders, config)  # a share may respond slowly
        await anyio.to_thread.run_sync(check_places, config, targets)
        router = DestinationRouter(targets, routing)
        journal = open_journal(state, stack, on_event, partition)
        history = History(journal, names=config.service.history_names)
        source: TaskSource = SelectedSource(client, select) if select else client
        if partition:
            source = SelectedSource(source, lambda task: partition.contains(task.id))
        exporter = Exporter(
            source,
            router,
            workers=config.exporter.workers,
            queue_size=config.queue_size,
            journal=journal,
            quarantine=_open_quarantine(config, state, stack),
            quarantine_folder=config.quarantine_folder(),
            quarantine_max_bytes=config.exporter.quarantine_max_bytes,
            retry=RetryPolicy(retry.attempts, retry.wait_initial_seconds, retry.wait_max_seconds),
            cooldown=Backoff(retry.cooldown_initial_seconds, retry.cooldown_max_seconds),
            polling=Backoff(config.exporter.poll_wait_initial_seconds, config.exporter.poll_wait_max_seconds),
            park_seconds=retry.park_seconds,
            park_after=retry.park_after,
            claim_timeout=config.aluma.claim_timeout_seconds,
            source_id=source_id(config.aluma, credentials),
            drain_timeout=config.exporter.drain_timeout_seconds,
            destination_timeout=_destination_timeout(config),
            on_event=_with_history(history, on_event),
        )
        yield ReloadableExporter(config, exporter, throttle, router, extra_destinations, warnings)


@asynccontextmanager
async def open_redelivery(
    config: Config,
    copies: Sequence[Copy],
    *,
    incomplete: bool = False,
    replace: bool = False,
    on_event: OnEvent | None = None,
) -> AsyncIterator[tuple[Exporter, QuarantineSource]]:
    """Open an exporter that delivers copies in the quarantine, without Aluma. Raises ``ConfigError``.

    It keeps no journal and no history, never fails a task, and tries each task once. The caller has locked the state
    folder and checked the quarantine.

    Args:
        config: The configuration, with the destinations and routes of today.
        copies: The copies to deliver, one for each task.
        incomplete: Whether a task is delivered although its copy lacks files.
        replace: Whether a complete copy replaces other versions that the destinations have.
        on_event: A listener for all events.
    """
    _check_environment()
    routing, state = config.routing(), config.state_folder()
    folder = QuarantineFolder(config.quarantine_folder())
    source = QuarantineSource(
        folder, copies, incomplete=incomplete, replace=replace, verify_content=config.aluma.verify_content
    )
    async with open_destinations(config.destinations, state) as opened:
        await anyio.to_thread.run_sync(check_places, config, opened)
        exporter = Exporter(
            source,
            DestinationRouter(opened, routing),
            workers=config.exporter.workers,
            queue_size=config.queue_size,
            park_after=0,
            claim_timeout=_NO_LEASE_SECONDS,
            drain_timeout=config.exporter.drain_timeout_seconds,
            destination_timeout=_destination_timeout(config),
            on_event=on_event,
        )
        yield exporter, source


@asynccontextmanager
async def open_confirmed(
    config: Config, tasks: Mapping[str, ConfirmedTask], *, on_event: OnEvent | None = None
) -> AsyncIterator[Exporter]:
    """Open an exporter that fails tasks, by id, because the administrator has confirmed it. Raises ``ConfigError``.

    It locks the state folder, exports nothing, and tries each task once. A task that cannot be failed stays parked.
    """
    _check_environment()
    routing, retry, state = config.routing(), config.retry, config.state_folder()
    credentials = config.credentials()
    throttle = _make_throttle(config, on_event)
    async with (
        _open_client(config, credentials, throttle, on_event) as client,
        open_destinations(config.destinations, state) as opened,
        AsyncExitStack() as stack,
    ):
        await anyio.to_thread.run_sync(check_private_folders, config)
        sqlite = open_journal(state, stack, on_event)
        journal = ConfirmedJournal(sqlite, list(tasks), system_clock)
        destination = ConfirmedDestination(DestinationRouter(opened, routing), tasks)
        quarantine = QuarantineFolder(config.quarantine_folder())
        yield Exporter(
            ConfirmedSource(client, tasks, quarantine, journal, destination),
            destination,
            workers=config.exporter.workers,
            queue_size=config.queue_size,
            journal=journal,
            quarantine=_open_quarantine(config, state, stack),
            quarantine_folder=quarantine.path,
            quarantine_max_bytes=config.exporter.quarantine_max_bytes,
            retry=RetryPolicy(retry.attempts, retry.wait_initial_seconds, retry.wait_max_seconds),
            park_seconds=retry.park_seconds,
            park_after=1,
            claim_timeout=config.aluma.claim_timeout_seconds,
            source_id=source_id(config.aluma, credentials),
            drain_timeout=config.exporter.drain_timeout_seconds,
            destination_timeout=_destination_timeout(config),
            on_event=_with_history(History(sqlite, names=config.service.history_names), on_event),
        )


def _destination_timeout(config: Config) -> float:
    """Return the limit of a silent destination, which is reached before the service counts as stuck."""
    return max(_MIN_DESTINATION_SECONDS, config.service.stuck_after_seconds / 2)


def check_private_folders(config: Config) -> list[str]:
    """Return warnings about other users who can change the exporter's own files. Blocks. Raises ``ConfigError``."""
    folders = {"state folder": config.state_folder(), "quarantine": config.quarantine_folder()}
    return [warning for label, folder in folders.items() if (warning := check_folder(label, folder))]


def _check_environment() -> None:
    if os.environ.get("AIOCACHE_DISABLE") == "1":
        raise ConfigError(
            "AIOCACHE_DISABLE=1 disables cool-downs, so that failing tasks are retried without delay", hint="Unset it."
        )


def _with_history(history: History, on_event: OnEvent | None) -> OnEvent:
    if on_event is None:
        return history

    def notify(event: Event) -> None:
        if type(event) is TaskCompleted:  # saves a call for every other event
            history(event)
        on_event(event)

    return notify


def _make_throttle(config: Config, on_event: OnEvent | None) -> Throttle:
    return Throttle(
        config.max_at_once,
        adaptive=config.limits.adaptive,
        max_per_second=config.limits.max_per_second,
        max_bytes_per_second=config.limits.max_bytes_per_second,
        # Even if a claim is as old as it may be when its files are saved, Complete is tried twice before its end.
        max_urgent_pause=min(MAX_URGENT_PAUSE_SECONDS, config.aluma.claim_timeout_seconds / 15),
        uniform=random.uniform,
        on_event=on_event or (lambda _: None),
    )


def _open_quarantine(config: Config, state: Path, stack: AsyncExitStack) -> Destination:
    # Each copy has a folder of its own, so that no file of another task can be in its place.
    folder = FolderConfig(
        path=config.quarantine_folder(), on_conflict="overwrite", file_mode="0640", folder_mode="0750"
    )
    return open_folder(folder, state, stack)
