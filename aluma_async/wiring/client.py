"""Opens the client of the configured API, and the throttle of its requests."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.metadata import version

import aiohttp

from aluma_async.aluma.client import AlumaClient
from aluma_async.aluma.download import DownloadLimits
from aluma_async.aluma.redirects import PublicResolver
from aluma_async.config import Config, Credentials
from aluma_async.config.tls import ssl_context
from aluma_async.connections import GuardedConnector
from aluma_async.pipeline.pauses import MAX_URGENT_PAUSE_SECONDS
from aluma_async.pipeline.throttle import Throttle
from aluma_async.ports import OnEvent
from aluma_async.wiring.parts import safe_listener

_USER_AGENT = f"aluma-async/{version('aluma-async')}"
_READ_BUFFER_BYTES = 1024 * 1024  # a connection buffers twice as much before it stops reading
_KEEP_ALIVE_SECONDS = 15.0  # shorter than that of load balancers, so that no PUT is sent on a closing connection


@asynccontextmanager
async def open_client(
    config: Config, credentials: Credentials | None = None, *, on_event: OnEvent | None = None
) -> AsyncIterator[AlumaClient]:
    """Open a client of the configured API. Raises ``ConfigError``. Sends no request yet."""
    listener = safe_listener(on_event)
    async with open_throttled_client(config, credentials, make_throttle(config, listener), listener) as client:
        yield client


@asynccontextmanager
async def open_throttled_client(
    config: Config,
    credentials: Credentials | None,
    throttle: Throttle,
    on_event: OnEvent | None,
    session: aiohttp.ClientSession | None = None,
) -> AsyncIterator[AlumaClient]:
    """Open a client whose requests ``throttle`` limits. Otherwise as ``open_client``.

    ``session``: the caller's session, which stays open, in place of a new one.
    """
    credentials = credentials or config.credentials()
    downloads = DownloadLimits(
        hosts=config.aluma.download_hosts,
        verify_content=config.aluma.verify_content,
        max_bytes=config.limits.max_file_bytes,
        max_specification_bytes=config.limits.max_specification_bytes,
        min_bytes_per_second=config.limits.min_bytes_per_second,
    )
    async with nullcontext(session) if session else _new_session(config) as opened:
        client = AlumaClient(
            opened,
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


def _new_session(config: Config) -> aiohttp.ClientSession:
    connector = GuardedConnector(
        limit=0,  # the throttle limits requests, and its limit may change
        keepalive_timeout=_KEEP_ALIVE_SECONDS,
        ssl=ssl_context(config.aluma.ca_file, "[aluma] "),
        resolver=PublicResolver(aiohttp.DefaultResolver(), config.aluma.download_hosts),
    )
    return aiohttp.ClientSession(
        connector=connector,
        read_bufsize=_READ_BUFFER_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": _USER_AGENT},
        proxy=config.aluma.proxy or None,
    )


def make_throttle(config: Config, on_event: OnEvent | None) -> Throttle:
    """Return a throttle with the configured limits."""
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


def set_limits(throttle: Throttle, config: Config) -> None:
    """Apply the configured limits to a throttle."""
    throttle.set_limits(
        config.max_at_once,
        max_per_second=config.limits.max_per_second,
        max_bytes_per_second=config.limits.max_bytes_per_second,
    )
