"""``ApiTransport``: what the time-outs of the session do not cover."""

import aiohttp
import anyio
import pytest

from aluma_async import Credentials
from aluma_async.aluma import responses
from aluma_async.aluma.stall_watch import StallWatch, WatchedRequest
from aluma_async.aluma.token import TokenCache
from aluma_async.aluma.transport import ApiTransport
from aluma_async.aluma.urls import DownloadUrls, Target
from aluma_async.config.config import REQUEST_TIMEOUT_SECONDS
from aluma_async.exceptions import Unavailable, Unreachable
from tests.support.clock import virtual_time
from tests.unit.pipeline.test_throttle import make_throttle

BASE_URL = "https://api.aluma.test"


class SilentSession:
    """A session whose proxy accepts the connection, and does not answer CONNECT."""

    async def get(self, *_, **__):
        await anyio.sleep_forever()


@virtual_time
async def test_read_ends_when_a_proxy_does_not_answer_connect():
    """The permit is free again, and the request can be retried through another connection."""
    throttle = make_throttle(1)
    urls = DownloadUrls(BASE_URL, ())
    transport = ApiTransport(
        SilentSession(),
        BASE_URL,
        Credentials("id", "secret"),
        throttle,
        urls,
        max_specification_bytes=1,
        verify_digests=True,
    )
    for _ in range(2):
        started_at = anyio.current_time()
        with pytest.raises(Unavailable):
            async with transport.get("list tasks", Target(transport.url("/tasks"), is_api=False)):
                raise AssertionError
        assert anyio.current_time() - started_at == pytest.approx(REQUEST_TIMEOUT_SECONDS)
        assert not throttle.in_flight


class SilentConnector(aiohttp.BaseConnector):
    """Waits for a connection as aiohttp does, and gets none."""

    async def _create_connection(self, req, traces, timeout):
        await anyio.sleep(timeout.sock_connect)
        raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {req.url}")


@virtual_time
async def test_every_request_waits_ten_seconds_for_a_connection():
    """A server that is switched off is reported soon, long before the time limit of a request."""
    throttle = make_throttle(1)
    async with aiohttp.ClientSession(connector=SilentConnector()) as session:
        transport = ApiTransport(
            session,
            BASE_URL,
            Credentials("id", "secret"),
            throttle,
            DownloadUrls(BASE_URL),
            max_specification_bytes=1,
            verify_digests=True,
        )

        async def get():
            async with transport.get("list tasks", Target(transport.url("/tasks"), is_api=False)):
                raise AssertionError

        async def fetch_token():
            return "token", 60.0

        async def put():
            transport.token_cache = TokenCache(fetch_token)
            request = WatchedRequest(StallWatch(0, lambda: False), responses.START, "t")
            await transport.put("start", "/tasks/t", {}, request)

        for request in (transport.token_cache.token, get, put):
            started_at = anyio.current_time()
            with pytest.raises(Unreachable, match=r"no connection to api[.]aluma[.]test:443"):
                await request()
            assert anyio.current_time() - started_at == 10
