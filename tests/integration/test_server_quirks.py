"""Servers that differ from what a destination could expect lose nothing, and do not park task after task."""

import time
from email.utils import formatdate

import anyio
import pytest
from aiohttp import web

from aluma_async import events
from aluma_async.destinations.object_store.client import MULTIPART_BYTES
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import TaskState
from tests.support.clock import real_time
from tests.support.servers import open_server
from tests.support.tasks import deliver, make_claim
from tests.support.world import World

CLAIM = make_claim("t", ("", "a.txt"), ("deep", "b.txt"))


def error_page(status, code=""):
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="application/xml")


@real_time
async def test_webdav_uses_no_name_with_an_extension_of_its_own():
    """Nextcloud always refuses ``.part``, and other servers accept only some extensions."""
    async with open_server("webdav", manifest=True) as (server, destination):
        await destination.probe()
        await deliver(destination, CLAIM, "one", "two")
        internal = [path.split("/")[-1] for _, path in server.requests if "/.aluma-async/" in path]
        assert internal
        assert not [name for name in internal if "." in name]


@pytest.mark.parametrize(
    ("kind", "method", "status", "code"),
    [
        ("webdav", "MOVE", 405, ""),
        ("webdav", "MOVE", 403, ""),
        ("webdav", "PUT", 400, ""),
        ("webdav", "PUT", 415, ""),
        ("object store", "PUT", 400, "ExpiredToken"),
        ("object store", "PUT", 400, "InvalidRequest"),
        ("object store", "PUT", 403, "RequestTimeTooSkewed"),
    ],
)
@real_time
async def test_refusal_of_all_files_pauses_claiming(kind, method, status, code):
    """No task is parked because the credentials have expired, or a proxy no longer allows a method."""

    async def hook(request, _):
        refuses = request.method == method and world.count(events.TaskStarted)
        return error_page(status, code) if refuses else None

    async with open_server(kind) as (server, destination):
        world = World(10, destination=destination, profile="small")
        server.hook = hook
        await world.run_until(lambda: world.count(events.ClaimingPaused), 30)
        assert world.aluma.count_by_state() == {TaskState.PENDING: 10}


@real_time
async def test_hint_of_a_wrong_clock_names_the_clock():
    async with open_server("object store") as (server, destination):

        async def hook(*_):
            return error_page(403, "RequestTimeTooSkewed")

        server.hook = hook
        with pytest.raises(DestinationUnavailable, match="RequestTimeTooSkewed") as caught:
            await destination.probe()
        assert "clock" in caught.value.hint


@pytest.mark.parametrize("lie", ["PROPFIND: 405", "PROPFIND: 501", "no sizes"])
@real_time
async def test_webdav_without_propfind_replaces_its_own_files(lie):
    """A re-export creates no second file."""
    async with open_server("webdav") as (server, destination):
        await deliver(destination, CLAIM, "one", "two")
        server.lie = lie
        for contents in (("1", "two"), ("1", "2")):
            await deliver(destination, CLAIM, *contents)
            assert server.exported == dict(zip(("a.txt", "deep/b.txt"), map(str.encode, contents), strict=True))


@real_time
async def test_webdav_is_verified_when_head_reports_no_length():
    """Some servers answer HEAD with ``Content-Length: 0``."""

    async def hook(request, path):
        if request.method == "HEAD" and path in server.files:
            return web.Response()
        return None

    async with open_server("webdav") as (server, destination):
        server.hook = hook
        await destination.probe()
        await deliver(destination, CLAIM, "one", "")
        assert server.exported == {"a.txt": b"one", "deep/b.txt": b""}
        server.lie = "MOVE: truncates"
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, make_claim("u", ("", "c.txt")), "three")


@pytest.mark.parametrize("skew", [-3 * 86400, 3 * 86400])
@real_time
async def test_probe_removes_no_new_staged_file_when_the_server_clock_is_wrong(skew):
    """Neither those of this exporter nor those of another one."""
    now = formatdate(time.time() + skew, usegmt=True)
    entry = "<D:response><D:href>/export/.aluma-async/staging/{}</D:href><D:getlastmodified>{}</D:getlastmodified>"
    old = formatdate(time.time() + skew - 90_000, usegmt=True)
    names = {"0123456789abcdef-1-0": now, "fedcba9876543210-1-0": old}

    async def hook(request, path):
        if request.method == "PROPFIND" and request.headers["Depth"] == "1":
            body = "".join(entry.format(name, modified) + "</D:response>" for name, modified in names.items())
            return web.Response(status=207, text=body, content_type="application/xml", headers={"Date": now})
        return None

    async with open_server("webdav") as (server, destination):
        for name in names:
            server.files[f"export/.aluma-async/staging/{name}"] = b"x"
        server.hook = hook
        await destination.probe()
        assert [path.split("/")[-1] for path in server.files] == ["0123456789abcdef-1-0"]


@real_time
async def test_webdav_asks_caches_for_fresh_answers():
    """A cache in front of the server would hide that a name is taken."""
    seen = {}

    async def hook(request, _):
        seen.setdefault(request.method, set()).add(request.headers.get("Cache-Control"))

    async with open_server("webdav") as (server, destination):
        server.hook = hook
        await destination.probe()
        await deliver(destination, CLAIM, "one", "two")
    assert [seen[method] for method in ("GET", "HEAD", "PROPFIND")] == [{"no-cache"}] * 3


@pytest.mark.parametrize("status", [400, 500])
@real_time
async def test_move_that_is_executed_after_its_failure_leaves_no_file(status):
    """The server answers with an error and executes the request during the roll-back."""
    late = []

    async def hook(request, path):
        if request.method == "MOVE" and "a.txt" in path:
            late.append(request.rel_url.raw_path.strip("/"))
            return web.Response(status=status)
        if late and request.method == "GET" and "/owners/" in path:
            return None
        if late and request.method == "DELETE" and "/staging/" not in path and late[0] in server.files:
            server.files["export/a.txt"] = server.files.pop(late[0])
        return None

    async with open_server("webdav") as (server, destination):
        server.hook = hook
        with pytest.raises(DestinationError):
            await deliver(destination, make_claim("t", ("", "a.txt")), "one")
        server.hook = None
        assert not server.exported


@pytest.mark.parametrize("size", [5, MULTIPART_BYTES + 1])
@real_time
async def test_object_whose_confirmation_was_lost_is_rolled_back(size):
    """The put is repeated, and the condition then fails because of its own object."""
    lost = []

    async def hook(request, path):
        if "sick" in path and request.method != "HEAD":
            while len(server.objects) < 2:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            return web.Response(status=400)
        completes = "uploadId" in request.query if size > 5 else request.method == "PUT"
        if path.endswith("a.txt") and completes and "partNumber" not in request.query and not lost:
            lost.append(path)
            server.hook = None
            # The request is executed, and its response is an error.
            await server(request)
            server.hook = hook
            server.objects[path] = content, server.objects[path][1]
            return web.Response(status=503)
        return None

    content = b"x" * size
    async with open_server("object store") as (server, destination):
        await destination.probe()
        server.hook = hook
        with pytest.raises(DestinationError):
            await deliver(destination, make_claim("t", ("", "a.txt"), ("", "sick.txt")), content, "two")
        assert lost
        assert not server.exported


@real_time
async def test_multipart_upload_that_ends_with_an_error_body_is_not_exported():
    """Amazon answers CompleteMultipartUpload with 200 before it knows the result."""

    async def hook(request, _):
        if request.method == "POST" and "uploadId" in request.query:
            return web.Response(text="<Error><Code>InternalError</Code></Error>", content_type="application/xml")
        return None

    async with open_server("object store") as (server, destination):
        await destination.probe()
        server.hook = hook
        claim = make_claim("t", ("", "a.bin"))
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, claim, b"x" * (MULTIPART_BYTES + 1))
        assert not server.exported
        server.hook = None
        await deliver(destination, claim, b"x" * (MULTIPART_BYTES + 1))
        assert [len(content) for content in server.exported.values()] == [MULTIPART_BYTES + 1]


@real_time
async def test_store_that_refuses_each_condition_on_a_version_is_used():
    """An export replaces the object of an earlier one without the condition."""
    async with open_server("object store") as (server, destination):
        await deliver(destination, CLAIM, "one", "two")
        server.lie = "updates: 412"
        await destination.probe()
        await deliver(destination, CLAIM, "1", "2")
        assert server.exported == {"a.txt": b"1", "deep/b.txt": b"2"}


@real_time
async def test_store_that_shows_an_object_late_is_used():
    """Some stores are consistent only after a moment."""
    hidden = set()

    async def hook(request, path):
        if request.method in ("GET", "HEAD") and path in server.objects and path not in hidden:
            hidden.add(path)
            return web.Response(status=404)
        return None

    async with open_server("object store") as (server, destination):
        server.hook = hook
        await destination.probe()
        await deliver(destination, CLAIM, "one", "two")
        assert server.exported == {"a.txt": b"one", "deep/b.txt": b"two"}
        assert len(hidden) > 2


@real_time
async def test_webdav_repeats_a_request_that_exceeds_a_rate():
    """429 means that the request was not executed."""
    refused = set()

    async def hook(request, path):
        if (request.method, path) in refused:
            return None
        refused.add((request.method, path))
        return web.Response(status=429)

    async with open_server("webdav") as (server, destination):
        server.hook = hook
        await deliver(destination, CLAIM, "one", "two")
        assert server.exported == {"a.txt": b"one", "deep/b.txt": b"two"}


@real_time
async def test_probe_does_not_wait_until_all_old_staged_files_are_removed():
    """There may be very many after crashes, and while the probe runs, no task is claimed."""
    old = formatdate(time.time() - 90_000, usegmt=True)
    entry = "<D:response><D:href>/x/{:016x}-1</D:href><D:getlastmodified>{}</D:getlastmodified></D:response>"

    async def hook(request, path):
        if request.method == "PROPFIND" and request.headers["Depth"] == "1":
            body = "".join(entry.format(number, old) for number in range(1000))
            return web.Response(status=207, text=body, content_type="application/xml")
        if request.method == "DELETE" and path.endswith("-1"):
            await anyio.sleep(0.05)
        return None

    async with open_server("webdav", request_seconds=1.0) as (server, destination):
        server.hook = hook
        with anyio.fail_after(60):
            await destination.probe()
        assert 0 < sum(method == "DELETE" for method, _ in server.requests) < 1000
