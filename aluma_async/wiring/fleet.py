"""Makes an exporter a node of a fleet. Imported only if ``[fleet]`` has an address."""

import asyncio
import math
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

import anyio
import anyio.to_thread

from aluma_async.clock import system_clock
from aluma_async.config import Config
from aluma_async.config.fleet import sqlite_folder
from aluma_async.exceptions import ConfigError
from aluma_async.fleet.identity import Identity
from aluma_async.fleet.limits import LimitHooks
from aluma_async.fleet.node import FleetNode, FleetSettings
from aluma_async.fleet.ports import FleetStore, Limits, ListingInfo
from aluma_async.fleet.source import SourceHooks
from aluma_async.fleet.stores.sqlite import SqliteFleetStore
from aluma_async.fleet.takeover import TakenClaim
from aluma_async.journal.folders import journal_folder
from aluma_async.models import HoldRecord
from aluma_async.pipeline.exporter import Exporter
from aluma_async.pipeline.node_hooks import NodeHooks
from aluma_async.pipeline.selection import Select
from aluma_async.pipeline.throttle import Throttle
from aluma_async.policy.partition import Partition
from aluma_async.ports import Journal, TaskSource

_LEAVE_SECONDS = 2.0  # for the last report, at the end
_MIN_BYTES_PER_SECOND = 1.0  # 0 would mean no limit


@asynccontextmanager
async def open_fleet_store(config: Config, source: str) -> AsyncIterator[FleetStore]:
    """Open the store of the fleet that exports from ``source`` (``source_id``). Raises ``ConfigError``.

    A server is not contacted yet; the folder of a SQLite store is created.
    """
    url = config.fleet.store_url(os.environ)
    key = _hash(config.fleet.name, source)
    if folder := sqlite_folder(url):
        path = folder / key
        await anyio.to_thread.run_sync(_create_folder, path)
        with ThreadPoolExecutor(1, "aluma-async-fleet") as executor:
            sqlite = SqliteFleetStore(path, executor=executor)
            try:
                yield sqlite
            finally:
                executor.submit(sqlite.close)  # after the last call, which may still run
        return
    try:
        from aluma_async.fleet.stores.valkey import ValkeyFleetStore  # imports redis-py, which is optional
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"[fleet] url: needs {error.name}, which is not installed", hint="Run: pip install 'aluma-async[fleet]'"
        ) from None
    try:
        valkey = ValkeyFleetStore(url, f"aluma-async:{{{key}}}")
    except ValueError as error:
        raise ConfigError(f"[fleet] url: {error}", hint="Use for example redis://store.example:6379/0.") from None
    try:
        yield valkey
    finally:
        with anyio.move_on_after(_LEAVE_SECONDS, shield=True):
            await valkey.aclose()


@asynccontextmanager
async def open_fleet(
    config: Config, source: str, throttle: Throttle, partition: Partition | None, select: Select | None
) -> AsyncIterator["Fleet"]:
    """Open the store, and make the node of an exporter. Raises ``ConfigError``. Sends no report yet.

    Args:
        config: The configuration.
        source: The API and the client (``source_id``).
        throttle: Limits the requests of the exporter.
        partition: The number of this process, if it is one of several.
        select: The tasks that the exporter selects, so that it needs listings of its own.
    """
    folder = journal_folder(config.state_folder(), partition.number if partition else 1)
    scope = secrets.token_hex(8) if select else _hash(*sorted(config.aluma.projects))
    async with open_fleet_store(config, source) as store:
        yield Fleet(config, store, throttle, folder, scope=scope, counts_all=partition is None)


class Fleet:
    """The node of one exporter. It is made before the exporter, which ``run`` connects with it.

    Args:
        config: The configuration.
        store: The store of the fleet.
        throttle: Limits the requests of the exporter.
        folder: The folder of the exporter's journal.
        scope: Names the filters of the exporter's listings.
        counts_all: Whether the exporter reports the number of all pending tasks, instead of its own part.
    """

    def __init__(
        self, config: Config, store: FleetStore, throttle: Throttle, folder: Path, *, scope: str, counts_all: bool
    ) -> None:
        self._config = config
        self._throttle = throttle
        self._counts_all = counts_all
        self._exporter: Exporter | None = None
        settings = FleetSettings(
            _limits(config),
            config.aluma.claim_timeout_seconds,
            min(config.fleet.silent_seconds, config.aluma.claim_timeout_seconds),
            config.fleet.nodes,
            scope,
        )
        self._node = FleetNode(
            store,
            Identity(folder),
            settings,
            clock=system_clock,
            limit_hooks=LimitHooks(
                self._apply_limits, throttle.pause, lambda: throttle.in_flight, lambda: self._hooks.is_busy()
            ),
            source_hooks=SourceHooks(
                lambda: config.queue_size,
                lambda task_id: self._hooks.is_tracked(task_id),
                self._merge_holds,
                lambda: self._hooks.poll_now(),
                self._show_listing,
            ),
            add_orphaned=self._add_orphaned,
        )
        throttle.on_pause = self._node.limits.record_pause

    def wrap_source(self, source: TaskSource) -> TaskSource:
        """Return the source of the exporter."""
        return self._node.wrap_source(source)

    def wrap_journal(self, journal: Journal) -> Journal:
        """Return the journal of the exporter."""
        return self._node.wrap_journal(journal)

    def set_limits(self, config: Config) -> None:
        """Apply the limits of a changed configuration."""
        self._config = config
        self._apply_limits(self._node.limits.quota)
        self._node.limits.set_limits(_limits(config))

    @asynccontextmanager
    async def run(self, exporter: Exporter) -> AsyncIterator[None]:
        """Share the work of the exporter during the block, in which it runs."""
        self._exporter = exporter
        # A task group would wrap the errors of the block.
        node = asyncio.create_task(self._node.run(), name="aluma-async-fleet")
        try:
            yield
        finally:
            node.cancel()
            with anyio.move_on_after(_LEAVE_SECONDS, shield=True):
                await asyncio.wait([node])

    @property
    def _hooks(self) -> NodeHooks:
        if self._exporter is None:
            raise RuntimeError("the exporter is not connected")
        return self._exporter.node_hooks

    async def _merge_holds(self, holds: Sequence[HoldRecord]) -> None:
        await self._hooks.merge_holds(holds)

    def _show_listing(self, listing: ListingInfo) -> None:
        self._hooks.show_listing(listing.total if self._counts_all else None, listing.oldest_created_at)

    def _add_orphaned(self, claims: Sequence[TakenClaim]) -> None:
        for claim in claims:
            self._hooks.add_orphaned(claim.record, is_interrupted=claim.is_interrupted)

    def _apply_limits(self, quota: Limits) -> None:
        per_second, bytes_per_second = quota.max_per_second, quota.max_bytes_per_second
        self._throttle.set_limits(
            self._config.max_at_once,
            quota=quota.max_at_once if per_second > 0 else 0,
            max_per_second=0 if math.isinf(per_second) else per_second,
            max_bytes_per_second=0 if math.isinf(bytes_per_second) else max(bytes_per_second, _MIN_BYTES_PER_SECOND),
        )


def _limits(config: Config) -> Limits:
    """Return the limits that are set; each node applies the others by itself."""
    limits = config.limits
    return Limits(
        limits.max_at_once or math.inf, limits.max_per_second or math.inf, limits.max_bytes_per_second or math.inf
    )


def _hash(*texts: str) -> str:
    return blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _create_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        hint = "Give this user write access, or choose another folder."
        raise ConfigError(f"[fleet] url: {path}: cannot be created: {error.strerror}", hint=hint) from None
