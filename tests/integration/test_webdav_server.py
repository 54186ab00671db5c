"""Credentials, TLS, error responses and outages of a WebDAV server."""

import ssl
import time
from collections import Counter
from contextlib import ExitStack

import anyio
import pytest
import trustme
from aiohttp import web

from aluma_async.config import Config
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.registry import open_destinations
from aluma_async.destinations.webdav.client import WebDavClient, open_session
from aluma_async.events import ClaimingPaused, TaskCompleted
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.pipeline.exporter import Exporter
from aluma_async.policy.backoff import Backoff
from aluma_async.testing import SimulatedAluma, SimulatedSource
from tests.support.buckets import run_rclone
from tests.support.clock import real_time, virtual_time
from tests.support.http import http_server
from tests.support.stack import app_session
from tests.support.tasks import chunks, deliver, make_claim
from tests.support.webdav import SimulatedWebDav, open_webdav, read_exported, simulated_webdav

PASSWORD = "canary-password"


@pytest.mark.parametrize(
    ("status", "path", "error_type"),
    [
        (403, (".aluma-async", "x"), DestinationUnavailable),
        (403, ("name", "x"), DestinationError),
        (507, ("name", "x"), DestinationUnavailable),
        (302, (".aluma-async", ""), DestinationUnavailable),
        (400, ("name", "x"), DestinationError),
        (503, ("name", "x"), DestinationUnavailable),
    ],
)
@real_time
async def test_refusal_concerns_one_file_or_the_whole_destination(status, path, error_type):
    """A refusal of an internal path, and an overloaded or full server, concern all tasks."""

    async def refuse(request):
        return web.Response(status=status, text="canary")

    async with http_server(refuse) as port, open_session({}) as session:
        client = WebDavClient(session, f"http://127.0.0.1:{port}/dav")
        with pytest.raises(DestinationError, match=f"PUT: {status} ") as caught:
            await client.put(path, SpooledFile.from_bytes(b"x"))
    assert type(caught.value) is error_type
    assert caught.value.hint
    assert "canary" not in str(caught.value)


async def probe(text):
    config = Config.from_toml(f"[destinations.a]\ntype = 'webdav'\n{text}", "c.toml")
    async with open_destinations(config.destinations, config.state_folder()) as destinations:
        await destinations["a"].probe()


def write_secret(tmp_path, text):
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_wrong_password_is_reported_without_it(webdav_folder, tmp_path):
    with run_rclone("webdav", webdav_folder, "--user", "me", "--pass", PASSWORD) as url:
        config = f"url = '{url}/export'\nusername = 'me'\npassword_file = '{write_secret(tmp_path, PASSWORD)}'"
        anyio.run(probe, config)
        write_secret(tmp_path, "canary-wrong")
        with pytest.raises(DestinationUnavailable, match="401") as caught:
            anyio.run(probe, config)
    assert "password" in caught.value.hint
    assert "canary" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(DestinationUnavailable, match="MKCOL: Client") as caught:
        anyio.run(probe, config)
    assert "Check that the WebDAV server is running" in caught.value.hint


@real_time
async def test_bearer_token_is_sent_only_over_trusted_tls(tmp_path):
    """``ca_file`` adds a certificate authority of the user's own."""
    requests, server = [], SimulatedWebDav()

    async def accept(request):
        requests.append((request.method, request.headers["Authorization"]))
        return await server(request)

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    async with http_server(accept, server_tls) as port:
        url = f"https://127.0.0.1:{port}/dav"
        config = f"url = '{url}'\ntoken_file = '{write_secret(tmp_path, 'canary-token')}'\n"
        await probe(config + f"ca_file = '{tmp_path / 'ca.pem'}'")
        trusted = len(requests)
        with pytest.raises(DestinationUnavailable, match="Certificate"):
            await probe(config)
    assert requests[0] == ("MKCOL", "Bearer canary-token")
    assert len(requests) == trusted


def test_delivery_fails_without_a_trace_and_succeeds_after_an_outage(webdav_folder):
    claim = make_claim("t", ("", "a.txt"), ("", "b.txt"))

    async def save_and_stop_server(server, destination):
        async with destination.open(claim) as delivery:
            for file in claim.spec.files:
                await delivery.save(file, chunks(b"data"))
            server.close()

    async def fail(server, url):
        async with open_webdav(f"{url}/export") as destination:
            await destination.probe()
            with pytest.raises(DestinationUnavailable, match="PUT: "):
                await save_and_stop_server(server, destination)

    async def succeed(url):
        async with open_webdav(f"{url}/export") as destination:
            await deliver(destination, claim, b"data", b"data")

    with ExitStack() as server:
        anyio.run(fail, server, server.enter_context(run_rclone("webdav", webdav_folder)))
    assert not read_exported(webdav_folder)
    with run_rclone("webdav", webdav_folder) as url:
        anyio.run(succeed, url)
    assert read_exported(webdav_folder) == {"a.txt": b"data", "b.txt": b"data"}


@real_time
async def test_exporter_pauses_during_an_outage_and_exports_each_task_once(webdav_folder):
    """No task is exported twice under two names, and none is missing."""
    aluma = SimulatedAluma(tasks=60, profile="small", now=time.monotonic)
    expected = [content for task_id in aluma.ids() for *_, content in aluma.expected(task_id)]
    completed, pauses = 0, []

    def on_event(event):
        nonlocal completed
        completed += isinstance(event, TaskCompleted)
        if isinstance(event, TaskCompleted) and completed == 10:
            server.close()
        if completed == 60:
            exporter.stop()
        if isinstance(event, ClaimingPaused) and not pauses:
            pauses.append(event)
            server.enter_context(run_rclone("webdav", webdav_folder, port=url.rpartition(":")[2]))

    with ExitStack() as server:
        url = server.enter_context(run_rclone("webdav", webdav_folder))
        async with open_webdav(f"{url}/export") as destination:
            exporter = Exporter(
                SimulatedSource(aluma),
                destination,
                workers=8,
                cooldown=Backoff(0.05, 0.1),
                polling=Backoff(0.01, 0.1),
                on_event=on_event,
            )
            await exporter.run()
    assert pauses
    assert Counter(read_exported(webdav_folder).values()) == Counter(expected)


@real_time
async def test_client_remembers_a_bounded_number_of_collections():
    """An exporter that runs for years may create a folder per task."""
    async with simulated_webdav() as server, open_session({}) as session:
        client = WebDavClient(session, server.url)
        for number in (*range(10_001), 0):
            await client.mkcol(f"{number}")
        assert server.requests.count(("MKCOL", "export/0")) == 2


@pytest.mark.parametrize("method", ["PUT", "MKCOL", "GET", "PROPFIND", "MOVE"])
@virtual_time
async def test_endless_response_is_abandoned(method):
    """A server that sends a byte every few seconds does not hold a delivery, or the end of the program, for ever."""

    async def drip(request):
        await request.read()
        response = web.StreamResponse(status=207 if method == "PROPFIND" else 201)
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await anyio.sleep(5)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", drip)
    async with app_session(app) as session:
        client = WebDavClient(session, "http://webdav.test/dav")
        requests = {
            "PUT": lambda: client.put(("a",), SpooledFile.from_bytes(b"x")),
            "MKCOL": lambda: client.mkcol("a"),
            "GET": lambda: client.read(("a",)),
            "PROPFIND": lambda: client.modified_times(("a",)),
            "MOVE": lambda: client.move(("a",), ("b",), overwrite=True),
        }
        with pytest.raises(DestinationUnavailable, match=f"{method}: TimeoutError"):
            await requests[method]()
    assert anyio.current_time() < 290
