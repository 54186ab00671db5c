"""Which requests of ``AlumaClient`` are urgent, and how long they may take."""

from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from aiohttp import web

from aluma_async import AlumaClient, Credentials
from aluma_async.aluma.transport import CALL_TIMEOUT, STREAM_TIMEOUT
from aluma_async.exceptions import Ambiguous, InvalidResponse, SourceError, Unavailable
from aluma_async.models import ExportTask
from aluma_async.ports import BEFORE_SENDING
from tests.support.clock import virtual_time
from tests.support.downloads import CLAIM
from tests.support.stack import BASE_URL, app_session, client_of, download, list_tasks, simulated

TASK = ExportTask("t")


class Permits:
    """A limiter that records which permits were urgent, how many are held, and the bytes."""

    def __init__(self):
        self.urgent, self.held, self.bytes = [], 0, 0

    @asynccontextmanager
    async def permit(self, *, urgent=False):
        self.urgent.append(urgent)
        self.held += 1
        try:
            yield anyio.current_time()
        finally:
            self.held -= 1

    async def consume_bytes(self, count):
        assert self.held == 1, "the permit is held until the response has been read"
        self.bytes += count


@virtual_time
async def test_tokens_settlements_and_lookups_are_urgent():
    """They must not wait behind new work."""
    permits = Permits()
    async with client_of(simulated(2), request_limiter=permits) as client:
        tasks = await list_tasks(client)
        assert permits.urgent == [True, False], "the token, then the listing"
        assert permits.bytes > 0
        permits.urgent.clear()
        claim = await client.start(tasks[0])
        await client.start(tasks[1])
        assert permits.urgent == [False, False]
        permits.urgent.clear()
        await client.state(tasks[0])
        received = permits.bytes
        assert await client.state(ExportTask("unknown")) is None
        assert permits.bytes > received, "listings count as downloaded bytes"
        await client.cancel(tasks[1])
        await client.complete(claim.task)
        with suppress(SourceError):
            await client.fail(tasks[1], "m")
        assert set(permits.urgent) == {True}
        assert permits.held == 0


@virtual_time
async def test_listing_of_a_lookup_is_urgent():
    """After a 404, the listings show whether the task exists."""
    permits = Permits()
    async with client_of(simulated(1), request_limiter=permits) as client:
        assert await client.state(ExportTask("unknown")) is None
        assert permits.urgent == [True] * 4


def test_server_that_does_not_accept_a_connection_is_given_up_after_10_seconds():
    assert CALL_TIMEOUT.sock_connect == STREAM_TIMEOUT.sock_connect == 10
    assert (CALL_TIMEOUT.total, STREAM_TIMEOUT.total, STREAM_TIMEOUT.sock_read) == (60, None, 60)


@asynccontextmanager
async def silent():
    """Open a client of a server that answers nothing but the request for a token."""

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 9000})

    async def hang(_):
        await anyio.sleep_forever()

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.route("*", "/{any:.*}", hang)])
    async with app_session(app) as session:
        yield AlumaClient(session, BASE_URL, Credentials("i", "s"))


async def send(client, verb):
    match verb:
        case "list":
            await list_tasks(client)
        case "download":
            await download(client, CLAIM)
        case _:
            await getattr(client, verb)(TASK)


@pytest.mark.parametrize("verb", ["list", "start", "complete", "cancel", "state", "download"])
@virtual_time
async def test_request_without_a_response_ends_after_a_minute(verb):
    """Whether a change was executed is unknown then."""
    async with silent() as client:
        begin = anyio.current_time()
        with pytest.raises(SourceError) as caught:
            await send(client, verb)
        assert anyio.current_time() - begin == pytest.approx(60, abs=1)
        assert caught.value.overloaded
        assert isinstance(caught.value, Ambiguous if verb in ("start", "complete", "cancel") else Unavailable)


@pytest.mark.parametrize("verb", ["complete", "cancel"])
@virtual_time
async def test_settlement_is_not_sent_when_the_claim_may_have_ended(verb):
    """The check comes after the wait for a permit and a token, directly before the request."""
    aluma = simulated(1)
    async with client_of(aluma) as client:
        (task,) = await list_tasks(client)
        await client.start(task)

        def refuse():
            raise Unavailable("the lease may have expired")

        token = BEFORE_SENDING.set(refuse)
        with pytest.raises(Unavailable, match="may have expired"):
            await getattr(client, verb)(task)
        BEFORE_SENDING.reset(token)
        assert not aluma.counts[verb]
        await getattr(client, verb)(task)
        assert aluma.counts[verb] == 1


@virtual_time
async def test_lookup_with_an_incomplete_response_changes_nothing():
    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 9000})

    async def cut(request):
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        request.transport.close()
        return response

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.route("*", "/{any:.*}", cut)])
    async with app_session(app) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
        with pytest.raises(InvalidResponse, match="the response is incomplete"):
            await client.state(TASK)


@virtual_time
async def test_error_names_the_reason_why_there_is_no_response():
    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 9000})

    async def disconnect(request):
        request.transport.close()
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.route("*", "/{any:.*}", disconnect)])
    async with app_session(app) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
        for verb, kind in (("cancel", Ambiguous), ("state", Unavailable)):
            with pytest.raises(kind, match=r"no response \(ServerDisconnectedError\)"):
                await getattr(client, verb)(TASK)
