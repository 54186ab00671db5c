"""Statuses and pages of Aluma, and of the proxies in front of it: which error each of them is."""

import gzip

import pytest
from aiohttp import web

from aluma_async import AlumaClient, Credentials
from aluma_async.exceptions import (
    Ambiguous,
    AuthenticationFailed,
    ClaimConflict,
    FileMissing,
    InvalidResponse,
    RateLimited,
    RequestRejected,
    SourceError,
    Unavailable,
    Unreachable,
)
from aluma_async.models import ExportTask
from tests.support.clock import virtual_time
from tests.support.downloads import BODY, CLAIM, FILE, serve_downloads
from tests.support.stack import BASE_URL, app_session, download, list_tasks

TASK = ExportTask("t")
JSON = ("application/json", '{"message":"because"}')
EMPTY = (None, "")
PAGES = {
    "html": ("text/html; charset=utf-8", "<html><body>please log in</body></html>"),
    "html in capitals": ("TEXT/HTML", ""),
    "html of another type": ("text/plain", "\ufeff\n<!DOCTYPE html><html></html>"),
    "html without a type": (None, "<html>"),
    "xml": ("application/xml", "<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"),
    "ingress": ("text/plain; charset=utf-8", "default backend - 404"),
    "router": ("text/plain; charset=utf-8", "404 page not found\n"),
}
SETTLEMENTS = ("complete", "cancel", "fail")
CHANGES = ("start", *SETTLEMENTS)


async def send(verb, status, content=JSON, headers=None, *, token=None):
    """Send a request that is answered by one response; ``token`` is the response to the request for a token."""

    def response(status, content):
        kind, text = content
        extra = {"Content-Type": kind} if kind else {}
        return web.Response(status=status, body=text.encode(), headers={**extra, **(headers or {})})

    async def get_token(_):
        return response(*token) if token else web.json_response({"access_token": "t", "expires_in": 60})

    async def answer(_):
        return response(status, content)

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", get_token), web.route("*", "/{any:.*}", answer)])
    async with app_session(app) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
        match verb:
            case "list":
                await list_tasks(client)
            case "file":
                await download(client, CLAIM)
            case "state":
                return await client.state(TASK)
            case "fail":
                await client.fail(TASK, "message")
            case _:
                await getattr(client, verb)(TASK)
    return None


async def error_of(verb, status, content=JSON, headers=None, *, token=None):
    """Return the error that a request raises."""
    with pytest.raises(SourceError) as caught:
        await send(verb, status, content, headers, token=token)
    return caught.value


@pytest.mark.parametrize("status", [404, 409, 410, 412, 422])
@virtual_time
async def test_settlement_is_a_conflict_only_for_statuses_about_the_state(status):
    for verb in CHANGES:
        for content in (JSON, EMPTY):
            assert type(await error_of(verb, status, content)) is ClaimConflict, (verb, content)


@pytest.mark.parametrize("status", [400, 402, 403, 405, 406, 411, 413, 414, 415, 426, 428, 431, 451, 499])
@virtual_time
async def test_settlement_is_rejected_for_every_other_client_error(status):
    """Such a status says nothing about the claim."""
    for verb in SETTLEMENTS:
        for content in (JSON, EMPTY, PAGES["html"]):
            assert type(await error_of(verb, status, content)) is RequestRejected, (verb, content)


@virtual_time
async def test_start_is_a_conflict_for_status_400_too():
    assert type(await error_of("start", 400)) is ClaimConflict
    assert type(await error_of("start", 400, PAGES["html"])) is RequestRejected
    for status in (403, 405, 451):
        assert type(await error_of("start", status)) is RequestRejected


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@virtual_time
async def test_page_of_a_proxy_says_nothing_about_a_claim(page):
    """Whatever the status is: proxies without a backend, log-in pages, filters."""
    for verb in CHANGES:
        for status in (401, 403, 404, 405, 410, 451):
            error = await error_of(verb, status, page)
            assert isinstance(error, RequestRejected), (verb, status)
        if page[1].lstrip("\ufeff\n").startswith("<"):
            for status in (409, 412, 422):
                assert type(await error_of(verb, status, page)) is RequestRejected, (verb, status)
        for status in (200, 202):  # Aluma's answer is empty or JSON
            assert type(await error_of(verb, status, page)) is Ambiguous, (verb, status)
        for status in (500, 502, 503, 504):
            assert type(await error_of(verb, status, page)) is Ambiguous, (verb, status)
    assert type(await error_of("file", 404, page)) is SourceError
    assert type(await error_of("state", 404, page)) is SourceError, "the task may exist"


@virtual_time
async def test_settlement_is_confirmed_by_json_and_an_incomplete_object():
    """Aluma's answer needs no field, and one that begins like an object is no page of a proxy."""
    for text in ("", "{", "{}", '{"state":', "[]", "null", " {}"):
        for verb in SETTLEMENTS:
            await send(verb, 202, ("application/json", text))
    for text in ("O", "ok", "<p>", "\n<p>"):
        error = await error_of("complete", 202, ("application/json", text))
        assert type(error) is Ambiguous, text
        received = "a web page" if "<" in text else "a text in place of Aluma's answer"
        assert str(error) == f"complete task t: received {received}"


@pytest.mark.parametrize("status", [101, 201, 203, 205, 206, 226, 300, 301, 302, 303, 304, 307, 308])
@virtual_time
async def test_change_is_ambiguous_for_an_unexpected_success_or_redirect(status):
    """A Start that was answered by 201 may be executed."""
    for verb in CHANGES:
        assert type(await error_of(verb, status, EMPTY, {"Location": "/login"})) is Ambiguous, verb


@pytest.mark.parametrize(
    ("status", "read", "change"),
    [
        (407, Unreachable, Unreachable),
        (408, Unavailable, Ambiguous),
        (421, Unavailable, Unavailable),
        (425, Unavailable, Unavailable),
        (429, RateLimited, RateLimited),
        (500, Unavailable, Ambiguous),
        (502, Unavailable, Ambiguous),
        (503, Unavailable, Ambiguous),
        (504, Unavailable, Ambiguous),
        (511, Unreachable, Unreachable),
        (599, Unavailable, Ambiguous),
    ],
)
@virtual_time
async def test_temporary_status_tells_whether_the_request_was_executed(status, read, change):
    for content in (JSON, EMPTY, PAGES["html"]):
        for verb in ("list", "file", "state"):
            assert type(await error_of(verb, status, content)) is read, verb
        for verb in CHANGES:
            assert type(await error_of(verb, status, content)) is change, verb


@virtual_time
async def test_missing_file_or_task_is_known_only_from_the_api_itself():
    """That a task is missing is certain only if there are listings, which are not found here, too."""
    for status in (404, 410):
        for content in (JSON, EMPTY):
            assert type(await error_of("file", status, content)) is FileMissing
            assert type(await error_of("state", status, content)) is FileMissing
    for status in (400, 403, 405, 451):
        assert type(await error_of("file", status)) is SourceError
        assert type(await error_of("state", status)) is SourceError
    assert type(await error_of("file", 416)) is InvalidResponse


@virtual_time
async def test_second_refusal_of_a_token_is_a_rejected_request():
    """Nothing is known about the claim."""
    for verb in ("list", "file", "state", *CHANGES):
        error = await error_of(verb, 401)
        assert type(error) is AuthenticationFailed
        assert isinstance(error, RequestRejected)


@pytest.mark.parametrize(
    ("token", "error"),
    [
        ((401, JSON), AuthenticationFailed),
        ((403, JSON), AuthenticationFailed),
        ((400, JSON), AuthenticationFailed),
        ((403, PAGES["html"]), RequestRejected),
        ((404, PAGES["ingress"]), RequestRejected),
        ((404, JSON), RequestRejected),
        ((302, EMPTY), RequestRejected),
        ((511, PAGES["html"]), Unreachable),
        ((407, PAGES["html"]), Unreachable),
        ((200, PAGES["html"]), Unavailable),
        ((200, ("application/json", "{}")), Unavailable),
        ((200, ("application/json", " " * 100_000)), Unavailable),
        ((204, EMPTY), Unavailable),
        ((502, PAGES["html"]), Unavailable),
    ],
)
@virtual_time
async def test_start_without_a_token_was_not_sent(token, error):
    """No class that means that the task may be claimed, so that no Cancel is sent for another exporter's claim."""
    assert type(await error_of("start", 202, token=token)) is error


@virtual_time
async def test_error_names_the_page_but_does_not_quote_it():
    error = await error_of("complete", 403, PAGES["html"])
    assert str(error) == "complete task t: a proxy or a web page answered 403"
    assert "proxy" in error.hint
    assert FILE.filename not in str(await error_of("file", 404, PAGES["ingress"]))


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("verb", ["list", "complete"])
@virtual_time
async def test_only_503_asks_for_fewer_requests_and_for_a_pause(verb, status):
    """Its Retry-After counts; that of another status may be the proxy's own."""
    with pytest.raises((Unavailable, Ambiguous)) as caught:
        await send(verb, status, headers={"Retry-After": "7"})
    assert caught.value.overloaded is (status == 503)
    assert caught.value.retry_after == (7 if status == 503 else None)


@pytest.mark.parametrize("status", [400, 404, 410])
@virtual_time
async def test_plain_text_is_a_page_only_with_the_statuses_of_proxies_without_a_backend(status):
    """The API's own errors are JSON, empty, or a text in quotes."""
    text = ("text/plain", "no backend")
    with pytest.raises(RequestRejected):
        await send("complete", status, text)
    with pytest.raises(RequestRejected):
        await send("start", status, text)
    for content in (JSON, EMPTY, ("text/plain", '"gone"'), ("text/plain", "[]")):
        with pytest.raises(RequestRejected if status == 400 else ClaimConflict):
            await send("complete", status, content)
    with pytest.raises(ClaimConflict):
        await send("complete", 409, text)


@pytest.mark.parametrize("status", [404, 408, 429, 500, 501, 502, 503, 504])
@virtual_time
async def test_connection_is_not_used_again_when_a_proxy_gave_up_its_wait(status):
    """The server's late response would be taken for that of the next request."""
    connections = []

    async def token(_):
        return web.json_response({"access_token": "t", "expires_in": 60})

    async def answer(request):
        connections.append(request.transport)
        return web.json_response({"tasks": []}, status=status if len(connections) == 1 else 200)

    app = web.Application()
    app.add_routes([web.post("/v1/oauth/token", token), web.get("/v1/tasks", answer)])
    async with app_session(app) as session:
        client = AlumaClient(session, BASE_URL, Credentials("i", "s"))
        with pytest.raises(SourceError):
            await list_tasks(client)
        await list_tasks(client)
    first, second = connections
    assert (first is not second) is (status in (408, 500, 502, 504))


@virtual_time
async def test_body_of_an_error_is_read_up_to_64_kib():
    """A longer one is not that of the API, so that a settlement with it is no conflict."""
    body = '{"message": "because", "padding": ""}'
    for size, error in ((64 * 1024, ClaimConflict), (64 * 1024 + 1, RequestRejected)):
        with pytest.raises(SourceError) as caught:
            await send("complete", 404, ("application/json", body.replace('""', f'"{"x" * (size - len(body))}"')))
        assert type(caught.value) is error
        assert ("because" in str(caught.value)) is (error is ClaimConflict)


@pytest.mark.parametrize("with_length", [True, False])
@virtual_time
async def test_compressed_download_is_refused_with_and_without_a_length(with_length):
    """It was not asked for, and a truncated one could look like a complete file."""
    for encoding, body in (("gzip", gzip.compress(BODY)), ("identity", BODY)):

        async def respond(request, number, encoding=encoding, body=body):
            response = web.StreamResponse(headers={"Content-Encoding": encoding})
            if with_length:
                response.content_length = len(body)
            else:
                response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(body)
            return response

        async with serve_downloads(respond) as (client, _):
            if encoding == "gzip":
                with pytest.raises(InvalidResponse, match="compressed"):
                    await download(client, CLAIM)
            else:
                assert await download(client, CLAIM) == BODY
