"""``Download``: it is complete, it resumes, and it keeps its limits."""

import asyncio
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web
from msgspec import structs
from multidict import CIMultiDict

from aluma_async.exceptions import InvalidResponse, SourceError, Unavailable
from aluma_async.models import ExportTask
from aluma_async.pipeline.throttle import Throttle
from aluma_async.testing import Fault, FaultPlan
from tests.support.clock import virtual_time
from tests.support.downloads import BODY, CLAIM, FILE, serve_downloads
from tests.support.stack import client_of, download, simulated


async def send_part(
    request, start, end, *, status=206, etag='"1"', content_range="right", length=None, content_type="application/pdf"
):
    """Respond with the bytes from ``start`` on, and break the connection before byte ``end``."""
    size = len(BODY)
    response = web.StreamResponse(status=status, headers={"Content-Type": content_type})
    if etag is not None:
        response.headers["ETag"] = etag
    if status == 206 and content_range is not None:
        right = f"bytes {start}-{size - 1}/{size}"
        response.headers["Content-Range"] = right if content_range == "right" else content_range
    response.content_length = size - start if length is None else length
    await response.prepare(request)
    await response.write(BODY[start:end])
    if end < size:
        await asyncio.sleep(1)  # because the client discards unread data when the connection ends
        request.transport.close()
    return response


@virtual_time
async def test_download_is_complete_or_raises():
    """A body framed by length or chunks is accepted; an incomplete or unframed one is not."""
    for framing in ("length", "chunked"):
        aluma, faults = simulated(1, framing=framing, resumable=False), FaultPlan()
        faults.plan("file", [None, Fault.TRUNCATE, Fault.HTML])
        async with client_of(aluma, faults) as client:
            claim = await client.start(ExportTask(aluma.ids()[0]))
            assert await download(client, claim) == aluma.expected(claim.task.id)[1][2]
            for _ in range(2):
                with pytest.raises(InvalidResponse):
                    await download(client, claim)
    aluma = simulated(1, framing="unframed")
    async with client_of(aluma) as client:
        claim = await client.start(ExportTask(aluma.ids()[0]))
        with pytest.raises(InvalidResponse, match="length"):
            await download(client, claim)


@virtual_time
async def test_download_has_the_version_of_its_strong_etag_and_length():
    """Without both being equal, a file that was saved earlier is not used again."""
    answers = [('"1"', 1), ('"1"', 1), ('"1"', 2), ('"2"', 1), ('W/"1"', 1), (None, 1), ("1", 1)]

    async def respond(request, number):
        etag, length = answers[number - 1]
        return await send_part(request, 0, len(BODY), status=200, etag=etag, length=len(BODY) * length)

    versions = []
    async with serve_downloads(respond) as (client, _):
        for _ in answers:
            async with client.open_file(CLAIM, FILE) as chunks:
                versions.append(chunks.version)
    assert versions[0] == versions[1]
    assert len(set(versions[:4])) == 3
    assert all(version.isalnum() for version in versions[:4])
    assert versions[4:] == ["", "", ""]


@virtual_time
async def test_download_resumes_where_the_connection_broke():
    for framing in ("length", "chunked"):
        aluma, faults = simulated(1, framing=framing), FaultPlan()
        faults.plan("file", [Fault.TRUNCATE] * 5)
        async with client_of(aluma, faults) as client:
            claim = await client.start(ExportTask(aluma.ids()[0]))
            assert await download(client, claim) == aluma.expected(claim.task.id)[1][2]
        assert aluma.counts["file"] == 6


END = len(BODY) - 1


@pytest.mark.parametrize(
    "second",
    [
        {"status": 200},  # The file has changed; this is all of the new one.
        {"etag": '"2"'},
        {"etag": 'W/"1"'},
        {"etag": None},
        {"content_range": f"bytes 5-{END}/{END + 1}"},
        {"content_range": f"bytes 1000-{END}/{END + 2}"},
        {"content_range": f"bytes 1000-{END + 1}/{END + 2}"},
        {"content_range": f"bytes 1000-{END - 1}/{END + 1}"},
        {"content_range": f"bytes 1000-{END + 1}/{END + 1}"},
        {"content_range": f"bytes 1000-999/{END + 1}"},
        {"content_range": f"bytes 1000-{END}/*"},
        {"content_range": f"bytes 1000-1999/{END + 1}", "length": 1000},
        {"content_range": "nonsense"},
        {"content_range": None},
        {"content_range": None, "content_type": "multipart/byteranges; boundary=b"},
        {"length": END},
        {"length": 10},
        {"status": 416},
    ],
    ids=str,
)
@virtual_time
async def test_download_does_not_resume_when_the_file_or_range_differs(second):
    """Otherwise two versions of a file could be joined; the next attempt begins at the first byte."""

    async def respond(request, number):
        if number == 1:
            return await send_part(request, 0, 1000, status=200)
        if number == 2:
            return await send_part(request, 1000, len(BODY), **second)
        return web.Response(body=BODY)

    async with serve_downloads(respond) as (client, received):
        with pytest.raises(InvalidResponse, match=r"the download was interrupted|answered 416"):
            await download(client, CLAIM)
        assert await download(client, CLAIM) == BODY
    assert [request.headers.get("Range") for request in received] == [None, "bytes=1000-", None]
    assert received[1].headers["If-Range"] == '"1"'


@virtual_time
async def test_download_does_not_resume_with_the_size_of_another_version():
    """Two interruptions: the second answer has the same ETag, and another complete length than the first."""

    async def respond(request, number):
        if number == 1:
            return await send_part(request, 0, 1000, status=200)
        content_range = f"bytes {1000 * (number - 1)}-{END + number - 2}/{END + number - 1}"
        length = END + number - 1 - 1000 * (number - 1)
        return await send_part(request, 1000 * (number - 1), 2000, content_range=content_range, length=length)

    async with serve_downloads(respond) as (client, received):
        with pytest.raises(InvalidResponse, match="a different range"):
            await download(client, CLAIM)
    assert len(received) == 3


@pytest.mark.parametrize(
    ("etag", "steps", "requests"), [('W/"1"', 1000, 1), ("", 1000, 1), ('"1"', 0, 2), ('"1"', 9, 6)]
)
@virtual_time
async def test_download_resumes_only_with_a_strong_etag_and_progress(etag, steps, requests):
    """There is also a maximum number of resumptions."""

    async def respond(request, number):
        start = 10 + steps * (number - 1)
        end = start + steps
        if number == 1:
            return await send_part(request, 0, end, status=200, etag=etag)
        return await send_part(request, start, end, etag=etag)

    async with serve_downloads(respond) as (client, received):
        with pytest.raises(InvalidResponse, match="the response is incomplete"):
            await download(client, CLAIM)
    assert len(received) == requests


async def trickle_listing(request, *_):
    """Respond with a listing that gets a byte every two seconds, without an end."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"tasks":[')
    while True:
        await response.write(b" ")
        await asyncio.sleep(2)


@virtual_time
async def test_listing_fails_below_the_minimum_rate():
    """A byte every two seconds keeps the connection alive, and would otherwise block listing for ever."""
    async with serve_downloads(trickle_listing, min_bytes_per_second=1000) as (client, _):
        started_at = anyio.current_time()
        with pytest.raises(Unavailable, match="list tasks: slower than 1000 bytes per second"):
            async for _ in client.list_pending():
                pass
        assert anyio.current_time() - started_at < 70


@asynccontextmanager
async def throttled_download():
    """Yield a throttle with one permit, and the chunks of a download that holds it."""
    throttle = Throttle(1, uniform=lambda low, _: low, on_event=lambda _: None)
    aluma = simulated(1, "bulk")
    async with client_of(aluma, request_limiter=throttle) as client:
        throttle.paused_requests = lambda: client.paused_requests
        claim = await client.start(ExportTask(aluma.ids()[0]))
        file = next(file for file in claim.spec.files if file.source == "url")
        async with client.open_file(claim, file) as chunks:
            yield throttle, chunks


@virtual_time
async def test_download_holds_no_permit_after_its_last_byte():
    """Storing the file may take minutes."""
    async with throttled_download() as (throttle, chunks):
        async for _ in chunks:
            assert throttle.in_flight == 1
        assert throttle.in_flight == 0


@virtual_time
async def test_api_does_not_seem_silent_while_received_bytes_are_stored():
    async with throttled_download() as (throttle, chunks):
        await anext(chunks)
        await anyio.sleep(60)
        assert (throttle.unanswered, throttle.outage.seconds) == (1, 0)


@virtual_time
async def test_look_up_in_a_listing_is_limited_like_a_listing():
    """A byte every two seconds would block recovery for ever."""

    async def respond(request, _):
        if request.path.endswith("/t"):
            return web.json_response({}, status=404)
        return await trickle_listing(request)

    async with serve_downloads(respond, min_bytes_per_second=1000) as (client, _):
        with pytest.raises(Unavailable, match="look up task t in a listing: slower than 1000 bytes per second"):
            await client.state(ExportTask("t"))


@virtual_time
async def test_download_fails_below_the_minimum_rate_unless_the_reader_is_slow():
    async def trickle(request, _):
        response = web.StreamResponse()
        response.content_length = len(BODY)
        await response.prepare(request)
        for byte in BODY:
            await response.write(bytes([byte]))
            await asyncio.sleep(29)
        return response

    async with serve_downloads(trickle, min_bytes_per_second=1000) as (client, received):
        started_at = anyio.current_time()
        with pytest.raises(Unavailable, match="slower than 1000 bytes per second"):
            await download(client, CLAIM)
        assert anyio.current_time() - started_at < 120
        assert len(received) == 1

    async def respond_at_once(request, _):
        return web.Response(body=BODY * 10)

    async with (
        serve_downloads(respond_at_once, min_bytes_per_second=1000) as (client, _),
        client.open_file(CLAIM, FILE) as chunks,
    ):
        async for _ in chunks:
            await anyio.sleep(20)


@virtual_time
async def test_download_fails_early_when_the_file_is_too_large():
    async def respond(request, _):
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(100):
            await response.write(BODY)
        return response

    async with serve_downloads(respond, max_bytes=5 * len(BODY)) as (client, _):
        with pytest.raises(SourceError, match="larger than 512050 bytes") as caught:
            await download(client, CLAIM)
        assert "max_file_bytes" in caught.value.hint
        assert not caught.value.retryable


@pytest.mark.parametrize(
    "headers",
    [
        [("Content-Encoding", "identity"), ("Content-Encoding", "br")],
        [("Content-Type", "multipart/form-data; boundary=b")],
        [("Content-Type", "Multipart/Mixed; boundary=b")],
        [("Content-Type", "application/problem+json")],
        [("Content-Type", "application/problem+xml; charset=utf-8")],
    ],
    ids=str,
)
@virtual_time
async def test_download_refuses_a_response_that_is_not_the_plain_file(headers):
    async def respond(_, number):
        return web.Response(body=BODY, headers=CIMultiDict(headers if number == 1 else []))

    async with serve_downloads(respond) as (client, received):
        with pytest.raises(SourceError):
            await download(client, CLAIM)
        assert await download(client, CLAIM) == BODY
    assert all(request.headers["Cache-Control"] == "no-cache" for request in received), "a cache may have an old file"


@virtual_time
async def test_download_of_a_mail_may_have_parts():
    async def respond(*_):
        return web.Response(body=b"From: a\n\nb", headers={"Content-Type": "multipart/mixed; boundary=b"})

    mail = structs.replace(FILE, filename="a.eml")
    async with serve_downloads(respond) as (client, _), client.open_file(CLAIM, mail) as chunks:
        assert [chunk async for chunk in chunks] == [b"From: a\n\nb"]
