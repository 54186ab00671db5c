"""Guarded connections in virtual time: which are used again after surplus bytes, and for how long none is."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import anyio
import pytest
from aiohttp import web

from aluma_async import AlumaClient, Credentials
from aluma_async.connections import DISTRUST_SECONDS
from aluma_async.events import UnrequestedResponse
from aluma_async.exceptions import Ambiguous, SourceError, Unavailable
from aluma_async.models import ExportTask
from aluma_async.testing import MemoryConnector
from tests.support.clock import virtual_time
from tests.support.http import TOKEN
from tests.support.stack import BASE_URL, app_session

SECOND = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"state":"wrong"}'
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
GOODBYE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Answers a look-up of a task with the task's id as its state; the task ``slow`` has to wait for ``go_on``."""

    def __init__(self):
        self.used = []
        """The connection of each request, in order."""
        self.surplus = {}
        """Delay and bytes that follow the response with a number, from 1."""
        self.status = 200
        self.go_on = anyio.Event()

    @property
    def opened(self):
        """Number of connections that were used."""
        return len({id(transport) for transport in self.used})

    async def answer(self, request):
        self.used.append(request.transport)
        delay, surplus = self.surplus.get(len(self.used), (0, b""))
        if "slow" in request.path:
            await self.go_on.wait()
        response = web.json_response({"state": request.path.split("/")[3]}, status=self.status)
        await response.prepare(request)
        await response.write_eof()
        asyncio.get_running_loop().call_later(delay, request.transport.write, surplus)
        return response


@asynccontextmanager
async def serve():
    """Yield a server, a client of it and the events that the client emits; a token is fetched already."""
    server, emitted = Server(), []

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 86400})

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.route("*", "/{any:.*}", server.answer)])
    async with app_session(app) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"), on_event=emitted.append)
        assert await state_of(client, "first") == "first"
        server.used.clear()
        yield server, client, emitted


async def state_of(client, task_id):
    return await client.state(ExportTask(task_id))


@virtual_time
async def test_connection_is_used_again_when_nothing_is_wrong():
    async with serve() as (server, client, emitted):
        for task_id in "abc":
            assert await state_of(client, task_id) == task_id
        assert server.opened == 1
        assert not emitted


@pytest.mark.parametrize("delay", [0, 0.5, 5])
@pytest.mark.parametrize(
    "surplus",
    [
        SECOND,
        SECOND + SECOND,
        SECOND[:1],
        SECOND[:20],
        SECOND[:-5],
        b"surplus",
        b"{}",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
@virtual_time
async def test_connection_is_closed_when_more_arrived_than_was_asked_for(delay, surplus):
    """A second response, a part of one, or bytes that are no response; the next request gets a new connection."""
    async with serve() as (server, client, _):
        server.surplus = {1: (delay, surplus)}
        assert await state_of(client, "a") == "a"
        await anyio.sleep(delay + 1)
        assert await state_of(client, "b") == "b"
        assert server.opened == 2
        assert server.used[0].is_closing()


@virtual_time
async def test_no_connection_is_used_twice_for_some_minutes_after_a_second_response():
    """Other connections may be one response ahead, too."""
    async with serve() as (server, client, emitted):
        server.surplus = {1: (0.5, SECOND)}
        for number in range(1, 7):
            assert await state_of(client, "a") == "a"
            await anyio.sleep(1)
            assert server.opened == number
        assert emitted == [UnrequestedResponse(DISTRUST_SECONDS)]
        await anyio.sleep(DISTRUST_SECONDS)
        server.used.clear()
        for _ in range(3):
            assert await state_of(client, "a") == "a"
        assert server.opened == 1


@virtual_time
async def test_request_on_a_reused_connection_is_aborted_after_a_second_response():
    """Its response could be that of an earlier request. A request on a new connection is not affected."""
    async with serve() as (server, client, _):
        outcomes = {}

        async def send(name, request, *arguments):
            try:
                outcomes[name] = await request(*arguments)
            except SourceError as error:
                outcomes[name] = type(error)

        async with anyio.create_task_group() as group:  # opens a second and a third connection
            for _ in range(3):
                group.start_soon(state_of, client, "a")
        async with anyio.create_task_group() as group:
            group.start_soon(send, "reused", client.complete, ExportTask("slow"))
            await anyio.sleep(1)
            server.surplus = {5: (0.5, SECOND)}
            assert await state_of(client, "b") == "b"
            await anyio.sleep(1)
            group.start_soon(send, "new", state_of, client, "slow")
            await anyio.sleep(1)
            assert await state_of(client, "c") == "c"
            group.start_soon(send, "next", state_of, client, "d")
            await anyio.sleep(1)
            server.go_on.set()
        assert outcomes == {"reused": Ambiguous, "new": "slow", "next": "d"}


@virtual_time
async def test_connections_are_used_again_after_a_response_that_announces_the_end():
    """Some servers send 408 before they close an idle connection; no other response follows."""
    async with serve() as (server, client, emitted):
        server.surplus = {1: (5, GOODBYE)}
        assert await state_of(client, "a") == "a"
        await anyio.sleep(6)
        for _ in range(3):
            assert await state_of(client, "b") == "b"
        assert server.opened == 2
        assert not emitted


@pytest.mark.parametrize("status", [408, 500, 502, 504])
@virtual_time
async def test_connection_is_closed_after_a_status_by_which_a_proxy_gives_up(status):
    """The server's own response may still arrive, and would answer the next request."""
    async with serve() as (server, client, _):
        server.status = status
        with pytest.raises(SourceError):
            await state_of(client, "a")
        server.status, server.surplus = 200, {1: (0, SECOND)}
        assert await state_of(client, "b") == "b"
        assert server.opened == 2


@virtual_time
async def test_response_that_arrives_before_the_first_request_is_not_used():
    class ImpatientServer(MemoryConnector):
        async def _create_connection(self, *arguments):
            protocol = await super()._create_connection(*arguments)
            protocol.data_received(greetings.pop())
            return protocol

    async def answer(_):
        return web.json_response({"state": "right"})

    greetings = [b"", SECOND, TOKEN]
    app = web.Application()
    app.add_routes([web.route("*", "/{any:.*}", answer)])
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    async with aiohttp.ClientSession(connector=ImpatientServer(runner.server)) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
        for _ in range(2):
            with pytest.raises(Unavailable):
                await state_of(client, "a")
        assert greetings == [b""]
    await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "connections"), [(408, 2), (500, 2), (502, 2), (504, 2), (503, 1), (403, 1), (429, 1)]
)
@virtual_time
async def test_connection_is_closed_when_a_proxy_gave_up_waiting(status, connections):
    """The server may still answer, and the late response would belong to the next request."""
    async with serve() as (server, client, _):
        server.status = status
        with pytest.raises(SourceError):
            await state_of(client, "a")
        server.status = 200
        assert await state_of(client, "b") == "b"
        assert server.opened == connections
