"""A task is exported to a WebDAV server only if the server has stored its files, whatever it answers."""

import anyio
import pytest
from aiohttp import web

from aluma_async.destinations.webdav.client import open_session
from aluma_async.destinations.webdav.destination import WebDavDestination
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from tests.support.clock import real_time
from tests.support.http import http_server
from tests.support.tasks import deliver, make_claim
from tests.support.webdav import open_webdav, simulated_webdav

FATAL_LIES = (
    "stores nothing",
    "page for all",
    "page for reads",
    "PUT: 201",
    "PUT: 202",
    "PUT: page",
    "PUT: truncates",
    "PUT: empties",
    "MOVE: 200",
    "MOVE: 201",
    "MOVE: 204",
    "MOVE: page",
    "MOVE: loses",
    "MOVE: empties",
    "MOVE: truncates",
)
"""The lies that lose a file."""
USELESS_COPY = ("COPY: 200", "COPY: 201", "COPY: 405", "COPY: page", "COPY: empties", "COPY: 502", "MOVE: 502")
CLAIM = make_claim("t", ("", "a.txt"), ("deep", "b.bin"))
CONTENTS = (b"hello world", b"B" * 2_000_000)


@pytest.mark.parametrize("lie", [*FATAL_LIES, *USELESS_COPY])
@real_time
async def test_probe_notices_that_nothing_would_be_exported(lie):
    """The probe does what an export does, and reads back what it wrote."""
    async with simulated_webdav(lie) as server, open_webdav(server.url) as destination:
        with pytest.raises(DestinationUnavailable) as caught, anyio.fail_after(60):
            await destination.probe()
        assert caught.value.hint
        assert "log in" not in caught.value.text


@pytest.mark.parametrize("method", ["COPY", "MOVE"])
@pytest.mark.parametrize("status", [400, 403, 405, 409, 501, 502])
@real_time
async def test_hint_names_the_destination_header_when_a_move_is_refused(method, status):
    """The status depends on the server, if a proxy that ends TLS forwards the header unchanged.

    Apache answers 502, nginx 400, and servers with sabre/dav 403. It is not the password, because PUT has worked.
    """
    async with simulated_webdav(f"{method}: {status}") as server, open_webdav(server.url) as destination:
        with pytest.raises(DestinationUnavailable, match=f"{method}: {status}") as caught:
            await destination.probe()
    assert "Destination header" in caught.value.hint


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("lie", FATAL_LIES)
@real_time
async def test_delivery_fails_when_the_server_lies_after_the_probe(lie, manifest):
    """Each lie begins after a successful probe; the task's next attempt stores everything."""
    async with simulated_webdav() as server, open_webdav(server.url, manifest=manifest) as destination:
        await destination.probe()
        server.lie = lie
        with pytest.raises(DestinationError), anyio.fail_after(60):
            await deliver(destination, CLAIM, *CONTENTS)
        server.lie = ""
        await deliver(destination, CLAIM, *CONTENTS)
        assert [server.exported[name] for name in ("a.txt", "deep/b.bin")] == list(CONTENTS)


@real_time
async def test_delivery_fails_when_a_replaced_file_is_damaged():
    async with simulated_webdav() as server, open_webdav(server.url) as destination:
        await deliver(destination, CLAIM, *CONTENTS)
        server.lie = "MOVE: empties"
        with pytest.raises(DestinationUnavailable, match="0 bytes instead of"):
            await deliver(destination, CLAIM, *CONTENTS)


@pytest.mark.parametrize("lie", ["MOVE: 201", "MOVE: 204"])
@real_time
async def test_delivery_fails_when_a_file_of_the_same_size_is_not_replaced(lie):
    """The size alone does not show whether a MOVE to an existing name had an effect."""
    async with simulated_webdav() as server, open_webdav(server.url, on_conflict="overwrite") as destination:
        await deliver(destination, make_claim("one", ("", "a.txt")), b"one")
        server.lie = lie
        with pytest.raises(DestinationUnavailable, match="still"):
            await deliver(destination, make_claim("two", ("", "a.txt")), b"two")
        server.lie = ""
        await deliver(destination, make_claim("two", ("", "a.txt")), b"two")
        assert server.exported == {"a.txt": b"two"}


@pytest.mark.parametrize("lie", ["", "no sizes", "no sizes for HEAD", "pages with 201", "ignores Overwrite"])
@real_time
async def test_server_with_a_limitation_is_used(lie):
    """Apache's confirmations contain a web page. A server without sizes or ``Overwrite`` is a warning of ``check``."""
    async with simulated_webdav(lie) as server, open_webdav(server.url) as destination:
        await destination.probe()
        await deliver(destination, CLAIM, *CONTENTS)
        assert server.exported == {"a.txt": CONTENTS[0], "deep/b.bin": CONTENTS[1]}
        assert ("size" in destination.warning) is (lie == "no sizes")
        assert ("Overwrite" in destination.warning) is (lie == "ignores Overwrite")
        assert bool(destination.warning) is (lie in ("no sizes", "ignores Overwrite"))
        assert not [path for path in server.files if "/staging/" in path]


@pytest.mark.parametrize("lie", ["", "no sizes for HEAD"])
@real_time
async def test_delivery_costs_one_request_per_file_for_the_verification(lie):
    """PUT, GET of the owner, HEAD, COPY of the owner, MOVE, and one that reads the size.

    A file that is replaced costs one more, which checks the old name.
    """
    async with simulated_webdav(lie) as server, open_webdav(server.url) as destination:
        await destination.probe()
        for task_id, files, per_file in (("warm-up", 1, 6), ("t", 20, 6), ("t", 20, 7)):
            server.requests.clear()
            claim = make_claim(task_id, *(("", f"{task_id}{number}.txt") for number in range(files)))
            await deliver(destination, claim, *["x"] * files)
            per_task = 2 + 4 + files  # PUT and DELETE of the owner record, MKCOL of internal and of owners' folders
            assert len(server.requests) <= files * per_file + per_task


@pytest.mark.parametrize("record", [b"<html>log in</html>", b"x" * 5_000])
@real_time
async def test_owner_record_that_is_none_makes_the_server_unavailable(record):
    async with simulated_webdav() as server, open_webdav(server.url) as destination:
        await deliver(destination, CLAIM, *CONTENTS)
        for path in server.files:
            if "/owners/" in path:
                server.files[path] = record
        with pytest.raises(DestinationUnavailable, match="owner"):
            await deliver(destination, CLAIM, *CONTENTS)


@real_time
async def test_search_for_a_free_name_ends():
    """A server on which each name is taken ends the search after a bounded number of names."""

    async def handle(request):
        if request.method == "HEAD":
            return web.Response(status=200)
        return web.Response(status=404 if request.method == "GET" else 201)

    async with http_server(handle) as port, open_webdav(f"http://127.0.0.1:{port}/dav") as destination:
        with pytest.raises(DestinationError, match="no free name"), anyio.fail_after(60):
            await deliver(destination, make_claim("t", ("", "a.txt")), b"x")


@pytest.mark.parametrize("foreign", [False, True])
@real_time
async def test_file_that_overwrite_replaced_belongs_to_the_new_task(foreign):
    """A later export of the earlier task with another ``on_conflict`` does not replace it."""
    one, two = make_claim("one", ("", "a.txt")), make_claim("two", ("", "a.txt"))
    async with simulated_webdav() as server, open_session({}) as session:
        if foreign:
            server.files["export/a.txt"] = b"foreign"
        else:
            await deliver(WebDavDestination(session, server.url), one, b"one")
        await deliver(WebDavDestination(session, server.url, on_conflict="overwrite"), two, b"two")
        assert server.exported == {"a.txt": b"two"}
        keep_both = WebDavDestination(session, server.url)
        await deliver(keep_both, one, b"one")
        await deliver(keep_both, two, b"two again")
        assert server.exported["a.txt"] == b"two again"
        assert sorted(server.exported.values()) == [b"one", b"two again"]


@pytest.mark.parametrize(
    ("challenge", "named"),
    [
        ("Digest realm=x", "Digest"),
        ("Negotiate, NTLM", "Negotiate and NTLM"),
        ("Basic realm=x, Digest realm=x", "user"),
    ],
)
@real_time
async def test_hint_of_401_names_a_scheme_that_is_not_supported(challenge, named):
    async def refuse(_):
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async with http_server(refuse) as port, open_webdav(f"http://127.0.0.1:{port}/dav") as destination:
        with pytest.raises(DestinationUnavailable, match="401") as caught:
            await destination.probe()
    assert named in caught.value.hint
