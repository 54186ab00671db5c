"""Tasks whose place at the destination is defective stop no others, although they are listed first.

Default settings of the exporter; thirty sick tasks are more than it has workers. The probe succeeds.
"""

import errno
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from aluma_async import FolderDestination, events
from aluma_async.destinations.folder import fs
from aluma_async.models import TaskState
from aluma_async.testing import SimulatedSource
from tests.support.clock import real_time
from tests.support.databases import SqliteDatabase, open_sql
from tests.support.servers import open_server
from tests.support.tasks import deliver, make_claim
from tests.support.world import World

SICK, HEALTHY = 30, 40


class Source(SimulatedSource):
    """Each file is in the folder ``sick`` or ``healthy``."""

    async def start(self, task):
        claim = await super().start(task)
        folder = "sick" if task.id in self._aluma.ids()[:SICK] else "healthy"
        files = tuple(msgspec.structs.replace(file, folder=folder) for file in claim.spec.files)
        return msgspec.structs.replace(claim, spec=msgspec.structs.replace(claim.spec, files=files))


@asynccontextmanager
async def folder_with_an_unusable_one(tmp_path):
    """Tests may run as root, who may write to every folder but to those of a system file system."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sick").symlink_to("/proc/sys")
    yield FolderDestination(tmp_path / "out")


@asynccontextmanager
async def folder_with_a_quota_of_one(tmp_path):
    move = fs.move

    def move_checked(source, name, folder, *arguments, **options):
        if Path(f"/proc/self/fd/{folder}").readlink().name == "sick":
            raise OSError(errno.EDQUOT, "quota exceeded")
        move(source, name, folder, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "move", move_checked)
        yield FolderDestination(tmp_path / "out")


@asynccontextmanager
async def sqlite_with_a_view(tmp_path):
    database = SqliteDatabase(tmp_path / "a.db")
    database.ask("CREATE VIEW sick AS SELECT 1 AS a")
    async with open_sql(database, "{folder}", mode="files", create=True) as destination:
        yield destination


@asynccontextmanager
async def postgres_with_a_slow_table(database):
    """One table answers more slowly than the database user's time-out allows."""
    async with open_sql(database, "{folder}", mode="files", create=True) as destination:
        await deliver(destination, make_claim("first", ("sick", "a.pdf")), "x")
    database.ask(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(9); RETURN NEW; END$$"
    )
    database.ask("CREATE TRIGGER slow BEFORE INSERT ON sick FOR EACH ROW EXECUTE FUNCTION f()")
    database.ask(f"ALTER DATABASE {database.name} SET statement_timeout = '2s'")
    async with open_sql(database, "{folder}", mode="files", create=True) as destination:
        yield destination


@asynccontextmanager
async def server_that_refuses_a_folder(kind, status):
    async def hook(request, path):
        if "sick/" not in path:
            return None
        if not status:
            request.transport.abort()
        return web.Response(status=status or 500)

    async with open_server(kind) as (server, destination):
        server.hook = hook
        yield destination


async def export_beside_sick_tasks(opened):
    async with opened as destination:
        world = World(SICK + HEALTHY, source=Source, destination=destination)

        def is_done():
            released = {event.task.id for event in world.events(events.TaskCancelled)}
            return len(released) == SICK and world.count(events.TaskCompleted) == HEALTHY

        await world.run_until(is_done, 120)
        assert world.aluma.count_by_state() == {"completed": HEALTHY, TaskState.PENDING: SICK}
        assert not world.count(events.ClaimingPaused)


@pytest.mark.parametrize("place", [folder_with_an_unusable_one, folder_with_a_quota_of_one, sqlite_with_a_view])
@real_time
async def test_sick_place_stops_no_healthy_task(place, tmp_path):
    await export_beside_sick_tasks(place(tmp_path))


@real_time
async def test_slow_table_stops_no_healthy_task(postgres_database):
    await export_beside_sick_tasks(postgres_with_a_slow_table(postgres_database))


@pytest.mark.parametrize("status", [500, 403, 507, 413, 0], ids=["500", "403", "507", "413", "no response"])
@pytest.mark.parametrize("kind", ["webdav", "object store"])
@real_time
async def test_refused_folder_of_a_server_stops_no_healthy_task(kind, status):
    await export_beside_sick_tasks(server_that_refuses_a_folder(kind, status))
