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
from aluma_async.exceptions import (
    AlumaAsyncError,
    Ambiguous,
    ClaimConflict,
    InvalidResponse,
    RateLimited,
    RequestRejected,
    SourceError,
    Unavailable,
    Unreachable,
    WrongContent,
)
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.pipeline.throttle import Throttle
from aluma_async.wiring import open_client
from tests.support.http import JSON, raw_server

BODY = b"%PDF-" + bytes(range(256)) * 40 + b"%%EOF"
FILE = ExportFile(0, 0, "", "a.pdf", "url", url="/f")
CLAIM = Claim(ExportTask("t"), ExportSpec((FILE,)), 0.0)


def head(*lines, status="200 OK"):
    return "\r\n".join((f"HTTP/1.1 {status}", "Content-Type: application/pdf", *lines, "", "")).encode()


def chunked(*chunks, end=b"0\r\n\r\n"):
    return head("Transfer-Encoding: chunked") + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + end


LENGTH = f"Content-Length: {len(BODY)}"
PAGE = b"<!DOCTYPE html><html><body>please log in</body></html>"
BACKEND = b"default backend - 404"
VALID = {
    "length": head(LENGTH) + BODY,
    "chunks": chunked(BODY[:100], BODY[100:]),
    "chunks with a trailer": chunked(BODY, end=b"0\r\nX-Sum: 1\r\n\r\n"),
    "identity": head(LENGTH, "Content-Encoding: identity") + BODY,
    "HTTP/1.0 with a length": head(LENGTH).replace(b"HTTP/1.1", b"HTTP/1.0") + BODY,
    "interim response": b"HTTP/1.1 103 Early Hints\r\n\r\n" + head(LENGTH) + BODY,
}
INVALID = {
    "shorter than its length": (head(LENGTH) + BODY[:-1], InvalidResponse),
    "headers only": (head(LENGTH), InvalidResponse),
    "chunks without an end": (chunked(BODY[:100], BODY[100:], end=b""), InvalidResponse),
    "truncated chunk": (chunked(BODY[:100], end=b"ff\r\nabc"), InvalidResponse),
    "invalid chunk size": (chunked(BODY[:100], end=b"zz\r\n\r\n"), Unavailable),
    "no framing": (head() + BODY, InvalidResponse),
    "no framing, announced": (head("Connection: close") + BODY, InvalidResponse),
    "HTTP/1.0 without a length": (head().replace(b"HTTP/1.1", b"HTTP/1.0") + BODY, InvalidResponse),
    "compressed": (
        head("Content-Encoding: gzip", f"Content-Length: {len(gzip.compress(BODY))}") + gzip.compress(BODY),
        InvalidResponse,
    ),
    "compressed and truncated": (
        head("Content-Encoding: gzip", "Content-Length: 50") + gzip.compress(BODY)[:50],
        InvalidResponse,
    ),
    "compressed in transfer": (head("Transfer-Encoding: gzip, chunked") + BODY, Unavailable),
    **{
        f"transfer coding {coding}": (head(f"Transfer-Encoding: {coding}") + b"9\r\n" + BODY[:9], InvalidResponse)
        for coding in ("chunked, identity", "xchunked", "chunked, gzip", "chunked;q=1, identity", "identity")
    },
    "part of the file": (head("Content-Range: bytes 0-8/999", "Content-Length: 9") + BODY[:9], InvalidResponse),
    "parts of the file": (
        head(LENGTH).replace(b"application/pdf", b"multipart/byteranges; boundary=x") + BODY,
        InvalidResponse,
    ),
    "two lengths": (head(LENGTH, "Content-Length: 5") + BODY, Unavailable),
    "length and chunks": (head(LENGTH, "Transfer-Encoding: chunked") + BODY, Unavailable),
    "invalid length": (head("Content-Length: many") + BODY, Unavailable),
    "more than its length": (head("Content-Length: 9") + BODY, Unavailable),
    "web page": (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<hi>", WrongContent),
    "web page as a file": (head(f"Content-Length: {len(PAGE)}") + PAGE, WrongContent),
    "nothing": (head("Content-Length: 0"), WrongContent),
    "nothing in chunks": (chunked(), WrongContent),
    "no content": (head(status="204 No Content"), InvalidResponse),
    "partial content": (
        head(LENGTH, f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}", status="206 Partial Content") + BODY,
        SourceError,
    ),
    "proxy without a backend": (head("Content-Length: 21", status="404 Not Found") + BACKEND, SourceError),
    "captive portal": (head("Content-Length: 0", status="511 Network Authentication Required"), Unreachable),
    "proxy that wants a password": (head("Content-Length: 0", status="407 Proxy Auth"), Unreachable),
    "another protocol": (head("Upgrade: h2c", "Connection: Upgrade", status="101 Switching Protocols"), SourceError),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", Unavailable),
    "empty": (b"", Unavailable),
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


@pytest.mark.parametrize(("response", "error"), INVALID.values(), ids=INVALID)
def test_download_raises_an_error_of_the_package_otherwise(response, error):
    async def main():
        async with raw_server(lambda _: response) as (port, _):
            with pytest.raises(AlumaAsyncError) as caught:
                await download(port)
            assert type(caught.value) is error
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
        ("start", chunked(b'{"documents":[', end=b""), Ambiguous),
        ("complete", chunked(b"accepted", end=b""), None),
        ("complete", head("Content-Length: 99", status="404 Not Found") + BACKEND, RequestRejected),
        ("complete", head("Content-Length: 99", status="403 Forbidden") + PAGE, RequestRejected),
        ("complete", head("Content-Length: 99", status="511 Network Authentication Required"), Unreachable),
    ],
)
def test_put_ends_when_its_response_never_ends(verb, response, error, monkeypatch):
    """The part of the response that was received decides the error."""
    monkeypatch.setattr("aluma_async.aluma.transport.REQUEST_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr("aluma_async.aluma.responses._ERROR_BODY_SECONDS", 0.5)
    throttle = Throttle(1, uniform=lambda low, _: low, on_event=lambda _: None)

    async def main():
        async with raw_server(lambda _: response, stalls=True) as (port, received), aiohttp.ClientSession() as session:
            client = AlumaClient(session, f"http://127.0.0.1:{port}", Credentials("i", "s"), request_limiter=throttle)
            with pytest.raises(error) if error else nullcontext():
                await getattr(client, verb)(ExportTask("t"))
            assert len([line for line in received if line.startswith("PUT")]) == 1
            assert throttle.in_flight == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (head("Content-Length: 21", status="404 Not Found") + BACKEND, RequestRejected),
        (head("Connection: close", status="404 Not Found") + BACKEND, RequestRejected),
        (head("Connection: close", status="409 Conflict") + PAGE, RequestRejected),
        (head("Content-Length: 54", status="202 Accepted") + PAGE, Ambiguous),
        (head(status="202 Accepted") + PAGE, Ambiguous),
        (head("Content-Length: 0", status="302 Found"), Ambiguous),
        (head("Content-Length: 0", status="511 Network Authentication Required"), Unreachable),
        (head("Upgrade: h2c", "Connection: Upgrade", status="101 Switching Protocols"), Ambiguous),
        (head("Content-Encoding: gzip", "Content-Length: 21", status="404 Not Found") + BACKEND, RequestRejected),
        (head("Content-Encoding: gzip", "Content-Length: 21", status="409 Conflict") + BACKEND, ClaimConflict),
        (head("Content-Encoding: gzip", "Content-Length: 5", status="202 Accepted") + b"12345", None),
        (head("Content-Length: many", status="404 Not Found"), Ambiguous),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Ambiguous),
    ],
)
def test_put_is_settled_only_by_a_response_of_aluma(response, error):
    async def main():
        async with raw_server(lambda _: response) as (port, _), aiohttp.ClientSession() as session:
            client = AlumaClient(session, f"http://127.0.0.1:{port}", Credentials("i", "s"))
            with pytest.raises(error) if error else nullcontext():
                await client.complete(ExportTask("t"))

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
