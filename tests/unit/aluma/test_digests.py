"""Digests in the headers of a download: contradictions are detected, and unknown or malformed digests are ignored."""

import asyncio
import base64
import hashlib

import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from aluma_async import AlumaClient, Credentials
from aluma_async.aluma.digests import Digests
from aluma_async.aluma.download import DownloadLimits
from aluma_async.exceptions import InvalidResponse, WrongContent
from aluma_async.models import ExportTask
from tests.support.clock import virtual_time
from tests.support.downloads import BODY, CLAIM, serve_downloads
from tests.support.stack import app_session, download


def encoded(algorithm, body=BODY):
    return base64.b64encode(hashlib.new(algorithm, body).digest()).decode()


def problem(*headers, body=BODY):
    digests = Digests.of(CIMultiDictProxy(CIMultiDict(headers)))
    if digests is None:
        return None
    digests.update(body[:100])
    digests.update(body[100:])
    return digests.problem()


def with_digest_of(body):
    """Return headers that each contain a digest of a body."""
    md5, sha256, sha512 = (encoded(algorithm, body) for algorithm in ("md5", "sha256", "sha512"))
    return [
        ("Content-MD5", md5),
        ("content-md5", f" {md5} "),
        ("Digest", f"md5={md5}"),
        ("Digest", f"SHA-256={sha256}"),
        ("Digest", f"unixsum=30637,SHA-512={sha512} , md5={md5}"),
        ("Content-Digest", f"sha-256=:{sha256}:"),
        ("Content-Digest", f"sha-512=:{sha512}:;note=1, sha=:{sha256}:"),
        ("Repr-Digest", f"sha-256=:{sha256}:"),
        ("Repr-Digest", f"crc32c=:AAAAAA==:,   sha-512=:{sha512}:"),
    ]


@pytest.mark.parametrize("number", range(9))
def test_digest_of_the_file_is_required(number):
    right, wrong = with_digest_of(BODY)[number], with_digest_of(b"other")[number]
    assert problem(right) == ""
    assert "digest" in problem(wrong)
    assert "digest" in problem(right, wrong), "all headers count"


@pytest.mark.parametrize(
    "header",
    [
        ("ETag", '"098f6bcd4621d373cade4e832627b4f6"'),
        ("Content-MD5", "098f6bcd4621d373cade4e832627b4f6"),
        ("Content-MD5", "AAAA"),
        ("Content-MD5", "MTIz*NDU2Nzg5MDEyMzQ1Ng=="),
        ("Content-MD5", "no base64"),
        ("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA== x"),
        ("Content-MD5", ""),
        ("Digest", ""),
        ("Digest", "sha-256=AAAA"),
        ("Digest", "SHA=thvDyvhfIqlvFe+A9MYgxAfm1q5="),
        ("Digest", "id-sha-256=AAAA, adler32=03da0195"),
        ("Content-Digest", "sha-256=:AAAA:"),
        ("Repr-Digest", "sha-256=:not-base-64!:"),
        ("Repr-Digest", "sha-256=?1"),
        ("Repr-Digest", "\x00,;=::"),
        ("Want-Digest", "sha-256"),
    ],
)
def test_unknown_or_malformed_digest_is_ignored(header):
    assert not problem(header)


@pytest.mark.parametrize("resumed", [False, True])
@virtual_time
async def test_download_raises_when_a_digest_contradicts(resumed):
    """Also after a resumption, whose digests are those of a part. A new attempt may succeed."""
    headers = {"ETag": '"1"', "Content-MD5": encoded("md5"), "Repr-Digest": f"sha-256=:{encoded('sha256')}:"}

    async def respond(request, number):
        body = BODY if number > 2 else BODY[:200] + b"x" + BODY[201:]
        if start := request.http_range.start:
            part = {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}", "Content-MD5": "A" * 24}
            return web.Response(body=body[start:], status=206, headers=part)
        response = web.StreamResponse(headers=headers)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: 5000 if resumed else None])
        if resumed:
            await asyncio.sleep(0.01)  # because aiohttp discards unread data when a connection ends
            request.transport.close()
        return response

    async with serve_downloads(respond) as (client, received):
        with pytest.raises(WrongContent, match="digest"):
            await download(client, CLAIM)
        if not resumed:
            with pytest.raises(WrongContent, match="digest"):
                await download(client, CLAIM)
        assert await download(client, CLAIM) == BODY
        assert len(received) == (4 if resumed else 3)
    async with serve_downloads(respond, verify_content=False) as (client, _):
        assert len(await download(client, CLAIM)) == len(BODY)


@pytest.mark.parametrize("verify_content", [True, False])
@pytest.mark.parametrize("number", range(9))
@virtual_time
async def test_start_raises_when_a_digest_contradicts(number, verify_content):
    """A shortened text in the specification would be exported. The claim may exist, so that it is released."""
    body = b'{"documents":[{"files":[{"filename":"a.csv","source":"content","content":"1,2"}]}]}'

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 3600})

    async def start(request):
        name, value = with_digest_of(body if request.match_info["id"] == "right" else b"other")[number]
        return web.Response(body=body, content_type="application/json", headers={name: value})

    app = web.Application()
    app.add_routes([web.post("/oauth/token", token), web.put("/tasks/{id}/start_client_action", start)])
    async with app_session(app) as session:
        downloads = DownloadLimits(verify_content=verify_content)
        client = AlumaClient(session, "http://aluma.test", Credentials("i", "s"), downloads=downloads)
        assert (await client.start(ExportTask("right"))).spec.files[0].content == "1,2"
        if verify_content:
            with pytest.raises(InvalidResponse, match="digest"):
                await client.start(ExportTask("wrong"))
        else:
            await client.start(ExportTask("wrong"))
