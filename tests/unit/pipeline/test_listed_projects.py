"""Tasks that listings contain with different projects: none goes to the destination of another project."""

import anyio
import pytest
from msgspec.structs import replace

from aluma_async import Exporter, events
from aluma_async.destinations.router import DestinationRouter
from aluma_async.models import ExportTask
from aluma_async.pipeline.listed_projects import ListedProjects
from aluma_async.policy.routing import Route, Routing
from aluma_async.testing import MemoryDestination, SimulatedSource
from tests.support.clock import virtual_time
from tests.support.stack import client_of, simulated
from tests.support.world import World

SECRET = {"project_id": "secret", "project_name": "Secret"}


class Contradictory(SimulatedSource):
    """A source whose listings contain the first task again with another project, before or after its own row."""

    is_first = False
    own_row = True

    async def list_pending(self):
        first = self._aluma.ids()[0]
        async for tasks in super().list_pending():
            others = [replace(task, **SECRET) for task in tasks if task.id == first]
            rows = tasks if self.own_row else [task for task in tasks if task.id != first]
            for page in (others, rows) if self.is_first else (rows, others):
                yield page


class Moved(SimulatedSource):
    """A source whose listings but the first contain the last task in another project, perhaps beside its own row."""

    own_row = True

    async def list_pending(self):
        async for tasks in super().list_pending():
            is_first = self._aluma.counts["list"] == 1
            if is_first or self.own_row:
                yield tasks
            if not is_first:
                last = self._aluma.ids()[-1]
                yield [replace(task, **SECRET) if task.id == last else task for task in tasks]


class Slow(MemoryDestination):
    """A destination that needs ten seconds for a file."""

    async def probe(self):
        await super().probe()
        await anyio.sleep(10)


def routed(*routes):
    """Return a destination with routes, and its parts."""
    parts = {"default": MemoryDestination(), "safe": MemoryDestination()}
    return DestinationRouter(parts, Routing(routes, "default")), parts


@pytest.mark.parametrize("is_first", [True, False])
@virtual_time
async def test_task_with_two_projects_waits_if_a_route_depends_on_the_project(is_first):
    destination, parts = routed(Route(("safe",), project="secret"))
    world = World(4, source=Contradictory, destination=destination)
    world.source.is_first = is_first
    first = world.aluma.ids()[0]
    await world.exporter.run_until_drained()
    assert world.aluma.ids("completed") == world.aluma.ids()[1:]
    assert first not in parts["default"].tasks.keys() | parts["safe"].tasks.keys()
    (event,) = world.events(events.TaskCancelled)
    assert "has different ones" in str(event.error)


@virtual_time
async def test_task_with_two_projects_is_exported_if_no_route_depends_on_the_project():
    destination, _ = routed(Route(("safe",), filename="*.pdf"))
    world = World(4, source=Contradictory, destination=destination)
    await world.exporter.run_until_drained()
    assert world.aluma.ids("completed") == world.aluma.ids()


@pytest.mark.parametrize("own_row", [True, False], ids=["contradictory", "moved"])
@virtual_time
async def test_later_listing_counts_for_a_task_that_waits_in_the_queue(own_row):
    """The project of a task is the one that the last listing before its Start has."""
    destination, parts = routed(Route(("safe",), project="secret"))
    parts["default"].__class__ = Slow
    world = World(4, source=Moved, destination=destination, exporter={"workers": 1})
    world.source.own_row = own_row
    moved = world.aluma.ids()[3]
    await world.run_for(300)
    assert world.aluma.counts["list"] > 1
    assert moved not in parts["default"].tasks
    assert (moved in parts["safe"].tasks) is not own_row


@virtual_time
async def test_filter_of_projects_lets_no_task_with_two_projects_through():
    aluma = simulated(8)
    rows = list(aluma.list_pending())
    project = aluma.sample_data.project(0)[0]
    row = rows[0].replace(project.encode(), b"another").replace(aluma.sample_data.project(0)[1].encode(), b"Another")
    aluma.list_pending = lambda: iter([*rows, row]) if aluma.counts["start"] == 0 else iter([row, *rows])
    async with client_of(aluma, projects=[project]) as client:
        await Exporter(client, MemoryDestination()).run_until_drained()
    assert aluma.ids()[0] not in aluma.ids("completed")
    assert aluma.ids("completed")


def test_listed_projects_finds_only_contradictory_tasks():
    tasks = [ExportTask(f"t{number}", project_id="p") for number in range(5)]
    projects = ListedProjects()
    projects.add(tasks)
    projects.add([*tasks[:2], replace(tasks[2], project_id="q"), replace(tasks[3], project_name="n")])
    projects.end()
    assert [projects.certain(task) == task for task in tasks] == [True, True, False, False, True]
    assert projects.certain(tasks[2]).project_id == ""
