"""The lists of contents on a WebDAV server: those of earlier deliveries are removed when nothing refers to them."""

import pytest
from aiohttp import web

from aluma_async.exceptions import DestinationError
from tests.support.clock import real_time
from tests.support.servers import open_server
from tests.support.tasks import deliver, make_claim

BOTH, ONE = make_claim("t", ("", "a.txt"), ("", "b.txt")), make_claim("t", ("", "a.txt"))


def lists(server):
    """Return the content of each list."""
    return [text for path, text in server.files.items() if path.startswith("export/.aluma-async/contents/")]


@pytest.mark.parametrize("manifest", [False, True])
@real_time
async def test_list_of_an_earlier_delivery_is_removed_when_it_is_superseded(manifest):
    """Also if a file was not changed. Before, the folder grew with each repeated export."""
    async with open_server("webdav", manifest=manifest) as (server, destination):
        for version in ("1", "2", "3"):
            await deliver(destination, BOTH, version, "same")
            (text,) = lists(server)
            assert len(text.splitlines()) == 2 + (version > "1"), "with the content that was replaced"
        await deliver(destination, make_claim("other", ("", "c.txt")), "other")
        assert len(lists(server)) == 2
        assert {path: server.exported[path] for path in ("a.txt", "b.txt")} == {"a.txt": b"3", "b.txt": b"same"}


@real_time
async def test_list_stays_while_a_file_of_an_earlier_delivery_is_left():
    """A later delivery may have this file again, and then replaces it."""
    async with open_server("webdav") as (server, destination):
        await deliver(destination, BOTH, "1", "1")
        await deliver(destination, ONE, "2")
        assert len(lists(server)) == 2
        await deliver(destination, BOTH, "3", "3")
        assert server.exported == {"a.txt": b"3", "b.txt": b"3"}


@real_time
async def test_list_stays_when_the_next_delivery_fails():
    async with open_server("webdav") as (server, destination):
        await deliver(destination, BOTH, "1", "1")

        async def hook(request, path):
            if request.method == "MOVE" and "b.txt" in path:
                return web.Response(status=400)
            return None

        server.hook = hook
        with pytest.raises(DestinationError):
            await deliver(destination, BOTH, "2", "2")
        server.hook = None
        assert len(lists(server)) == 2
        await deliver(destination, BOTH, "3", "3")
        assert server.exported == {"a.txt": b"3", "b.txt": b"3"}
