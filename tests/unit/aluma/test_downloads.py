"""A download is whole, in time, and comes from where it may come from."""

import asyncio
import socket
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from aluma_async import AlumaClient, Credentials
from aluma_async.aluma.download import DownloadLimits
from aluma_async.aluma.redirects import PublicResolver
from aluma_async.exceptions import InvalidResponse, SourceError, Unavailable
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask
from aluma_async.testing import Fault, FaultPlan, run_virtual
from tests.support.stack import BASE_URL, app_session, client_of, download, simulated

BODY = bytes(range(256)) * 400
FILE = ExportFile(0, 0, "", "a.pdf", "url", url="/f")
CLAIM = Claim(ExportTask("t"), ExportSpec((FILE,)), 0.0)


@asynccontextmanager
async def serving(answer, **limits):
    """A client of a server that gives a token, and for all else what ``answer`` says; also the requests it got."""
    seen = []

    async def token(_):
        return web.json_response({"access_token": "the-token", "expires_in": 60})

    async def anything(request):
        seen.append(request)
        return await answer(request, len(seen))

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.get("/{any:.*}", anything)])
    async with app_session(app) as session:
        yield AlumaClient(session, BASE_URL, Credentials("i", "s"), downloads=DownloadLimits(**limits)), seen


async def part(request, begin, end, *, status=206, etag='"1"', content_range=None):
    """Bytes from ``begin`` on, of which only those before ``end`` come."""
    whole = len(BODY)
    response = web.StreamResponse(status=status, headers={"ETag": etag})
    if status == 206:
        response.headers["Content-Range"] = content_range or f"bytes {begin}-{whole - 1}/{whole}"
    response.content_length = whole - begin
    await response.prepare(request)
    await response.write(BODY[begin:end])
    if end < whole:
        await asyncio.sleep(1)  # what has not been read when the end comes counts as not received
        request.transport.close()
    return response


def test_a_download_that_breaks_off_goes_on_where_it_broke():
    async def main():
        for framing in ("length", "chunked"):
            aluma, faults = simulated(1, framing=framing), FaultPlan()
            faults.plan("file", [Fault.TRUNCATE] * 5)
            async with client_of(aluma, faults) as client:
                claim = await client.start(ExportTask(aluma.ids()[0]))
                assert await download(client, claim) == aluma.expected(claim.task.id)[1][2]
            assert aluma.counts["file"] == 6

    run_virtual(main)


def test_it_goes_on_only_where_the_server_says_that_it_is_the_same_file():
    async def main():
        for answer in (
            {"status": 200},  # changed meanwhile: the whole of another file
            {"content_range": f"bytes 5-{len(BODY) - 1}/{len(BODY)}"},
            {"content_range": f"bytes 1000-{len(BODY) - 1}/{len(BODY) + 1}"},
            {"content_range": "nonsense"},
        ):

            async def reply(request, number, answer=answer):
                if number == 1:
                    return await part(request, 0, 1000, status=200)
                return await part(request, 1000, len(BODY), **answer)

            async with serving(reply) as (client, seen):
                with pytest.raises(InvalidResponse, match="the download was interrupted"):
                    await download(client, CLAIM)
            assert seen[1].headers["Range"] == "bytes=1000-"
            assert seen[1].headers["If-Range"] == '"1"'

    run_virtual(main)


@pytest.mark.parametrize(
    ("etag", "steps", "requests"), [('W/"1"', 1000, 1), ("", 1000, 1), ('"1"', 0, 2), ('"1"', 9, 6)]
)
def test_it_goes_on_neither_without_a_sure_version_nor_without_progress_nor_for_ever(etag, steps, requests):
    async def main():
        async def reply(request, number):
            begin = 10 + steps * (number - 1)
            return await part(
                request, begin if number > 1 else 0, begin + steps, status=206 - 6 * (number == 1), etag=etag
            )

        async with serving(reply) as (client, seen):
            with pytest.raises(InvalidResponse, match="the response is incomplete"):
                await download(client, CLAIM)
        assert len(seen) == requests

    run_virtual(main)


def test_a_server_that_keeps_a_download_open_for_nothing_is_given_up_and_a_slow_reader_is_not_blamed():
    async def main():
        async def trickle(request, _):
            response = web.StreamResponse()
            response.content_length = len(BODY)
            await response.prepare(request)
            for byte in BODY:
                await response.write(bytes([byte]))
                await asyncio.sleep(29)
            return response

        async with serving(trickle, min_bytes_per_second=1000) as (client, seen):
            begun = anyio.current_time()
            with pytest.raises(Unavailable, match="slower than 1000 bytes per second"):
                await download(client, CLAIM)
            assert anyio.current_time() - begun < 120
            assert len(seen) == 1

        async def at_once(request, _):
            return web.Response(body=BODY * 10)

        async with (
            serving(at_once, min_bytes_per_second=1000) as (client, _),
            client.open_file(CLAIM, FILE) as chunks,
        ):
            async for _ in chunks:
                await anyio.sleep(20)

    run_virtual(main)


def test_a_file_longer_than_allowed_is_refused_before_it_is_read():
    async def main():
        async def reply(request, _):
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            for _ in range(100):
                await response.write(BODY)
            return response

        async with serving(reply, max_bytes=5 * len(BODY)) as (client, _):
            with pytest.raises(SourceError, match="larger than 512000 bytes") as caught:
                await download(client, CLAIM)
            assert "max_file_bytes" in caught.value.hint
            assert not caught.value.retryable

    run_virtual(main)


def redirecting(*locations, status=302):
    async def reply(request, number):
        if number > len(locations):
            return web.Response(body=BODY)
        return web.Response(status=status, headers={"Location": locations[number - 1]})

    return reply


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_download_may_be_redirected_and_the_token_stays_at_home(status):
    async def main():
        reply = redirecting("/v1/elsewhere", "https://files.test/blob?signed=1", status=status)
        async with serving(reply, redirect_hosts=["files.test"]) as (client, seen):
            assert await download(client, CLAIM) == BODY
            assert [request.headers["Host"] for request in seen] == ["aluma.test", "aluma.test", "files.test"]
            assert [request.headers.get("Authorization") for request in seen] == ["Bearer the-token"] * 2 + [None]

    run_virtual(main)


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.test/",
        "//evil.test/",
        "http://files.test/",  # without TLS
        "https://user:word@files.test/",
        "https://files.test.evil.test/",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/",
        "https://[::1]/",
        "file:///etc/passwd",
        "http://aluma.test:99999999/",
        "https://aluma.test/v1/f",  # another origin than http
        "",
    ],
)
def test_no_other_host_is_asked(location):
    async def main():
        redirect_hosts = ["files.test", "169.254.169.254", "10.0.0.1", "::1"]
        async with serving(redirecting(*[location] * 9), redirect_hosts=redirect_hosts) as (client, seen):
            with pytest.raises(SourceError):
                await download(client, CLAIM)
            assert {request.headers["Host"] for request in seen} == {"aluma.test"}
            assert len(seen) <= 4

    run_virtual(main)


def test_a_name_that_leads_into_our_own_network_is_not_followed():
    class Names(AbstractResolver):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            return [{"hostname": host, "host": self.address, "port": port, "family": family, "proto": 0, "flags": 0}]

        async def close(self):
            pass

    async def main():
        names = Names()
        resolver = PublicResolver(names, ["files.test"])
        for names.address in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1"):
            with pytest.raises(OSError, match="private"):
                await resolver.resolve("files.test")
            assert await resolver.resolve("aluma.example"), "Aluma itself may be in our own network"
        names.address = "93.184.216.34"
        assert await resolver.resolve("files.test")

    run_virtual(main)
