"""Opens an exporter of pending tasks, whose configuration can be changed while it runs."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial

import aiohttp
import anyio.to_thread

from aluma_async.clock import system_clock
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
from aluma_async.ports import BeforeComplete, Clock, Destination, Journal, OnEvent, TaskSource
from aluma_async.wiring.client import make_throttle, open_throttled_client, set_limits
from aluma_async.wiring.parts import (
    check_environment,
    check_private_folders,
    destination_timeout,
    open_quarantine,
    safe_listener,
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
    before_complete: BeforeComplete | None = None,
    source: TaskSource | None = None,
    session: aiohttp.ClientSession | None = None,
    retry: RetryPolicy | None = None,
    clock: Clock = system_clock,
) -> AsyncIterator[Exporter]:
    """Open an exporter. Raises ``ConfigError``. Sends no request and writes no file yet.

    Args:
        config: The configuration.
        credentials: Id and secret of the API client; by default as ``Config.credentials`` collects them.
        on_event: A listener for all events.
        destinations: Additional destinations by name. Routes may name them. The caller opens and closes them.
        select: Returns whether a pending task may be claimed; by default, all may be.
        before_complete: Awaited for each task when its files are durable, before it is completed. If it raises an
            exception, the task is released and cools down.
        source: The source of the tasks, in place of the API. ``[aluma]``, ``[limits]`` and credentials have no effect
            then, except for ``claim_timeout_seconds``. Use a state folder of its own.
        session: The session for all requests, in place of an own one. The caller closes it. Its settings apply in place
            of ``proxy`` and ``ca_file``, and it must refuse addresses of the local network itself.
        retry: Attempts and delays of a single request, in place of those in ``[retry]``.
        clock: Returns the time for records that outlive the process.
    """
    async with open_reloadable_exporter(
        config,
        credentials,
        on_event=on_event,
        destinations=destinations,
        select=select,
        before_complete=before_complete,
        source=source,
        session=session,
        retry=retry,
        clock=clock,
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
    before_complete: BeforeComplete | None = None,
    source: TaskSource | None = None,
    session: aiohttp.ClientSession | None = None,
    retry: RetryPolicy | None = None,
    clock: Clock = system_clock,
    partition: Partition | None = None,
) -> AsyncIterator[ReloadableExporter]:
    """Open an exporter whose configuration can be changed while it runs. Other arguments as for ``open_exporter``.

    ``partition``: the tasks of this process, if several processes share the tasks; it has a journal of its own.
    """
    if source and (session or credentials):
        raise ValueError("a source needs neither a session nor credentials: pass them to the source itself")
    extra_destinations = destinations or {}
    check_environment()
    routing, times, state = config.routing(extra_destinations), config.retry, config.state_folder()
    listener = safe_listener(on_event)
    throttle = make_throttle(config, listener)
    client: AbstractAsyncContextManager[TaskSource]
    if source:
        client, own_id = nullcontext(source), f"a source of type {type(source).__module__}.{type(source).__qualname__}"
    else:
        credentials = credentials or config.credentials()
        client = open_throttled_client(config, credentials, throttle, listener, session)
        own_id = source_id(config.aluma, credentials)
    async with (
        client as tasks,
        open_destinations(config.destinations, state) as opened,
        AsyncExitStack() as stack,
    ):
        targets = {**opened, **extra_destinations}
        warnings = await anyio.to_thread.run_sync(check_private_folders, config)  # a share may respond slowly
        await anyio.to_thread.run_sync(check_places, config, targets)
        router = DestinationRouter(targets, routing)
        sqlite = open_journal(state, stack, listener, partition, collects=not config.fleet.is_enabled)
        journal: Journal = sqlite
        history = History(sqlite, clock, names=config.service.history_names)
        selected = SelectedSource(tasks, select) if select else tasks
        fleet = None
        if config.fleet.is_enabled:
            from aluma_async.wiring.fleet import open_fleet  # only with [fleet]

            fleet = await stack.enter_async_context(open_fleet(config, own_id, throttle, partition, select))
            selected, journal = fleet.wrap_source(selected), fleet.wrap_journal(sqlite)
        elif partition:
            selected = SelectedSource(selected, lambda task: partition.contains(task.id))
        exporter = Exporter(
            selected,
            router,
            workers=config.exporter.workers,
            queue_size=config.queue_size,
            journal=journal,
            quarantine=open_quarantine(config, state, stack),
            quarantine_folder=config.quarantine_folder(),
            quarantine_max_bytes=config.exporter.quarantine_max_bytes,
            retry=retry or RetryPolicy(times.attempts, times.wait_initial_seconds, times.wait_max_seconds),
            cooldown=Backoff(times.cooldown_initial_seconds, times.cooldown_max_seconds),
            polling=Backoff(config.exporter.poll_wait_initial_seconds, config.exporter.poll_wait_max_seconds),
            park_seconds=times.park_seconds,
            park_after=times.park_after,
            claim_timeout=config.aluma.claim_timeout_seconds,
            source_id=own_id,
            drain_timeout=config.exporter.drain_timeout_seconds,
            destination_timeout=destination_timeout(config),
            before_complete=before_complete,
            on_event=with_history(history, listener),
            clock=clock,
        )
        if not source:
            exporter.outage = lambda: throttle.outage
        if fleet:
            await stack.enter_async_context(fleet.run(exporter))
        apply_limits = fleet.set_limits if fleet else partial(set_limits, throttle)
        yield ReloadableExporter(config, exporter, throttle, router, extra_destinations, warnings, apply_limits)
