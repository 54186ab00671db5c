"""The HTTP server of ``--listen``: metrics, liveness and readiness."""

import asyncio
import json
import socket

import aiohttp
import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aluma_async import events
from aluma_async.exceptions import ConfigError, DestinationUnavailable
from aluma_async.service.health import HealthMonitor
from aluma_async.service.http import MAX_CONNECTIONS, serve
from aluma_async.service.metrics import Metrics
from tests.support.clock import ManualClock
from tests.support.stats import stats_after

LISTED = events.TasksListed(10, 8, 2, 0.0, 1)


def serve_stats(stats, port=0):
    health = HealthMonitor(stats, poll_seconds=60, stuck_after_seconds=600)
    return serve("127.0.0.1", port, Metrics(stats, limit=16), health)


def test_endpoints_serve_metrics_liveness_and_readiness():
    """``/readyz`` has the reason why no work is possible; ``/healthz`` fails only if a restart helps."""

    async def main():
        clock = ManualClock()
        stats = stats_after(clock=clock)
        async with serve_stats(stats) as url, aiohttp.ClientSession() as session:

            async def get(path):
                async with session.get(url + path) as response:
                    return response.status, await response.text()

            status, page = await get("/metrics")
            assert status == 200
            assert list(text_string_to_metric_families(page))
            assert json.loads((await get("/healthz"))[1]) == {"status": "ok"}
            status, text = await get("/readyz")
            assert (status, json.loads(text)["status"]) == (503, "not ready")
            stats(LISTED)
            status, text = await get("/readyz")
            assert (status, json.loads(text)["status"]) == (200, "ready")
            stats(events.ClaimingPaused(DestinationUnavailable("disk full")))
            status, text = await get("/readyz")
            content = json.loads(text)
            assert (status, content["reason"]) == (503, "destination: disk full")
            assert content["checks"]["destination"] == {"ok": False, "reason": "disk full"}
            assert (await get("/healthz"))[0] == 200, "a restart would not help"
            clock.now = 9999
            status, text = await get("/healthz")
            assert (status, json.loads(text)["status"]) == (503, "stuck")
            assert (await get("/"))[0] == 404
            async with session.post(url + "/metrics") as response:
                assert response.status == 405

    anyio.run(main)


def test_endpoints_raise_a_config_error_when_the_port_is_in_use():
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ConfigError, match="listen"):
            async with serve_stats(stats_after(), other.getsockname()[1]):
                pass

    anyio.run(main)


def test_endpoints_answer_beside_many_silent_connections():
    """They are closed, oldest first, so that the exporter keeps its descriptors."""

    async def main():
        async with serve_stats(stats_after(LISTED)) as url:
            host, port = "127.0.0.1", int(url.rpartition(":")[2])
            silent = [await asyncio.open_connection(host, port) for _ in range(3 * MAX_CONNECTIONS)]
            async with aiohttp.ClientSession() as session, session.get(url + "/healthz") as response:
                assert response.status == 200
            with anyio.fail_after(60):
                for reader, _ in silent[: 2 * MAX_CONNECTIONS]:
                    await reader.read()
            for _, writer in silent:
                writer.close()

    anyio.run(main)
