"""Opens an exporter of pending tasks, whose configuration can be changed while it runs."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import anyio.to_thread

from aluma_async.config import Config, Credentials
from aluma_async.config.credentials import source_id
from aluma_async.config.reload import restart_required
from aluma_async.destinations.places import check_places
from aluma_async.destinations.registry import open_destinations
from aluma_async.destinations.router import DestinationRouter
from aluma_async.journal.history import History
from aluma_async.journal.opening import open_journal
from aluma_async.pipeline.exporter import Exporter
from aluma_async.pipeline.selection import Select, SelectedSource
from aluma_async.pipeline.throttle import Outage, Throttle
from aluma_async.policy.backoff import Backoff, RetryPolicy
from aluma_async.policy.partition import Partition
from aluma_async.ports import Destination, Journal, OnEvent, TaskSource
from aluma_async.wiring.client import make_throttle, open_throttled_client, set_limits
from aluma_async.wiring.parts import (
    check_environment,
    check_private_folders,
    destination_timeout,
    open_quarantine,
    with_history,
)


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
        set_limits: Callable[[Config], None],
    ) -> None:
        self.exporter = exporter
        self.warnings = warnings
        """Who else can change the exporter's own files."""
        self._config = config
        self._throttle = throttle
        self._router = router
        self._extra_destinations = extra_destinations
        self._set_limits = set_limits

    @property
    def outage(self) -> Outage:
        """The time for which no request to Aluma has succeeded although some were sent."""
        return self._throttle.outage

    def reload(self, config: Config) -> list[str]:
        """Apply a changed config without dropping a claim; return the changed keys that require a restart."""
        restart_keys = list(restart_required(self._config, config))
        self.exporter.set_workers(config.exporter.workers)
        self._set_limits(config)
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
    check_environment()
    routing, retry, state = config.routing(extra_destinations), config.retry, config.state_folder()
    credentials = credentials or config.credentials()
    throttle = make_throttle(config, on_event)
    async with (
        open_throttled_client(config, credentials, throttle, on_event) as client,
        open_destinations(config.destinations, state) as opened,
        AsyncExitStack() as stack,
    ):
        targets = {**opened, **extra_destinations}
        warnings = await anyio.to_thread.run_sync(check_private_folders, config)  # a share may respond slowly
        await anyio.to_thread.run_sync(check_places, config, targets)
        router = DestinationRouter(targets, routing)
        sqlite = open_journal(state, stack, on_event, partition, collects=not config.fleet.is_enabled)
        journal: Journal = sqlite
        history = History(sqlite, names=config.service.history_names)
        source: TaskSource = SelectedSource(client, select) if select else client
        fleet, account = None, source_id(config.aluma, credentials)
        if config.fleet.is_enabled:
            from aluma_async.wiring.fleet import open_fleet  # only with [fleet]

            fleet = await stack.enter_async_context(open_fleet(config, account, throttle, partition, select))
            source, journal = fleet.wrap_source(source), fleet.wrap_journal(sqlite)
        elif partition:
            source = SelectedSource(source, lambda task: partition.contains(task.id))
        exporter = Exporter(
            source,
            router,
            workers=config.exporter.workers,
            queue_size=config.queue_size,
            journal=journal,
            quarantine=open_quarantine(config, state, stack),
            quarantine_folder=config.quarantine_folder(),
            quarantine_max_bytes=config.exporter.quarantine_max_bytes,
            retry=RetryPolicy(retry.attempts, retry.wait_initial_seconds, retry.wait_max_seconds),
            cooldown=Backoff(retry.cooldown_initial_seconds, retry.cooldown_max_seconds),
            polling=Backoff(config.exporter.poll_wait_initial_seconds, config.exporter.poll_wait_max_seconds),
            park_seconds=retry.park_seconds,
            park_after=retry.park_after,
            claim_timeout=config.aluma.claim_timeout_seconds,
            source_id=account,
            drain_timeout=config.exporter.drain_timeout_seconds,
            destination_timeout=destination_timeout(config),
            on_event=with_history(history, on_event),
        )
        if fleet:
            await stack.enter_async_context(fleet.run(exporter))
        apply_limits = fleet.set_limits if fleet else partial(set_limits, throttle)
        yield ReloadableExporter(config, exporter, throttle, router, extra_destinations, warnings, apply_limits)
