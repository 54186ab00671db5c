"""What a server may really send, byte by byte on a real socket: a download is whole or it is an error."""

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


def chunked(*pieces, end=b"0\r\n\r\n"):
    return head("Transfer-Encoding: chunked") + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + end


LENGTH = f"Content-Length: {len(BODY)}"
GOOD = {
    "length": head(LENGTH) + BODY,
    "chunks": chunked(BODY[:100], BODY[100:]),
    "chunks with a trailer": chunked(BODY, end=b"0\r\nX-Sum: 1\r\n\r\n"),
    "identity": head(LENGTH, "Content-Encoding: identity") + BODY,
}
BAD = {
    "too short for its length": head(LENGTH) + BODY[:-1],
    "nothing after the head": head(LENGTH),
    "chunks without an end": chunked(BODY[:100], BODY[100:], end=b""),
    "a chunk cut short": chunked(BODY[:100], end=b"ff\r\nabc"),
    "a chunk of nonsense": chunked(BODY[:100], end=b"zz\r\n\r\n"),
    "no framing": head() + BODY,
    "no framing, said so": head("Connection: close") + BODY,
    "compressed though not asked for": head("Content-Encoding: gzip", f"Content-Length: {len(gzip.compress(BODY))}")
    + gzip.compress(BODY),
    "compressed and cut short": head("Content-Encoding: gzip", "Content-Length: 50") + gzip.compress(BODY)[:50],
    "two lengths": head(LENGTH, "Content-Length: 5") + BODY,
    "length and chunks": head(LENGTH, "Transfer-Encoding: chunked") + BODY,
    "a length that is none": head("Content-Length: many") + BODY,
    "a web page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<hi>",
    "no content": head(status="204 No Content"),
    "a part": head(LENGTH, f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}", status="206 Partial Content") + BODY,
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "nothing": b"",
}


async def download(port):
    async with aiohttp.ClientSession() as session:
        client = AlumaClient(session, f"http://127.0.0.1:{port}", Credentials("i", "s"))
        async with client.open_file(CLAIM, FILE) as chunks:
            return b"".join([chunk async for chunk in chunks])


@pytest.mark.parametrize("reply", GOOD.values(), ids=GOOD)
def test_a_download_that_is_provably_whole_is_taken(reply):
    async def main():
        async with raw_server(lambda _: reply) as (port, _):
            assert await download(port) == BODY

    asyncio.run(main())


@pytest.mark.parametrize("reply", BAD.values(), ids=BAD)
def test_any_other_is_an_error_of_ours(reply):
    async def main():
        async with raw_server(lambda _: reply) as (port, _):
            with pytest.raises(AlumaAsyncError) as caught:
                await download(port)
            assert "Bearer" not in repr(caught.value)

    asyncio.run(main())


@pytest.mark.parametrize("reply", [b"", b"HTTP/1.1 202", head("Content-Length: 9", status="502 Bad Gateway")])
def test_a_put_whose_answer_is_lost_is_sent_once_and_ambiguous(reply):
    """By default aiohttp sends it again by itself, and the second answer is a 409."""

    async def main():
        async with raw_server(lambda _: reply) as (port, seen), aiohttp.ClientSession() as session:
            client = AlumaClient(session, f"http://127.0.0.1:{port}", Credentials("i", "s"))
            with pytest.raises(Ambiguous):
                await client.complete(ExportTask("t"))
            assert len([line for line in seen if line.startswith("PUT")]) == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("verb", "reply", "error"),
    [
        ("complete", b"", Ambiguous),
        ("complete", head("Content-Length: 9", status="429 Too Many Requests"), RateLimited),
        ("complete", head("Content-Length: 9", status="202 Accepted"), None),
        ("start", head("Content-Length: 9", status="202 Accepted"), Ambiguous),
    ],
)
def test_a_put_whose_answer_never_ends_is_given_up_and_stands_for_what_was_seen_of_it(verb, reply, error, monkeypatch):
    monkeypatch.setattr("aluma_async.aluma.transport.REQUEST_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr("aluma_async.aluma.responses._ERROR_BODY_SECONDS", 0.1)
    limit = Throttle(1, uniform=lambda low, _: low, on_event=lambda _: None)

    async def main():
        async with raw_server(lambda _: reply, stalls=True) as (port, seen), aiohttp.ClientSession() as session:
            client = AlumaClient(session, f"http://127.0.0.1:{port}", Credentials("i", "s"), request_limiter=limit)
            with pytest.raises(error) if error else nullcontext():
                await getattr(client, verb)(ExportTask("t"))
            assert len([line for line in seen if line.startswith("PUT")]) == 1
            assert limit.in_flight == 0

    asyncio.run(main())


def test_a_certificate_is_verified_and_an_authority_of_ones_own_can_be_named(tmp_path):
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    listing = JSON % (12, b'{"tasks":[]}')

    async def tasks(port, ca_file):
        config = Config(aluma=AlumaConfig(base_url=f"https://127.0.0.1:{port}", ca_file=ca_file))
        async with open_client(config, Credentials("i", "s")) as client:
            return [task async for tasks in client.list_pending() for task in tasks]

    async def main():
        async with raw_server(lambda _: listing, tls) as (port, seen):
            with pytest.raises(Unreachable, match=r"[Cc]ertificate"):
                await tasks(port, None)
            assert not seen
            assert await tasks(port, tmp_path / "ca.pem") == []

    asyncio.run(main())
