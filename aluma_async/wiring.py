"""The only place where concrete classes meet: a ``Config`` becomes a client or an exporter."""

import os
import random
from collections.abc import AsyncIterator, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import aiohttp

from aluma_async.aluma.client import AlumaClient
from aluma_async.aluma.download import DownloadLimits
from aluma_async.aluma.redirects import PublicResolver
from aluma_async.config import Config, Credentials, FolderConfig
from aluma_async.config.reload import restart_required
from aluma_async.config.tls import ssl_context
from aluma_async.destinations.registry import open_destinations, open_folder
from aluma_async.destinations.router import DestinationRouter
from aluma_async.events import Event
from aluma_async.exceptions import ConfigError
from aluma_async.journal.history import History
from aluma_async.journal.sqlite import SqliteJournal
from aluma_async.pipeline.exporter import Exporter
from aluma_async.pipeline.throttle import Throttle
from aluma_async.policy.backoff import Backoff, RetryPolicy
from aluma_async.ports import Destination, OnEvent

_USER_AGENT = f"aluma-async/{version('aluma-async')}"
_READ_BUFFER = 1024 * 1024  # a connection holds twice as much before it stops reading
_KEEP_ALIVE_SECONDS = 15.0  # shorter than what load balancers grant, so that a PUT meets no closing connection


@asynccontextmanager
async def open_client(
    config: Config, credentials: Credentials | None = None, *, on_event: OnEvent | None = None
) -> AsyncIterator[AlumaClient]:
    """Open the API as the config says. Raises ``ConfigError``; sends nothing yet."""
    async with _open_client(config, credentials, _make_throttle(config, on_event), on_event) as client:
        yield client


@asynccontextmanager
async def _open_client(
    config: Config, credentials: Credentials | None, throttle: Throttle, on_event: OnEvent | None
) -> AsyncIterator[AlumaClient]:
    credentials = credentials or config.credentials()
    downloads = DownloadLimits(
        redirect_hosts=config.aluma.download_hosts,
        max_bytes=config.limits.max_file_bytes,
        min_bytes_per_second=config.limits.min_bytes_per_second,
    )
    connector = aiohttp.TCPConnector(
        limit=0,  # the throttle has it, and it may change
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        ssl=ssl_context(config.aluma.ca_file, "[aluma] "),
        resolver=PublicResolver(aiohttp.DefaultResolver(), config.aluma.download_hosts),
    )
    async with aiohttp.ClientSession(
        connector=connector,
        read_bufsize=_READ_BUFFER,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": _USER_AGENT},
        proxy=config.aluma.proxy or None,
    ) as session:
        yield AlumaClient(
            session,
            config.aluma.base_url,
            credentials,
            projects=config.aluma.projects,
            downloads=downloads,
            request_limiter=throttle,
            on_event=on_event,
        )


class ReloadableExporter:
    """An exporter, with those of its parts that can be changed while it runs."""

    def __init__(
        self,
        config: Config,
        exporter: Exporter,
        throttle: Throttle,
        router: DestinationRouter | None,
        extra_destinations: Collection[str],
    ) -> None:
        self.exporter = exporter
        self._config = config
        self._throttle = throttle
        self._router = router
        self._extra_destinations = extra_destinations

    def reload(self, config: Config) -> list[str]:
        """Take over what can be, at once and without dropping a claim; name the keys that need a new start."""
        restart_keys = list(restart_required(self._config, config))
        self.exporter.set_workers(config.exporter.workers)
        self._throttle.set_limits(
            config.max_at_once,
            max_per_second=config.limits.max_per_second,
            max_bytes_per_second=config.limits.max_bytes_per_second,
        )
        if self._router and "destinations" not in restart_keys:
            self._router.set_routing(config.routing(self._extra_destinations))
        return restart_keys


@asynccontextmanager
async def open_exporter(
    config: Config,
    credentials: Credentials | None = None,
    *,
    on_event: OnEvent | None = None,
    destinations: Mapping[str, Destination] | None = None,
) -> AsyncIterator[Exporter]:
    """Open an exporter as the config says. Raises ``ConfigError``; sends and writes nothing yet.

    ``destinations`` are yours, by name, beside the config's: routes may name them. They are not closed.
    """
    async with open_reloadable_exporter(
        config, credentials, on_event=on_event, destinations=destinations
    ) as reloadable:
        yield reloadable.exporter


@asynccontextmanager
async def open_reloadable_exporter(
    config: Config,
    credentials: Credentials | None = None,
    *,
    on_event: OnEvent | None = None,
    destinations: Mapping[str, Destination] | None = None,
) -> AsyncIterator[ReloadableExporter]:
    """Open an exporter whose config can be changed while it runs; all else as ``open_exporter`` has it."""
    extra_destinations = destinations or {}
    if os.environ.get("AIOCACHE_DISABLE") == "1":
        raise ConfigError("AIOCACHE_DISABLE=1 would let failing tasks be tried again and again", hint="Unset it.")
    routing, retry, state = config.routing(extra_destinations), config.retry, config.state_folder()
    throttle = _make_throttle(config, on_event)
    async with (
        _open_client(config, credentials, throttle, on_event) as client,
        open_destinations(config.destinations, state) as opened,
        AsyncExitStack() as stack,
    ):
        targets = {**opened, **extra_destinations}
        router = DestinationRouter(targets, routing) if len(targets) > 1 else None
        journal = _open_journal(state, stack, on_event)
        history = History(journal, router.went_to if router else lambda _: tuple(targets))

        def tell(event: Event) -> None:
            if type(event) in History.HEARS:
                history(event)
            if on_event:
                on_event(event)

        exporter = Exporter(
            client,
            router or next(iter(targets.values())),
            workers=config.exporter.workers,
            queue_size=config.queue_size,
            journal=journal,
            quarantine=open_folder(FolderConfig(path=config.quarantine_folder()), state, stack),
            retry=RetryPolicy(retry.attempts, retry.wait_initial_seconds, retry.wait_max_seconds),
            cooldown=Backoff(retry.cooldown_initial_seconds, retry.cooldown_max_seconds),
            polling=Backoff(config.exporter.poll_wait_initial_seconds, config.exporter.poll_wait_max_seconds),
            park_seconds=retry.park_seconds,
            park_after=retry.park_after,
            claim_timeout=config.aluma.claim_timeout_seconds,
            drain_timeout=config.exporter.drain_timeout_seconds,
            on_event=tell,
        )
        yield ReloadableExporter(config, exporter, throttle, router, extra_destinations)


def _make_throttle(config: Config, on_event: OnEvent | None) -> Throttle:
    return Throttle(
        config.max_at_once,
        adaptive=config.limits.adaptive,
        max_per_second=config.limits.max_per_second,
        max_bytes_per_second=config.limits.max_bytes_per_second,
        uniform=random.uniform,
        on_event=on_event or (lambda _: None),
    )


def _open_journal(folder: Path, stack: AsyncExitStack, on_event: OnEvent | None) -> SqliteJournal:
    executor = stack.enter_context(ThreadPoolExecutor(1, "aluma-async-journal"))
    journal = SqliteJournal(folder, executor=executor, on_event=on_event)
    stack.callback(journal.close)
    return journal
