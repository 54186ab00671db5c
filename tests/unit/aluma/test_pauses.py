"""``PauseVerifier``: a pause of one task stops no other task; a pause of all requests is kept."""

import random
from types import SimpleNamespace

import anyio
import pytest
from aiohttp import web

from aluma_async import AlumaClient, Credentials, events
from aluma_async.aluma.pauses import PauseVerifier
from aluma_async.exceptions import RateLimited, SourceError
from aluma_async.models import ExportTask
from aluma_async.pipeline.throttle import Throttle
from aluma_async.testing import simulated_app
from tests.support.clock import virtual_time
from tests.support.sick_server import SickServer, kind_of
from tests.support.stack import BASE_URL, app_session, simulated

SICK, HEALTHY = 30, 40


class Refusals(SickServer):
    """A simulated Aluma that refuses requests; ``sent`` has the time and the kind of each refused one."""

    def __init__(self, kind, status, retry_after, *, for_all=False):
        self.kind, self.status, self.for_all = kind, status, for_all
        self.headers = {"Retry-After": str(retry_after)} if retry_after else {}
        super().__init__(None, sick=SICK, healthy=HEALTHY)
        specifications = [self.aluma.specification(task_id).decode() for task_id in self.sick]
        self.is_sick = lambda path: (
            any(task_id in path for task_id in self.sick)
            or any(path in specification for specification in specifications)
        )
        self.sent = []

    def _middleware(self):
        @web.middleware
        async def refuse(request, handler):
            path = request.path.removeprefix("/v1")
            kind = kind_of(path)
            is_hit = kind == self.kind and self.is_sick(path)
            if is_hit or (self.for_all and self.sent and kind != "token"):
                self.sent.append((anyio.current_time(), kind))
                return web.json_response({"message": "busy"}, status=self.status, headers=self.headers)
            return await handler(request)

        return refuse


@pytest.mark.parametrize(
    ("kind", "status", "retry_after"),
    [
        ("file", 429, 30),
        ("file", 503, 1800),
        ("start", 429, 20),
        ("start", 503, 600),
        ("complete", 503, 600),
        ("complete", 429, None),
        ("start", 429, None),
        ("file", 429, None),
    ],
)
@virtual_time
async def test_pause_of_sick_tasks_does_not_stop_healthy_ones(kind, status, retry_after):
    """A listing succeeds in the pause, so that it ends; only the refused tasks wait for the time they were given."""
    server = Refusals(kind, status, retry_after)
    completed, emitted = await server.export(60)
    assert completed == HEALTHY
    if retry_after:
        assert any(isinstance(event, events.RequestsResumed) for event in emitted)
    if retry_after and kind != "complete":
        holds = [event for event in emitted if isinstance(event, events.TaskCancelled)]
        assert {event.task.id for event in holds} == set(server.sick)
        assert all(event.retry_in >= retry_after for event in holds)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("kind", ["file", "start"])
@virtual_time
async def test_pause_of_all_requests_is_kept(kind, status):
    """One listing tests it, and is refused as well. Before the next request, a claim must be in danger of expiring."""
    server = Refusals(kind, status, 600, for_all=True)
    completed, _ = await server.export(110)
    refused_at = server.sent[0][0]
    later = [(moment, kind) for moment, kind in server.sent if refused_at + 0.5 < moment < refused_at + 110]
    assert [kind for _, kind in later] == ["list"]
    assert completed == 0
    assert not server.aluma.ids("completed")


@virtual_time
async def test_pause_of_all_changes_is_tested_ever_more_rarely():
    """Listings succeed, so that each test ends the pause, and Aluma refuses all that follows."""
    server = Refusals("start", 429, 600)
    server.is_sick = lambda _: True
    await server.export(100)
    moments = sorted({round(moment) for moment, _ in server.sent})
    assert len(moments) <= 16


@virtual_time
async def test_error_that_spares_others_tests_no_pause():
    """A pause of other tasks may be in effect at the same time."""
    limiter = SimpleNamespace(pause_is_unverified=True)
    error = RateLimited("")
    error.operation, error.spares_others = "complete task 1", True
    await PauseVerifier(SimpleNamespace(request_limiter=limiter), None).verify(error)
    assert error.spares_others
    assert anyio.current_time() == 0


@virtual_time
async def test_pause_for_look_ups_of_single_tasks_is_tested():
    """They are requests about one task, too."""
    emitted = []
    throttle = Throttle(4, uniform=random.Random(0).uniform, on_event=emitted.append)
    aluma = simulated(1)

    @web.middleware
    async def refuse(request, handler):
        if request.method == "GET" and aluma.ids()[0] in request.path:
            return web.json_response({}, status=503, headers={"Retry-After": "600"})
        return await handler(request)

    app = simulated_app(aluma, prefix="/v1")
    app.middlewares.append(refuse)
    async with app_session(app) as session:
        credentials = Credentials(aluma.client_id, aluma.client_secret)
        client = AlumaClient(session, BASE_URL, credentials, request_limiter=throttle)
        with pytest.raises(SourceError) as caught:
            await client.state(ExportTask(aluma.ids()[0]))
        assert caught.value.spares_others
        assert [type(event) for event in emitted] == [events.RequestsPaused, events.RequestsResumed]
