"""A name that a WebDAV server or an object store refuses stops no other task, and no number of files is too large."""

import msgspec
import pytest
from aiohttp import web

from aluma_async import events
from aluma_async.exceptions import DestinationError
from aluma_async.models import TaskState
from aluma_async.testing import SimulatedSource
from tests.support.clock import real_time
from tests.support.servers import open_server
from tests.support.tasks import deliver, make_claim
from tests.support.world import World

SICK, HEALTHY = 6, 20
LONG = "x" * 251 + ".pdf"


def refusing(refuses, status=500):
    """Return a hook that answers requests for some paths with a status, or closes the connection if it is 0."""

    async def hook(request, path):
        if not refuses(path):
            return None
        if not status:
            request.transport.abort()
        return web.Response(status=status or 500)

    return hook


def source_with_names(filename):
    """Return a kind of source whose first ``SICK`` tasks contain a file of this name."""

    class Source(SimulatedSource):
        async def start(self, task):
            claim = await super().start(task)
            if task.id not in self._aluma.ids()[:SICK]:
                return claim
            first, *others = claim.spec.files
            files = (msgspec.structs.replace(first, filename=filename), *others)
            return msgspec.structs.replace(claim, spec=msgspec.structs.replace(claim.spec, files=files))

    return Source


@pytest.mark.parametrize("kind", ["webdav", "object store"])
@pytest.mark.parametrize(
    ("filename", "refuses", "status"),
    [
        ("sick.pdf", lambda path: "sick" in path, 500),
        ("sick.pdf", lambda path: "sick" in path, 0),
        ("sick.pdf", lambda path: "sick" in path, 403),
        ("straße €.pdf", lambda path: "€" in path, 400),
        (LONG, lambda path: max(map(len, path.split("/"))) > 143, 500),
        (LONG, lambda path: max(map(len, path.split("/"))) > 143, 414),
    ],
    ids=["500", "no response", "403", "characters", "long 500", "long 414"],
)
@real_time
async def test_refused_name_stops_no_other_task(kind, filename, refuses, status):
    """The probe succeeds, so the error is the task's: only that task cools down, and claiming does not pause."""
    async with open_server(kind) as (server, destination):
        server.hook = refusing(refuses, status)
        world = World(SICK + HEALTHY, source=source_with_names(filename), destination=destination)
        sick = set(world.aluma.ids()[:SICK])

        def is_done():
            refused = {event.task.id for event in world.events(events.TaskCancelled)}
            return refused == sick and world.count(events.TaskCompleted) == HEALTHY

        await world.run_until(is_done, 30)
        assert world.aluma.count_by_state() == {"completed": HEALTHY, TaskState.PENDING: SICK}
        assert not world.count(events.ClaimingPaused)


@pytest.mark.parametrize("kind", ["webdav", "object store"])
@real_time
async def test_task_is_exported_when_the_server_accepts_its_name_later(kind):
    """Nothing of the refused attempt remains."""
    async with open_server(kind) as (server, destination):
        server.hook = refusing(lambda path: "sick" in path)
        claim = make_claim("t", ("", "healthy.pdf"), ("", "sick.pdf"))
        with pytest.raises(DestinationError):
            await deliver(destination, claim, "one", "two")
        assert not server.exported
        server.hook = None
        await deliver(destination, claim, "one", "two")
        assert server.exported == {"healthy.pdf": b"one", "sick.pdf": b"two"}


@pytest.mark.parametrize(("kind", "per_file"), [("webdav", 9), ("object store", 5)])
@real_time
async def test_tasks_with_many_files_of_one_long_name_are_exported(kind, per_file):
    """The second task renames all of its files; neither task tries name after name."""
    files = 150
    async with open_server(kind) as (server, destination):
        for task_id in ("one", "two"):
            server.requests.clear()
            await deliver(destination, make_claim(task_id, *[("", LONG)] * files), *[task_id] * files)
            assert len(server.requests) < files * per_file
        assert sorted(server.exported.values()) == [b"one"] * files + [b"two"] * files
        assert max(len(name) for name in server.exported) == 255


@pytest.mark.parametrize("kind", ["webdav", "object store"])
@real_time
async def test_name_of_the_maximum_length_is_exported(kind):
    async with open_server(kind) as (server, destination):
        names = [LONG, "é" * 300 + ".pdf", "a." + "x" * 400, "🎉?#%&+ €.pdf", "%2e%2e.pdf"]
        await deliver(destination, make_claim("t", *(("", name) for name in names)), *names)
        assert sorted(server.exported.values()) == sorted(name.encode() for name in names)
