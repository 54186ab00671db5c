"""Opens exporters of copies in the quarantine: they deliver them, or fail the tasks that the administrator confirms."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio.to_thread

from aluma_async.clock import system_clock
from aluma_async.config import Config
from aluma_async.config.credentials import source_id
from aluma_async.destinations.places import check_places
from aluma_async.destinations.registry import open_destinations
from aluma_async.destinations.router import DestinationRouter
from aluma_async.journal.history import History
from aluma_async.journal.opening import open_journal
from aluma_async.pipeline.confirmed import ConfirmedDestination, ConfirmedJournal, ConfirmedSource, ConfirmedTask
from aluma_async.pipeline.exporter import Exporter
from aluma_async.policy.backoff import RetryPolicy
from aluma_async.ports import OnEvent
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.quarantine.source import QuarantineSource
from aluma_async.wiring.client import make_throttle, open_throttled_client
from aluma_async.wiring.parts import (
    check_environment,
    check_private_folders,
    destination_timeout,
    open_quarantine,
    safe_listener,
    with_history,
)

_NO_LEASE_SECONDS = 366 * 86400.0  # no other exporter can claim a copy in the quarantine


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
    check_environment()
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
            destination_timeout=destination_timeout(config),
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
    check_environment()
    routing, retry, state = config.routing(), config.retry, config.state_folder()
    credentials = config.credentials()
    listener = safe_listener(on_event)
    throttle = make_throttle(config, listener)
    async with (
        open_throttled_client(config, credentials, throttle, listener) as client,
        open_destinations(config.destinations, state) as opened,
        AsyncExitStack() as stack,
    ):
        await anyio.to_thread.run_sync(check_private_folders, config)
        sqlite = open_journal(state, stack, listener)
        journal = ConfirmedJournal(sqlite, list(tasks), system_clock)
        destination = ConfirmedDestination(DestinationRouter(opened, routing), tasks)
        quarantine = QuarantineFolder(config.quarantine_folder())
        yield Exporter(
            ConfirmedSource(client, tasks, quarantine, journal, destination),
            destination,
            workers=config.exporter.workers,
            queue_size=config.queue_size,
            journal=journal,
            quarantine=open_quarantine(config, state, stack),
            quarantine_folder=quarantine.path,
            quarantine_max_bytes=config.exporter.quarantine_max_bytes,
            retry=RetryPolicy(retry.attempts, retry.wait_initial_seconds, retry.wait_max_seconds),
            park_seconds=retry.park_seconds,
            park_after=1,
            claim_timeout=config.aluma.claim_timeout_seconds,
            source_id=source_id(config.aluma, credentials),
            drain_timeout=config.exporter.drain_timeout_seconds,
            destination_timeout=destination_timeout(config),
            on_event=with_history(History(sqlite, names=config.service.history_names), listener),
        )
