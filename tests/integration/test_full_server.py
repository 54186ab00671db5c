"""A server without space: the probe decides, with about the size of the refused file, whether it concerns all tasks."""

import pytest
from aiohttp import web

from aluma_async import events
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import TaskState
from tests.support.clock import real_time
from tests.support.servers import open_server
from tests.support.tasks import deliver, make_claim
from tests.support.world import World

CLAIM = make_claim("t", ("in", "a.txt"))
FULL = [
    ("webdav", 507, ""),
    ("object store", 507, "XMinioStorageFull"),
    ("object store", 403, "QuotaExceeded"),
    ("object store", 400, "XMinioAdminBucketQuotaExceeded"),
]
full = pytest.mark.parametrize(("kind", "status", "code"), FULL)


def refuse(server, status, code, above):
    """Refuse each upload above a size as a full server does; return the sizes of all uploads."""
    sizes = []

    async def hook(request, _):
        if request.method != "PUT" and not (request.method == "POST" and "uploads" in request.query):
            return None
        size = request.content_length or 0
        if request.method == "PUT":
            sizes.append(size)
        if size <= above:
            return None
        return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="application/xml")

    server.hook = hook
    return sizes


@full
@pytest.mark.parametrize("size", [5_000, 3_000_000])
@real_time
async def test_probe_notices_that_a_server_is_full(kind, status, code, size):
    """It has room for the few bytes of the probe, but for no file. Afterwards the probe is small again."""
    async with open_server(kind) as (server, destination):
        await destination.probe()
        sizes = refuse(server, status, code, above=1000)
        with pytest.raises(DestinationUnavailable) as caught:
            await deliver(destination, CLAIM, "x" * size)
        assert "space" in caught.value.hint
        assert not caught.value.for_all
        sizes.clear()
        for _ in range(2):
            with pytest.raises(DestinationUnavailable):
                await destination.probe()
        assert max(sizes) == min(size, 1024 * 1024)
        server.hook = None
        await destination.probe()
        sizes = refuse(server, status, code, above=1000)
        await destination.probe()
        assert max(sizes) < 1000
        assert not [path for path in getattr(server, "files", server.exported) if "prob" in path]


@full
@real_time
async def test_quota_of_one_folder_is_the_error_of_the_task(kind, status, code):
    """A probe of the same size succeeds elsewhere."""

    async def hook(_, path):
        if "/in/" not in path:
            return None
        return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", content_type="application/xml")

    async with open_server(kind) as (server, destination):
        server.hook = hook
        with pytest.raises(DestinationUnavailable):
            await deliver(destination, CLAIM, "x" * 5_000)
        await destination.probe()
        await deliver(destination, make_claim("healthy", ("out", "a.txt")), "x" * 5_000)
        assert list(server.exported) == ["out/a.txt"]


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [("webdav", 413, ""), ("object store", 413, ""), ("object store", 400, "EntityTooLarge")],
)
@real_time
async def test_file_that_is_too_large_is_the_error_of_the_task(kind, status, code):
    async with open_server(kind) as (server, destination):
        await destination.probe()
        refuse(server, status, code, above=1000)
        with pytest.raises(DestinationError) as caught:
            await deliver(destination, CLAIM, "x" * 5_000)
        assert type(caught.value) is DestinationError


@full
@real_time
async def test_exporter_pauses_while_a_server_is_full(kind, status, code):
    """The probe has the size of the refused file, so it is not the error of each task in turn."""
    async with open_server(kind) as (server, destination):
        world = World(10, destination=destination, profile="small")
        await destination.probe()
        refuse(server, status, code, above=60)
        await world.run_until(lambda: world.count(events.ClaimingPaused), 30)
        assert world.aluma.count_by_state() == {TaskState.PENDING: 10}
        assert {event.failures for event in world.events(events.TaskCancelled)} == {1}
