"""Real sockets whose server sends more than it was asked for: no use of a pool takes it for a response."""

import ssl
import time
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.to_thread
import pytest
import trustme
from msgspec import structs

from aluma_async import Config, Credentials
from aluma_async.config import AlumaConfig
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.webdav.client import WebDavClient, open_session
from aluma_async.exceptions import ClaimConflict, DestinationUnavailable, SourceError
from aluma_async.models import Claim, ExportSpec, ExportTask
from aluma_async.service.notification_channels import open_webhook_channel
from aluma_async.service.notifications import Notification, NotificationError
from aluma_async.wiring import open_client
from tests.support.clock import real_time
from tests.support.downloads import FILE
from tests.support.http import JSON, TOKEN, KeepAliveServer


def response(status, body=b"", content_type="application/pdf"):
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def pdf(name):
    return response("200 OK", b"%PDF-1.4 " + name.encode() + b" %%EOF")


SURPLUS = {
    "second response": pdf("surplus"),
    "start of a response": pdf("surplus")[:30],
    "more body": b"surplus",
}


@asynccontextmanager
async def client_of(server, **settings):
    config = Config(aluma=AlumaConfig(base_url=f"http://127.0.0.1:{server.port}", **settings))
    async with open_client(config, Credentials("i", "s")) as client:
        yield client


async def download(client, name):
    claim = Claim(ExportTask("t"), ExportSpec((structs.replace(FILE, url=f"/f/{name}"),)), 0.0)
    async with client.open_file(claim, claim.spec.files[0]) as received:
        return b"".join([chunk async for chunk in received]).decode()


async def wait_for_surplus(server, *, unread):
    """Wait until the surplus bytes have arrived; ``unread``: without a step of the loop, which would read them."""
    if unread:
        server.surplus_sent.wait(10)
        time.sleep(0.05)  # noqa: ASYNC251
    else:
        await anyio.to_thread.run_sync(server.surplus_sent.wait, 10)
        await anyio.sleep(0.05)
    server.surplus_sent.clear()


@pytest.mark.parametrize("unread", [False, True], ids=["read", "unread"])
@pytest.mark.parametrize("delay", [None, 0, 0.02], ids=["same write", "next write", "later"])
@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
@real_time
async def test_download_never_gets_surplus_bytes(surplus, delay, unread):
    """The event loop has read them before the next request, or they are still in the system's buffer."""

    def answer(line):
        return (TOKEN, b"") if "oauth" in line else (pdf(line.split()[1]), surplus)

    with KeepAliveServer(answer, delay=delay) as server:
        async with client_of(server) as client:
            for number in range(3):
                # More body in the same read is an error of that response.
                with suppress(*[SourceError] if surplus == SURPLUS["more body"] else []):
                    assert await download(client, number) == f"%PDF-1.4 /f/{number} %%EOF"
                await wait_for_surplus(server, unread=unread)
            assert server.opened >= 3


@real_time
async def test_second_response_never_confirms_another_request():
    """The second Complete is refused; the response that the server sent without a request says that it succeeded."""
    answers = iter([(response("202 Accepted"), response("202 Accepted")), (response("409 Conflict"), b"")])

    with KeepAliveServer(lambda line: (TOKEN, b"") if "oauth" in line else next(answers), delay=0.02) as server:
        async with client_of(server) as client:
            await client.complete(ExportTask("a"))
            await wait_for_surplus(server, unread=False)
            with pytest.raises(ClaimConflict):
                await client.complete(ExportTask("b"))


@real_time
async def test_second_response_to_a_token_request_or_a_redirect_is_never_used():
    listing = JSON % (26, b'{"tasks":[{"id":"right"}]}')
    wrong = JSON % (26, b'{"tasks":[{"id":"wrong"}]}')

    def answer(line):
        if "oauth" in line:
            return TOKEN, wrong
        if "/tasks" in line:
            return listing, wrong
        if "/f/old" in line:
            return response("302 Found").replace(b"\r\n\r\n", b"\r\nLocation: /f/new\r\n\r\n"), pdf("wrong")
        return pdf("right"), b""

    with KeepAliveServer(answer) as server:
        async with client_of(server) as client:
            assert [task.id async for tasks in client.list_pending() for task in tasks] == ["right"]
            assert await download(client, "old") == "%PDF-1.4 right %%EOF"


@pytest.mark.parametrize("delay", [None, 0.02])
@real_time
async def test_second_response_never_confirms_an_upload_or_a_notification(delay):
    def answers():
        yield response("201 Created"), response("201 Created")
        while True:
            yield response("507 Insufficient Storage"), b""

    remaining = answers()
    with KeepAliveServer(lambda _: next(remaining), delay=delay) as server:
        url = f"http://127.0.0.1:{server.port}"
        async with open_session({}) as session:
            client, data = WebDavClient(session, url), SpooledFile.from_bytes(b"data")
            await client.put(("a",), data)
            await wait_for_surplus(server, unread=False)
            with pytest.raises(DestinationUnavailable, match="507"):
                await client.put(("b",), data)
        remaining = answers()
        notification = Notification("paused", "2026-01-01T00:00:00Z", "disk full")
        async with open_webhook_channel(url) as send:
            await send(notification)
            await wait_for_surplus(server, unread=False)
            with pytest.raises(NotificationError, match="507"):
                await send(notification)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@real_time
async def test_connection_is_used_again_with_tls(tmp_path, version):
    """What TLS itself sends after a handshake is not a response without a request."""
    ca = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = tls.maximum_version = version
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with KeepAliveServer(lambda line: (TOKEN if "oauth" in line else pdf("x"), b""), tls=tls) as server:
        url = f"https://127.0.0.1:{server.port}"
        config = Config(aluma=AlumaConfig(base_url=url, ca_file=tmp_path / "ca.pem"))
        async with open_client(config, Credentials("i", "s")) as client:
            for _ in range(5):
                await download(client, "x")
                await anyio.sleep(0.03)
        assert server.opened <= 2


@pytest.mark.parametrize(("seconds", "opened"), [(60.0, 4), (0.0, 1)])
@real_time
async def test_connection_rests_before_it_is_used_again(monkeypatch, seconds, opened):
    """A second response that follows the first one at once has then arrived."""
    monkeypatch.setattr("aluma_async.connections.REST_SECONDS", seconds)
    with KeepAliveServer(lambda line: (TOKEN if "oauth" in line else pdf("x"), b"")) as server:
        async with client_of(server) as client:
            for _ in range(3):
                await download(client, "x")
    assert server.opened == opened
