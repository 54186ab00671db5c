"""``Monitor``: metrics and health as functions and as an ASGI application."""

import json
from types import SimpleNamespace

import anyio
import httpx
import pytest

from aluma_async import Config, Exporter, Monitor, events
from aluma_async.exceptions import DestinationUnavailable, Unreachable
from aluma_async.pipeline.throttle import Outage
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import simulated

LISTED = events.TasksListed(10, 8, 2, 0.0, 1)


def request(monitor, method, path, root_path="", **headers):
    """Send a request as a server does for an application that is mounted at ``root_path``."""

    async def send():
        transport = httpx.ASGITransport(app=monitor.asgi, root_path=root_path)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=headers)

    return anyio.run(send)


@virtual_time
async def test_monitor_counts_what_an_exporter_does():
    monitor = Monitor(Config())
    exporter = Exporter(SimulatedSource(simulated(5)), MemoryDestination(), on_event=monitor)
    monitor.watch(exporter)
    await exporter.run_until_drained()
    assert b'aluma_export_tasks_total{outcome="exported"} 5.0' in monitor.metrics().body
    assert monitor.liveness().status == 200


def test_monitor_is_ready_after_the_first_listing_until_a_pause():
    monitor = Monitor(Config())
    assert monitor.readiness().status == 503
    monitor(LISTED)
    assert monitor.readiness().status == 200
    monitor(events.ClaimingPaused(DestinationUnavailable("disk full")))
    page = monitor.readiness()
    assert (page.status, json.loads(page.body)["reason"]) == (503, "destination: disk full")


def test_monitor_is_not_ready_while_no_request_succeeds():
    exporter = SimpleNamespace(outage=lambda: Outage(60.0, Unreachable("no route")))
    monitor = Monitor(Config())
    monitor(LISTED)
    monitor.watch(exporter)
    assert b"no route" in monitor.readiness().body


@pytest.mark.parametrize("root_path", ["", "/aluma"])
def test_asgi_application_serves_the_pages_also_below_a_path(root_path):
    monitor = Monitor(Config())
    monitor(LISTED)
    pages = {"metrics": monitor.metrics(), "healthz": monitor.liveness(), "readyz": monitor.readiness()}
    for name, page in pages.items():
        response = request(monitor, "GET", f"{root_path}/{name}", root_path)
        assert (response.status_code, response.headers["content-type"]) == (page.status, page.content_type)
        assert name == "metrics" or response.content == page.body
        assert response.headers["cache-control"] == "no-store"


def test_asgi_application_answers_in_the_accepted_format():
    response = request(Monitor(Config()), "GET", "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert response.content.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405), ("DELETE", "/healthz", 405)],
)
def test_asgi_application_refuses_other_paths_and_methods(method, path, status):
    assert request(Monitor(Config()), method, path).status_code == status


def test_asgi_application_answers_head_without_a_body():
    response = request(Monitor(Config()), "HEAD", "/healthz")
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 0


def test_asgi_application_confirms_the_start_and_end_of_its_server():
    """A server waits for it, and a test client raises an error without it."""
    messages, sent = ["lifespan.startup", "lifespan.shutdown"], []

    async def receive():
        return {"type": messages.pop(0)}

    async def send(message):
        sent.append(message["type"])

    anyio.run(Monitor(Config()).asgi, {"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_asgi_application_closes_a_web_socket():
    sent = []

    async def send(message):
        sent.append(message["type"])

    anyio.run(Monitor(Config()).asgi, {"type": "websocket", "path": "/"}, None, send)
    assert sent == ["websocket.close"]
