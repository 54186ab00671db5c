"""The only place where concrete classes meet: a ``Config`` becomes a client or an exporter."""

import os
import random
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import aiohttp

from aluma_async.aluma.client import AlumaClient
from aluma_async.aluma.downloads import DownloadLimits, PublicResolver
from aluma_async.config import Config, Credentials, FolderConfig
from aluma_async.config.authorities import tls
from aluma_async.destinations.registry import open_destinations, open_folder
from aluma_async.destinations.routed import Routed
from aluma_async.events import Event
from aluma_async.exceptions import ConfigError
from aluma_async.pipeline.exporter import Exporter
from aluma_async.pipeline.sqlite_journal import SqliteJournal
from aluma_async.pipeline.throttle import Throttle
from aluma_async.policy.retry import Patience, Retry
from aluma_async.ports import Destination, OnEvent

_READ_BUFFER = 1024 * 1024  # a connection holds twice as much before it stops reading
_KEEP_ALIVE_SECONDS = 15.0  # shorter than what load balancers grant, so that a PUT meets no closing connection


@asynccontextmanager
async def open_client(
    config: Config, credentials: Credentials | None = None, *, on_event: OnEvent | None = None
) -> AsyncIterator[AlumaClient]:
    """Open the API as the config says. Raises ``ConfigError``; sends nothing yet."""
    credentials = credentials or config.credentials()
    tell: Callable[[Event], None] = on_event or (lambda _: None)
    throttle = Throttle(
        config.max_at_once,
        adaptive=config.limits.adaptive,
        max_per_second=config.limits.max_per_second,
        max_bytes_per_second=config.limits.max_bytes_per_second,
        uniform=random.uniform,
        on_event=tell,
    )
    downloads = DownloadLimits(
        hosts=config.aluma.download_hosts,
        max_bytes=config.limits.max_file_bytes,
        min_bytes_per_second=config.limits.min_bytes_per_second,
    )
    connector = aiohttp.TCPConnector(
        limit=config.max_at_once,
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        ssl=tls(config.aluma.ca_file, "[aluma] "),
        resolver=PublicResolver(aiohttp.DefaultResolver(), config.aluma.download_hosts),
    )
    async with aiohttp.ClientSession(
        connector=connector,
        read_bufsize=_READ_BUFFER,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"aluma-async/{version('aluma-async')}"},
        proxy=config.aluma.proxy or None,
    ) as session:
        yield AlumaClient(
            session,
            config.aluma.base_url,
            credentials,
            projects=config.aluma.projects,
            downloads=downloads,
            permits=throttle,
            on_event=tell,
        )


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
    yours = destinations or {}
    if os.environ.get("AIOCACHE_DISABLE") == "1":
        raise ConfigError("AIOCACHE_DISABLE=1 would let failing tasks be tried again and again", hint="Unset it.")
    routing, retry, state = config.routing(yours), config.retry, config.state_folder()
    async with (
        open_client(config, credentials, on_event=on_event) as client,
        open_destinations(config.destinations, state) as opened,
        AsyncExitStack() as stack,
    ):
        to = {**opened, **yours}
        yield Exporter(
            client,
            Routed(to, routing.of) if len(to) > 1 else next(iter(to.values())),
            workers=config.exporter.workers,
            queue_size=config.queue_size,
            journal=_journal(state, stack, on_event),
            quarantine=open_folder(FolderConfig(path=config.quarantine_folder()), state, stack),
            retry=Retry(retry.attempts, retry.wait_initial_seconds, retry.wait_max_seconds),
            cooldown=Patience(retry.cooldown_initial_seconds, retry.cooldown_max_seconds),
            polling=Patience(config.exporter.poll_wait_initial_seconds, config.exporter.poll_wait_max_seconds),
            park=retry.park_seconds,
            park_after=retry.park_after,
            claim_timeout=config.aluma.claim_timeout_seconds,
            drain_timeout=config.exporter.drain_timeout_seconds,
            on_event=on_event,
        )


def _journal(folder: Path, stack: AsyncExitStack, on_event: OnEvent | None) -> SqliteJournal:
    executor = stack.enter_context(ThreadPoolExecutor(1, "aluma-async-journal"))
    journal = SqliteJournal(folder, executor=executor, on_event=on_event)
    stack.callback(journal.close)
    return journal
