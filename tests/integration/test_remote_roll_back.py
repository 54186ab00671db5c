"""A delivery to a server that fails removes its own files, and none of another task."""

import anyio
import msgspec
import pytest
from aiohttp import web

from aluma_async.exceptions import DestinationError
from tests.support.clock import real_time
from tests.support.servers import open_other, open_server
from tests.support.tasks import deliver, make_claim

ONE, TWO = make_claim("one", ("", "a.txt"), ("", "sick.txt")), make_claim("two", ("", "a.txt"))


@pytest.mark.parametrize("kind", ["webdav", "object store"])
@real_time
async def test_roll_back_keeps_a_file_that_another_task_has_replaced(kind):
    """With ``on_conflict = "overwrite"``, the other task may have been completed in the meantime."""
    async with open_server(kind, on_conflict="overwrite") as (server, destination):

        async def hook(_, path):
            if "sick" not in path:
                return None
            while "a.txt" not in server.exported:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            server.hook = None
            await deliver(destination, TWO, b"two")
            return web.Response(status=400)

        await destination.probe()
        server.hook = hook
        with pytest.raises(DestinationError), anyio.fail_after(60):
            await deliver(destination, ONE, b"one", b"one")
        assert server.exported == {"a.txt": b"two"}


@pytest.mark.parametrize("kind", ["webdav", "object store"])
@real_time
async def test_roll_back_removes_no_file_that_is_replaced_at_the_same_time(kind):
    async with open_server(kind, on_conflict="overwrite") as (server, destination), anyio.create_task_group() as group:

        async def hook(request, path):
            if "sick" in path:
                while "a.txt" not in server.exported:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                return web.Response(status=400)
            if "delete" in request.query or (request.method, path) == ("DELETE", "export/a.txt"):
                server.hook = None
                group.start_soon(deliver, destination, TWO, b"two")
                await anyio.sleep(0.3)
            return None

        await destination.probe()
        server.hook = hook
        with pytest.raises(DestinationError), anyio.fail_after(60):
            await deliver(destination, ONE, b"one", b"one")
        assert server.hook is None
    assert server.exported == {"a.txt": b"two"}


@pytest.mark.parametrize("may_replace", [False, True])
@pytest.mark.parametrize("kind", ["webdav", "object store"])
@real_time
async def test_roll_back_keeps_files_of_a_later_delivery_of_the_task(kind, may_replace):
    """After a claim ended, another exporter may have completed the same task with the same files."""
    later = msgspec.structs.replace(ONE, may_replace=may_replace)
    async with open_server(kind) as (server, destination), open_other(kind, server) as other:

        async def hook(_, path):
            if "sick" not in path:
                return None
            while "a.txt" not in server.exported:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            server.hook = None
            await deliver(other, later, b"one", b"one")
            return web.Response(status=400)

        await destination.probe()
        server.hook = hook
        with pytest.raises(DestinationError), anyio.fail_after(60):
            await deliver(destination, ONE, b"one", b"one")
        assert server.hook is None
        assert server.exported == {"a.txt": b"one", "sick.txt": b"one"}


@pytest.mark.parametrize("kind", ["webdav", "object store"])
@real_time
async def test_roll_back_keeps_the_manifest_of_a_redelivery(kind):
    """A redelivery leaves the content of an existing manifest as it is, but it must still be there afterwards."""
    redelivery = msgspec.structs.replace(TWO, may_replace=False)
    options = {"manifest": True}
    async with open_server(kind, **options) as (server, destination), open_other(kind, server, **options) as other:
        manifests = []

        async def hook(request, path):
            if request.method != "HEAD" or "manifests/" not in path or not server.exported.get("manifests/two.json"):
                return None
            server.hook = None
            manifests.append(server.exported["manifests/two.json"])
            await deliver(other, redelivery, b"two")
            return web.Response(status=400)

        await destination.probe()
        server.hook = hook
        with pytest.raises(DestinationError), anyio.fail_after(60):
            await deliver(destination, TWO, b"two")
        assert server.exported == {"a.txt": b"two", "manifests/two.json": manifests[0]}


@real_time
async def test_roll_back_deletes_no_object_that_another_exporter_puts_after_its_own_one():
    """The response to the deletion was lost; it is repeated only if the object is still the one of this delivery."""
    async with open_server("object store") as (server, destination), open_other("object store", server) as other:

        async def hook(request, path):
            if "sick" in path and request.method == "PUT":
                while "a.txt" not in server.exported:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                return web.Response(status=400)
            if "delete" in request.query and "a.txt" in server.exported:
                server.hook = None
                del server.objects["/bucket/a.txt"]  # the request is executed
                await deliver(other, TWO, b"two")
                return web.Response(status=500)
            return None

        await destination.probe()
        server.hook = hook
        with pytest.raises(DestinationError), anyio.fail_after(60):
            await deliver(destination, ONE, b"one", b"one")
        assert server.hook is None
        assert server.exported == {"a.txt": b"two"}


@pytest.mark.parametrize("status", [500, 503])
@real_time
async def test_roll_back_repeats_the_deletion_of_an_object(status):
    refused = []

    async def hook(request, path):
        if "sick" in path and request.method == "PUT":
            while "a.txt" not in server.exported:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            return web.Response(status=400)
        if "delete" in request.query and not refused:
            refused.append(path)
            return web.Response(status=status)
        return None

    async with open_server("object store") as (server, destination):
        await destination.probe()
        server.hook = hook
        with pytest.raises(DestinationError), anyio.fail_after(60):
            await deliver(destination, ONE, b"one", b"one")
        assert refused
        assert not server.exported
