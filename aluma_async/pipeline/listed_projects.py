"""``ListedProjects``: finds the tasks that a listing contains several times with different projects."""

from array import array
from collections.abc import Sequence
from itertools import pairwise

from msgspec.structs import replace

from aluma_async.models import ExportTask


class ListedProjects:
    """The hashes of the tasks of one listing and of their projects: 16 bytes a row, so that a million fit into memory.

    If two ids have the same hash, their tasks seem to have no project, which costs a delay at most.
    """

    def __init__(self) -> None:
        self._ids = array("q")
        self._projects = array("q")
        self._contradictory: frozenset[int] = frozenset()

    def add(self, tasks: Sequence[ExportTask]) -> None:
        """Add rows of the listing."""
        self._ids.extend(map(hash, [task.id for task in tasks]))
        self._projects.extend(map(hash, [(task.project_id, task.project_name) for task in tasks]))

    def end(self) -> None:
        """Compare the rows after the last one, and free their memory."""
        repeated = {one for one, other in pairwise(sorted(self._ids)) if one == other}
        if repeated:
            first: dict[int, int] = {}
            rows = zip(self._ids, self._projects, strict=True)
            self._contradictory = frozenset(
                task for task, project in rows if task in repeated and first.setdefault(task, project) != project
            )
        self._ids = self._projects = array("q")

    def certain(self, task: ExportTask) -> ExportTask:
        """Return the task; without a project if the listing has it with different ones."""
        if self._contradictory and hash(task.id) in self._contradictory:
            return replace(task, project_id="", project_name="")
        return task
