"""The client against the simulated Aluma, over HTTP on an in-memory wire, in virtual time."""

import random

import anyio
import pytest
from aiohttp import web

from aluma_async import AlumaClient, Credentials, Exporter, events
from aluma_async.exceptions import (
    Ambiguous,
    AuthenticationFailed,
    ClaimConflict,
    FileMissing,
    InvalidResponse,
    RateLimited,
    SourceError,
    Unavailable,
)
from aluma_async.models import ExportTask
from aluma_async.pipeline.throttle import Throttle
from aluma_async.testing import Fault, FaultPlan, MemoryDestination, check_task_source, run_virtual
from tests.support.stack import BASE_URL, app_session, client_of, download, simulated


async def pending(client):
    return [task async for tasks in client.list_pending() for task in tasks]


def test_it_keeps_the_contract_of_a_task_source():
    async def main():
        aluma = simulated(3)
        async with client_of(aluma) as client:
            await check_task_source(client)
        assert aluma.counts["token"] == 1

    run_virtual(main)


def test_it_finds_every_task_and_every_byte_below_a_base_url_with_a_path():
    async def main():
        aluma = simulated(20, "mixed")
        told = []
        async with client_of(aluma, on_event=told.append) as client:
            tasks = await pending(client)
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
        assert [type(event) for event in told] == [events.RowSkipped]

    run_virtual(main)


def test_only_the_projects_asked_for_are_listed_by_id_or_by_name():
    async def main():
        aluma = simulated(8)
        (id_, _), (_, name) = aluma.sample_data.project(0), aluma.sample_data.project(1)
        async with client_of(aluma, projects=(id_, name)) as client:
            assert [task.id for task in await pending(client)] == [aluma.ids()[n] for n in (0, 1, 4, 5)]

    run_virtual(main)


def test_one_token_serves_all_is_renewed_early_and_once_after_a_401():
    """Sixteen requests at once cost one token request; so does a token that is revoked under them."""

    async def main():
        aluma = simulated(16, token_seconds=100, latency_seconds=0.1)
        async with client_of(aluma) as client:
            tasks = [ExportTask(i) for i in aluma.ids()]

            async def all_at_once(verb):
                async with anyio.create_task_group() as group:
                    for task in tasks:
                        group.start_soon(verb, task)

            await all_at_once(client.start)
            assert aluma.counts["token"] == 1
            aluma.revoke_tokens()
            await all_at_once(client.cancel)
            assert aluma.counts["token"] == 2
            await anyio.sleep(85)  # renewed before its end, so that nobody sees a 401
            await all_at_once(client.start)
            assert aluma.counts["token"] == 3

    run_virtual(main)


def test_wrong_credentials_and_a_token_that_is_never_good_are_said_plainly_and_without_the_secret():
    async def main():
        aluma = simulated(1)
        async with client_of(aluma, credentials=Credentials("x", "canary-secret")) as client:
            with pytest.raises(AuthenticationFailed) as caught:
                await pending(client)
            assert "canary" not in str(caught.value) + repr(caught.value)
        faults = FaultPlan()
        faults.plan("list", [Fault.UNAUTHORISED, Fault.UNAUTHORISED])
        async with client_of(aluma, faults) as client:
            with pytest.raises(AuthenticationFailed):
                await pending(client)

    run_virtual(main)


@pytest.mark.parametrize(
    ("fault", "error", "carried_out"),
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
def test_a_start_that_goes_wrong_is_sent_once_and_told_apart(fault, error, carried_out):
    """In particular: a lost reply is ambiguous, and the request is not silently sent again."""

    async def main():
        aluma, faults = simulated(1), FaultPlan()
        faults.plan("start", [fault])
        async with client_of(aluma, faults) as client:
            with pytest.raises(error) as caught:
                await client.start(ExportTask(aluma.ids()[0]))
            assert type(caught.value) is error
            assert aluma.counts["start"] == carried_out
            assert faults.remaining("start") == 0

    run_virtual(main)


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER, Fault.ERROR_BEFORE, Fault.HANG])
def test_a_read_that_goes_wrong_can_simply_be_made_again(fault):
    async def main():
        aluma, faults = simulated(1), FaultPlan()
        # aiohttp itself repeats a read once after a disconnect, so two in a row
        faults.plan("list", [fault, fault])
        async with client_of(aluma, faults) as client:
            with pytest.raises(Unavailable):
                await pending(client)
            while faults.remaining("list"):
                with pytest.raises(Unavailable):
                    await pending(client)
            assert len(await pending(client)) == 1

    run_virtual(main)


def test_a_listing_that_is_cut_short_raises():
    async def main():
        aluma, faults = simulated(3), FaultPlan()
        faults.plan("list", [Fault.TRUNCATE])
        async with client_of(aluma, faults) as client:
            with pytest.raises(SourceError) as caught:
                await pending(client)
            assert caught.value.retryable

    run_virtual(main)


def test_what_does_not_fit_the_state_is_refused_whatever_the_status():
    async def main():
        for status in (400, 403, 404, 409, 412, 422):
            aluma = simulated(1, conflict_status=status)
            async with client_of(aluma) as client:
                with pytest.raises(ClaimConflict):
                    await client.complete(ExportTask(aluma.ids()[0]))

    run_virtual(main)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_documented_or_likely_success_is_one(status):
    async def main():
        aluma = simulated(1, success_status=status)
        async with client_of(aluma) as client:
            claim = await client.start(ExportTask(aluma.ids()[0]))
            await client.complete(claim.task)
            assert await client.state(claim.task) == "completed"

    run_virtual(main)


def test_a_download_is_whole_or_raises():
    """Framed by length or by chunks it is accepted, cut short or without framing it is not."""

    async def main():
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

    run_virtual(main)


def test_a_file_that_is_gone_is_missing():
    async def main():
        aluma = simulated(1)
        async with client_of(aluma) as client:
            claim = await client.start(ExportTask(aluma.ids()[0]))
            await client.complete(claim.task)
            with pytest.raises(FileMissing):
                await download(client, claim)

    run_virtual(main)


def test_fail_carries_its_message():
    async def main():
        aluma = simulated(1)
        async with client_of(aluma) as client:
            claim = await client.start(ExportTask(aluma.ids()[0]))
            await client.fail(claim.task, "the reason")
        assert aluma.messages == {claim.task.id: "the reason"}

    run_virtual(main)


def test_a_start_under_way_is_awaited_even_if_its_caller_is_cancelled():
    """Otherwise nobody would know that the task is ours."""

    async def main():
        aluma = simulated(1, latency_seconds=1)
        async with client_of(aluma) as client:
            await pending(client)
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

    run_virtual(main)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status):
    """A redirect of a PUT to a log-in page looks like success, and one to another host would take the token along."""

    async def main():
        seen = []

        async def token(_):
            return web.json_response({"access_token": "t", "expires_in": 60})

        async def away(request):
            seen.append(request.path)
            return web.Response(status=status, headers={"Location": "/elsewhere"})

        app = web.Application()
        app.add_routes([web.post("/v1/oauth/token", token), web.route("*", "/{any:.*}", away)])
        async with app_session(app) as session:
            client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
            with pytest.raises(SourceError):
                await pending(client)
            with pytest.raises(SourceError):
                await client.complete(ExportTask("a"))
        assert seen == ["/v1/tasks", "/v1/tasks/a/complete_client_action"]

    run_virtual(main)


@pytest.mark.parametrize(("status", "error"), [(502, Ambiguous), (429, RateLimited), (409, ClaimConflict)])
def test_the_status_counts_however_long_the_page_that_comes_with_it(status, error):
    """A proxy's page of 200 KB must not turn an ambiguous Complete into something else."""

    async def main():
        async def token(_):
            return web.json_response({"access_token": "t", "expires_in": 60})

        async def page(_):
            return web.Response(status=status, text="<html>" + "x" * 200_000, content_type="text/html")

        app = web.Application()
        app.add_routes([web.post("/v1/oauth/token", token), web.route("*", "/{any:.*}", page)])
        async with app_session(app) as session:
            with pytest.raises(error):
                await AlumaClient(session, BASE_URL, Credentials("i", "s")).complete(ExportTask("a"))

    run_virtual(main)


def test_no_error_shows_the_token_or_the_secret():
    """All faults, all verbs: neither the text, nor the repr, nor the chain of causes."""

    async def main():
        for fault in Fault:
            for verb in ("list", "start", "file"):
                aluma, faults = simulated(1), FaultPlan()
                faults.plan(verb, [fault] * 3)
                async with client_of(aluma, faults) as client:
                    try:
                        for task in await pending(client):
                            await download(client, await client.start(task))
                    except SourceError as error:
                        chain: BaseException | None = error
                        shown = ""
                        while chain:
                            shown += f"{chain} {chain!r}"
                            chain = chain.__cause__
                        assert "Bearer" not in shown
                        assert aluma.client_secret not in shown

    run_virtual(main)


def test_requests_in_flight_never_exceed_the_limit_measured_at_the_server():
    """Far more workers than permits, tokens and downloads included."""

    async def main():
        aluma = simulated(60, "mixed", latency_seconds=0.05)
        throttle = Throttle(5, uniform=random.Random(0).uniform, on_event=lambda _: None)
        async with client_of(aluma, request_limiter=throttle) as client:
            summary = await Exporter(client, MemoryDestination(), workers=40).run_until_drained()
        assert summary.exported == 60
        assert aluma.in_flight_peak == 5

    run_virtual(main)
