"""``AlumaClient`` and the simulated Aluma, connected by HTTP in memory, in virtual time."""

import random
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web

from aluma_async import AlumaClient, Credentials, Exporter, events
from aluma_async.aluma.download import DownloadLimits
from aluma_async.exceptions import (
    Ambiguous,
    BadSpecification,
    FileMissing,
    InvalidResponse,
    RateLimited,
    RequestRejected,
    SourceError,
    Unavailable,
)
from aluma_async.models import ExportTask, TaskState
from aluma_async.pipeline.throttle import Throttle
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, check_task_source
from aluma_async.testing.faults import WrongReply
from tests.support.clock import virtual_time
from tests.support.stack import BASE_URL, app_session, client_of, download, list_tasks, simulated


@virtual_time
async def test_client_keeps_the_contract_of_a_task_source():
    aluma = simulated(3)
    async with client_of(aluma) as client:
        await check_task_source(client)
    assert aluma.counts["token"] == 1


@virtual_time
async def test_client_lists_and_downloads_everything_below_a_base_url_with_path():
    aluma = simulated(20, "mixed")
    emitted = []
    async with client_of(aluma, on_event=emitted.append) as client:
        tasks = await list_tasks(client)
        assert [task.id for task in tasks] == aluma.ids()
        for task in tasks:
            claim = await client.start(task)
            expected = aluma.expected(task.id)
            assert [(f.folder, f.filename) for f in claim.spec.files] == [(f, n) for f, n, _ in expected]
            for file, (_, _, data) in zip(claim.spec.files, expected, strict=True):
                if file.source == "url":
                    async with client.open_file(claim, file) as chunks:
                        assert b"".join([chunk async for chunk in chunks]) == data
                else:
                    assert file.content.encode() == data
            await client.complete(task)
    assert aluma.count_by_state() == {"completed": 20}
    assert [type(event) for event in emitted] == [events.RowSkipped]


@virtual_time
async def test_client_lists_only_the_selected_projects():
    """Projects are selected by id or by name."""
    aluma = simulated(8)
    (project_id, _), (_, project_name) = aluma.sample_data.project(0), aluma.sample_data.project(1)
    async with client_of(aluma, projects=(project_id, project_name)) as client:
        assert [task.id for task in await list_tasks(client)] == [aluma.ids()[n] for n in (0, 1, 4, 5)]


@pytest.mark.parametrize(
    ("fault", "error", "executed"),
    [
        (Fault.DROP_BEFORE, Ambiguous, False),
        (Fault.DROP_AFTER, Ambiguous, True),
        (Fault.ERROR_BEFORE, Ambiguous, False),
        (Fault.ERROR_AFTER, Ambiguous, True),
        (Fault.HANG, Ambiguous, False),
        (Fault.HTML, Ambiguous, False),
        (Fault.TRUNCATE, InvalidResponse, True),
        (Fault.THROTTLE, RateLimited, False),
    ],
)
@virtual_time
async def test_client_sends_start_once_when_it_fails(fault, error, executed):
    """The error tells whether Start was executed. A lost response is ambiguous, and the request is not repeated."""
    aluma, faults = simulated(1), FaultPlan()
    faults.plan("start", [fault])
    async with client_of(aluma, faults) as client:
        with pytest.raises(error) as caught:
            await client.start(ExportTask(aluma.ids()[0]))
        assert type(caught.value) is error
        assert aluma.counts["start"] == executed
        assert faults.remaining("start") == 0


@virtual_time
async def test_client_reports_a_specification_above_the_limit():
    """Limit, reason and remedy are named, because the task is not exported before the limit is raised."""
    aluma = simulated(1)
    task = ExportTask(aluma.ids()[0])
    size = len(aluma.specification(task.id))
    async with client_of(aluma, downloads=DownloadLimits(max_specification_bytes=size - 1)) as client:
        with pytest.raises(BadSpecification, match=rf"larger than \w+ \({size - 1}\), so it was not read") as caught:
            await client.start(task)
        assert "no copy of the task" in str(caught.value)
        assert "max_specification_bytes under [limits]" in caught.value.hint
        await client.cancel(task)
    async with client_of(aluma, downloads=DownloadLimits(max_specification_bytes=size)) as client:
        claim = await client.start(task)
        assert len(claim.spec.received) == size


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_BEFORE, Fault.HANG])
@virtual_time
async def test_client_listing_can_be_repeated_when_it_fails(fault):
    aluma, faults = simulated(1), FaultPlan()
    # Two in a row, because aiohttp repeats a GET once after a disconnect.
    faults.plan("list", [fault, fault])
    async with client_of(aluma, faults) as client:
        with pytest.raises(Unavailable):
            await list_tasks(client)
        while faults.remaining("list"):
            with pytest.raises(Unavailable):
                await list_tasks(client)
        assert len(await list_tasks(client)) == 1


@virtual_time
async def test_client_listing_raises_when_the_response_is_incomplete():
    aluma, faults = simulated(3), FaultPlan()
    faults.plan("list", [Fault.TRUNCATE])
    async with client_of(aluma, faults) as client:
        with pytest.raises(SourceError) as caught:
            await list_tasks(client)
        assert caught.value.retryable


@pytest.mark.parametrize("status", [200, 202, 204])
@virtual_time
async def test_client_accepts_every_success_status(status):
    aluma = simulated(1, success_status=status)
    async with client_of(aluma) as client:
        claim = await client.start(ExportTask(aluma.ids()[0]))
        await client.complete(claim.task)
        assert await client.state(claim.task) == "completed"


def api_that_knows_no_task(listing):
    """Return an app whose tasks are gone; ``listing`` returns the answer to a listing."""

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 3600})

    async def get(_):
        return web.json_response({"message": "no Route matched"}, status=404)

    async def list_pending(_):
        return listing()

    app = web.Application()
    app.router.add_post("/v1/oauth/token", token)
    app.router.add_get("/v1/tasks/{id}", get)
    app.router.add_get("/v1/tasks", list_pending)
    return app


@pytest.mark.parametrize(
    ("answer", "is_proven"),
    [
        (lambda: web.json_response({"tasks": []}), True),
        (lambda: web.json_response({"tasks": [{"id": "tt"}] * 9000}), True),
        (lambda: web.Response(body=b'{"tasks":[{"id":"u",', content_type="application/json"), False),
        (lambda: web.json_response({"message": "no Route matched"}, status=404), False),
        (lambda: web.Response(status=404), False),
        (lambda: web.Response(status=503), False),
        (lambda: web.json_response({"state": "maintenance"}), False),
        (lambda: web.Response(text="ok"), False),
    ],
)
@virtual_time
async def test_client_believes_a_404_only_if_the_api_lists_other_tasks(answer, is_proven):
    """A gateway without a route answers 404 as JSON or empty, too. It would prove that a Complete was executed."""
    async with app_session(api_that_knows_no_task(answer)) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
        if is_proven:
            assert await client.state(ExportTask("t")) is None
        else:
            with pytest.raises(SourceError):
                await client.state(ExportTask("t"))


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.CLAIMED, "completed"])
@virtual_time
async def test_client_reads_the_state_from_listings_if_it_is_not_found(state):
    """A gateway may lack only one route."""
    aluma, faults = simulated(3000), FaultPlan()
    task = ExportTask(aluma.ids()[-1])
    async with client_of(aluma, faults) as client:
        if state != TaskState.PENDING:
            await client.start(task)
        if state == "completed":
            await client.complete(task)
        faults.plan("get", [WrongReply.NOT_FOUND])
        assert await client.state(task) == (None if state == "completed" else state)


@virtual_time
async def test_client_raises_file_missing_when_the_file_is_deleted():
    aluma = simulated(1)
    async with client_of(aluma) as client:
        claim = await client.start(ExportTask(aluma.ids()[0]))
        await client.complete(claim.task)
        with pytest.raises(FileMissing):
            await download(client, claim)


@virtual_time
async def test_client_sends_the_message_of_fail():
    aluma = simulated(1)
    async with client_of(aluma) as client:
        claim = await client.start(ExportTask(aluma.ids()[0]))
        await client.fail(claim.task, "the reason")
    assert aluma.messages == {claim.task.id: "the reason"}


@virtual_time
async def test_client_awaits_start_when_the_caller_is_cancelled():
    """Otherwise it would be unknown whether the task is claimed."""
    aluma = simulated(1, latency_seconds=1)
    async with client_of(aluma) as client:
        await list_tasks(client)
        claims = []
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def start():
                    claims.append(await client.start(ExportTask(aluma.ids()[0])))

                group.start_soon(start)
                await anyio.sleep(0.5)
                assert aluma.counts["start"] == 0
                scope.cancel()
        assert aluma.counts["start"] == len(claims) == 1


@pytest.mark.parametrize("verb", ["list", "start", "complete", "token"])
@virtual_time
async def test_claims_do_not_expire_during_a_long_pause(verb):
    """A Retry-After of an hour stops listings and Starts, but the claims that exist are settled before their end."""
    aluma, faults = simulated(12, token_seconds=1.0 if verb == "token" else 86400.0, latency_seconds=0.3), FaultPlan()
    faults.plan(verb, [None] * 4 + [WrongReply.LONG_PAUSE])
    throttle = Throttle(5, uniform=random.Random(0).uniform, on_event=lambda _: None)
    async with client_of(aluma, faults, request_limiter=throttle) as client:
        exporter = Exporter(client, MemoryDestination(), workers=4)
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            await anyio.sleep(2 * 3600)
            exporter.stop()
    assert not faults.remaining(verb)
    assert aluma.count_by_state() == {"completed": 12}
    assert not aluma.counts["requeued"]


@pytest.mark.parametrize(("status", "error"), [(502, Ambiguous), (429, RateLimited), (409, RequestRejected)])
@virtual_time
async def test_client_error_depends_on_the_status_when_the_body_is_long(status, error):
    """A proxy's page of 200 KB must not turn an ambiguous Complete into another error."""

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 60})

    async def page(_):
        return web.Response(status=status, text="<html>" + "x" * 200_000, content_type="text/html")

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.route("*", "/{any:.*}", page)])
    async with app_session(app) as session:
        with pytest.raises(error):
            await AlumaClient(session, BASE_URL, Credentials("i", "s")).complete(ExportTask("a"))


@virtual_time
async def test_client_errors_contain_neither_token_nor_secret():
    """For each fault and request: the text, the repr and the chain of causes."""
    for fault in Fault:
        for verb in ("list", "start", "file"):
            aluma, faults = simulated(1), FaultPlan()
            faults.plan(verb, [fault] * 3)
            async with client_of(aluma, faults) as client:
                try:
                    for task in await list_tasks(client):
                        await download(client, await client.start(task))
                except SourceError as error:
                    cause: BaseException | None = error
                    text = ""
                    while cause:
                        text += f"{cause} {cause!r}"
                        cause = cause.__cause__
                    assert "Bearer" not in text
                    assert aluma.client_secret not in text


@virtual_time
async def test_client_keeps_the_request_limit_as_seen_by_the_server():
    """There are more workers than permits, and requests for tokens and downloads count."""
    aluma = simulated(60, latency_seconds=0.05)
    throttle = Throttle(5, uniform=random.Random(0).uniform, on_event=lambda _: None)
    async with client_of(aluma, request_limiter=throttle) as client:
        summary = await Exporter(client, MemoryDestination(), workers=40).run_until_drained()
    assert summary.exported == 60
    assert aluma.in_flight_peak == 5


@virtual_time
async def test_client_lets_settlements_pass_other_requests():
    """A claim must be settled before its lease ends; everything else can wait."""
    requests = []

    class Limiter:
        @asynccontextmanager
        async def permit(self, *, urgent: bool = False):
            requests.append(urgent)
            yield anyio.current_time()

        async def consume_bytes(self, count):
            pass

    aluma = simulated(1)
    async with client_of(aluma, request_limiter=Limiter()) as client:
        (task,) = await list_tasks(client)
        for verb in ("start", "cancel", "start", "complete"):
            await getattr(client, verb)(task)
    assert requests[-4:] == [False, True, False, True]
