"""A server that does not answer requests about some names stops no task with other names."""

from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from aiohttp import web

from aluma_async import events
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.models import TaskState
from tests.integration.test_sick_places import HEALTHY, SICK, Source
from tests.support.clock import real_time
from tests.support.servers import open_server
from tests.support.tasks import deliver, make_claim
from tests.support.world import World

kinds = pytest.mark.parametrize("kind", ["webdav", "object store"])


@asynccontextmanager
async def hanging_server(kind, hangs, request_seconds):
    """Yield a server that does not answer some requests before the end of the test, and a destination on it."""
    ended = anyio.Event()

    async def hook(request, path):
        if hangs(request.method, path):
            await ended.wait()

    async with open_server(kind, request_seconds=request_seconds) as (server, destination):
        server.hook, server.ended = hook, ended
        try:
            yield server, destination
        finally:
            ended.set()


@pytest.mark.parametrize("methods", [("HEAD", "GET"), ("PUT", "MOVE", "DELETE", "POST"), ("MKCOL", "PUT", "POST")])
@kinds
@real_time
async def test_hanging_folder_stops_no_healthy_task(kind, methods):
    """Thirty sick tasks, listed first, are more than there are workers and slots."""

    def hangs(method, path):
        return method in methods and "sick" in path

    async with hanging_server(kind, hangs, 3.0) as (_, destination):
        world = World(SICK + HEALTHY, source=Source, destination=destination)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(world.exporter.run)
                while world.count(events.TaskCompleted) < HEALTHY:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
                group.cancel_scope.cancel()
        counts = world.aluma.count_by_state()
        assert counts["completed"] == HEALTHY
        assert not world.count(events.ClaimingPaused)
        assert TaskState.PENDING in counts


@kinds
@real_time
async def test_healthy_files_do_not_wait_for_hanging_ones(kind):
    """More sick deliveries than slots; a healthy one ends before the time limit of their first requests."""
    async with hanging_server(kind, lambda _, path: "sick" in path, 10.0) as (server, destination):
        await destination.probe()
        timed_out = []

        async def deliver_sick(number):
            claim = make_claim(f"t{number}", *((f"sick{number}", f"{n}.txt") for n in range(20)))
            with pytest.raises(DestinationUnavailable):
                await deliver(destination, claim, *["x"] * 20)
            timed_out.append(number)

        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(deliver_sick, number)
            await anyio.sleep(0.3)
            await deliver(destination, make_claim("t", *(("out", f"{n}.txt") for n in range(20))), *["x"] * 20)
            assert len(server.exported) == 20
            assert not timed_out
            group.cancel_scope.cancel()
            server.ended.set()


@pytest.mark.parametrize("method", ["HEAD", "MOVE"])
@real_time
async def test_hanging_request_ends_the_delivery_without_a_trace(method):
    def hangs(name, path):
        return name == method and "sick.txt" in path

    async with hanging_server("webdav", hangs, 0.5) as (server, destination):
        with pytest.raises(DestinationUnavailable, match="TimeoutError"), anyio.fail_after(60):
            await deliver(destination, make_claim("t", ("", "a.txt"), ("", "sick.txt")), "one", "two")
        server.hook = None
        assert not server.exported
        await deliver(destination, make_claim("t", ("", "a.txt"), ("", "sick.txt")), "one", "two")
        assert server.exported == {"a.txt": b"one", "sick.txt": b"two"}


@real_time
async def test_cancelled_delivery_does_not_wait_for_a_file_that_is_compared():
    """A byte from time to time keeps the response alive for hours. The earlier file stays as it is."""
    claim, reading = make_claim("t", ("", "a.txt")), anyio.Event()
    async with open_server("webdav") as (server, destination):
        await deliver(destination, claim, "one")

        async def hook(request, path):
            if (request.method, path) != ("GET", "export/a.txt"):
                return
            response = web.StreamResponse()
            await response.prepare(request)
            reading.set()
            with suppress(ConnectionError):
                while True:
                    await response.write(b"x")
                    await anyio.sleep(0.1)

        server.hook = hook
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(deliver, destination, claim, "two")
                await reading.wait()
                group.cancel_scope.cancel()
        server.hook = None
        assert server.exported == {"a.txt": b"one"}
        await deliver(destination, claim, "two")
        assert server.exported == {"a.txt": b"two"}


@real_time
async def test_roll_back_does_not_wait_for_a_hanging_upload_of_another_task():
    """The upload of a big file may hang for minutes, and another delivery must end meanwhile, also in a drain."""
    ended = anyio.Event()
    one, two = make_claim("one", ("", "a.txt"), ("", "sick.txt")), make_claim("two", ("", "a.txt"))
    async with (
        open_server("object store", on_conflict="overwrite", request_seconds=0.5) as (server, destination),
        anyio.create_task_group() as group,
    ):
        await destination.probe()

        async def hook(request, path):
            if "sick" in path:
                while "a.txt" not in server.exported:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                group.start_soon(deliver, destination, two, "two" * 1024 * 1024)
                await hanging.wait()
                return web.Response(status=400)
            if request.method == "PUT" and request.content_length > 1024:
                hanging.set()
                await ended.wait()
            return None

        hanging, server.hook = anyio.Event(), hook
        with pytest.raises(DestinationError), anyio.fail_after(10):
            await deliver(destination, one, "one", "one")
        ended.set()
        group.cancel_scope.cancel()
