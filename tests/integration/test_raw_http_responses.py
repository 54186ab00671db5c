"""``AlumaClient`` on a real socket, with every kind of valid and invalid HTTP response, byte by byte."""

import asyncio
import gzip
import ssl
from contextlib import nullcontext

import aiohttp
import pytest
import trustme

from aluma_async import AlumaClient, Config, Credentials
from aluma_async.config import AlumaConfig
from aluma_async.exceptions import AlumaAsyncError, Ambiguous, RateLimited, Unreachable
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.pipeline.throttle import Throttle
from aluma_async.wiring import open_client
from tests.support.http import JSON, raw_server

BODY = b"%PDF-" + bytes(range(256)) * 40
FILE = ExportFile(0, 0, "", "a.pdf", "url", url="/f")
CLAIM = Claim(ExportTask("t"), ExportSpec((FILE,)), 0.0)


def head(*lines, status="200 OK"):
    return "\r\n".join((f"HTTP/1.1 {status}", "Content-Type: application/pdf", *lines, "", "")).encode()


def chunked(*chunks, end=b"0\r\n\r\n"):
    return head("Transfer-Encoding: chunked") + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + end


LENGTH = f"Content-Length: {len(BODY)}"
VALID = {
    "length": head(LENGTH) + BODY,
    "chunks": chunked(BODY[:100], BODY[100:]),
    "chunks with a trailer": chunked(BODY, end=b"0\r\nX-Sum: 1\r\n\r\n"),
    "identity": head(LENGTH, "Content-Encoding: identity") + BODY,
}
INVALID = {
    "shorter than its length": head(LENGTH) + BODY[:-1],
    "headers only": head(LENGTH),
    "chunks without an end": chunked(BODY[:100], BODY[100:], end=b""),
    "truncated chunk": chunked(BODY[:100], end=b"ff\r\nabc"),
    "invalid chunk size": chunked(BODY[:100], end=b"zz\r\n\r\n"),
    "no framing": head() + BODY,
    "no framing, announced": head("Connection: close") + BODY,
    "compressed": head("Content-Encoding: gzip", f"Content-Length: {len(gzip.compress(BODY))}") + gzip.compress(BODY),
    "compressed and truncated": head("Content-Encoding: gzip", "Content-Length: 50") + gzip.compress(BODY)[:50],
    "two lengths": head(LENGTH, "Content-Length: 5") + BODY,
    "length and chunks": head(LENGTH, "Transfer-Encoding: chunked") + BODY,
    "invalid length": head("Content-Length: many") + BODY,
    "web page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<hi>",
    "no content": head(status="204 No Content"),
    "partial content": head(LENGTH, f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}", status="206 Partial Content")
    + BODY,
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "empty": b"",
}


async def download(port):
    async with aiohttp.ClientSession() as session:
        client = AlumaClient(session, f"http://127.0.0.1:{port}", Credentials("i", "s"))
        async with client.open_file(CLAIM, FILE) as chunks:
            return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("response", VALID.values(), ids=VALID)
def test_download_is_accepted_when_it_is_provably_complete(response):
    async def main():
        async with raw_server(lambda _: response) as (port, _):
            assert await download(port) == BODY

    asyncio.run(main())


@pytest.mark.parametrize("response", INVALID.values(), ids=INVALID)
def test_download_raises_an_error_of_the_package_otherwise(response):
    async def main():
        async with raw_server(lambda _: response) as (port, _):
            with pytest.raises(AlumaAsyncError) as caught:
                await download(port)
            assert "Bearer" not in repr(caught.value)

    asyncio.run(main())


@pytest.mark.parametrize("response", [b"", b"HTTP/1.1 202", head("Content-Length: 9", status="502 Bad Gateway")])
def test_put_is_sent_once_and_ambiguous_when_its_response_is_lost(response):
    """By default, aiohttp would send it again, and the second response would be a 409."""

    async def main():
        async with raw_server(lambda _: response) as (port, received), aiohttp.ClientSession() as session:
            client = AlumaClient(session, f"http://127.0.0.1:{port}", Credentials("i", "s"))
            with pytest.raises(Ambiguous):
                await client.complete(ExportTask("t"))
            assert len([line for line in received if line.startswith("PUT")]) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("verb", "response", "error"),
    [
        ("complete", b"", Ambiguous),
        ("complete", head("Content-Length: 9", status="429 Too Many Requests"), RateLimited),
        ("complete", head("Content-Length: 9", status="202 Accepted"), None),
        ("start", head("Content-Length: 9", status="202 Accepted"), Ambiguous),
    ],
)
def test_put_ends_when_its_response_never_ends(verb, response, error, monkeypatch):
    """The part of the response that was received decides the error."""
    monkeypatch.setattr("aluma_async.aluma.transport.REQUEST_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("aluma_async.aluma.responses._ERROR_BODY_SECONDS", 0.1)
    throttle = Throttle(1, uniform=lambda low, _: low, on_event=lambda _: None)

    async def main():
        async with raw_server(lambda _: response, stalls=True) as (port, received), aiohttp.ClientSession() as session:
            client = AlumaClient(session, f"http://127.0.0.1:{port}", Credentials("i", "s"), request_limiter=throttle)
            with pytest.raises(error) if error else nullcontext():
                await getattr(client, verb)(ExportTask("t"))
            assert len([line for line in received if line.startswith("PUT")]) == 1
            assert throttle.in_flight == 0

    asyncio.run(main())


def test_certificate_is_verified_also_with_a_private_ca(tmp_path):
    ca = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    listing = JSON % (12, b'{"tasks":[]}')

    async def list_tasks_of(port, ca_file):
        config = Config(aluma=AlumaConfig(base_url=f"https://127.0.0.1:{port}", ca_file=ca_file))
        async with open_client(config, Credentials("i", "s")) as client:
            return [task async for tasks in client.list_pending() for task in tasks]

    async def main():
        async with raw_server(lambda _: listing, tls) as (port, received):
            with pytest.raises(Unreachable, match=r"[Cc]ertificate"):
                await list_tasks_of(port, None)
            assert not received
            assert await list_tasks_of(port, tmp_path / "ca.pem") == []

    asyncio.run(main())
