"""Redirects: only downloads follow them, and only to allowed hosts with public addresses."""

import socket

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from aluma_async import AlumaClient, Credentials
from aluma_async.aluma.redirects import PublicResolver
from aluma_async.exceptions import SourceError
from aluma_async.models import ExportTask
from tests.support.clock import virtual_time
from tests.support.downloads import BODY, CLAIM, serve_downloads
from tests.support.stack import BASE_URL, app_session, download, list_tasks


def redirect_to(*locations, status=302):
    async def respond(request, number):
        if number > len(locations):
            return web.Response(body=BODY)
        return web.Response(status=status, headers={"Location": locations[number - 1]})

    return respond


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@virtual_time
async def test_redirect_is_not_followed_except_for_downloads(status):
    """A redirected PUT could look successful, and a request to another host would reveal the token."""
    received = []

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 60})

    async def redirect(request):
        received.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.route("*", "/{any:.*}", redirect)])
    async with app_session(app) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
        with pytest.raises(SourceError):
            await list_tasks(client)
        with pytest.raises(SourceError):
            await client.complete(ExportTask("a"))
    assert received == ["/v1/tasks", "/v1/tasks/a/complete_client_action"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@virtual_time
async def test_redirect_of_a_download_is_followed_without_the_token(status):
    """The token is sent only to the API itself."""
    respond = redirect_to("/v1/elsewhere", "https://files.test/blob?signed=1", status=status)
    async with serve_downloads(respond, hosts=["files.test"]) as (client, received):
        assert await download(client, CLAIM) == BODY
        assert [request.headers["Host"] for request in received] == ["aluma.test", "aluma.test", "files.test"]
        assert [request.headers.get("Authorization") for request in received] == ["Bearer the-token"] * 2 + [None]


@pytest.mark.parametrize(
    "location",
    [
        "https://evil.test/",
        "//evil.test/",
        "http://files.test/",  # without TLS
        "https://user:word@files.test/",
        "https://files.test.evil.test/",
        "https://evil.test\\@files.test/",
        "https://FILES.test:0x50/",
        "https://169.254.169.254/latest",
        "https://10.0.0.1/",
        "https://[::1]/",
        "file:///etc/passwd",
        "http://aluma.test:99999999/",
        "https://aluma.test/v1/f",  # not the API's origin, which uses http
        "",
    ],
)
@virtual_time
async def test_redirect_to_a_host_that_is_not_allowed_is_not_followed(location):
    redirect_hosts = ["files.test", "169.254.169.254", "10.0.0.1", "::1"]
    async with serve_downloads(redirect_to(*[location] * 9), hosts=redirect_hosts) as (client, received):
        with pytest.raises(SourceError):
            await download(client, CLAIM)
        assert {request.headers["Host"] for request in received} == {"aluma.test"}
        assert len(received) <= 4


@pytest.mark.parametrize(
    ("location", "path", "token"),
    [
        ("/v1/with space/ä%20b", "/v1/with%20space/%C3%A4%20b", "Bearer the-token"),
        ("http://ALUMA.test:80/v1/x", "/v1/x", "Bearer the-token"),
        ("https://FILES.test/ä?sig=a%2Bb+c#fragment", "/%C3%A4?sig=a%2Bb+c", None),
    ],
)
@virtual_time
async def test_redirect_target_is_normalized(location, path, token):
    """Its host is compared in lower case, and invalid characters are encoded once."""
    respond = redirect_to(location)
    async with serve_downloads(respond, hosts=["Files.Test"]) as (client, received):
        assert await download(client, CLAIM) == BODY
        assert received[1].raw_path == path
        assert received[1].headers.get("Authorization") == token


@virtual_time
async def test_resolver_rejects_redirect_hosts_with_private_addresses():
    class FixedAddress(AbstractResolver):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            return [{"hostname": host, "host": self.address, "port": port, "family": family, "proto": 0, "flags": 0}]

        async def close(self):
            self.address = "closed"

    inner = FixedAddress()
    resolver = PublicResolver(inner, ["files.test", "Other.Test"])
    for inner.address in ("127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1"):
        for host in ("files.test", "FILES.test", "other.test"):
            with pytest.raises(OSError, match="private"):
                await resolver.resolve(host)
        assert await resolver.resolve("aluma.example"), "Aluma itself may have a private address"
    inner.address = "93.184.216.34"
    assert await resolver.resolve("files.test")
    await resolver.close()
    assert inner.address == "closed"
