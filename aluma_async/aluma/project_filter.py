"""``ProjectFilter``: keeps the tasks of the configured projects, and finds names that match no project."""

import difflib
from collections.abc import Collection, Iterator

from msgspec.structs import replace

from aluma_async.events import ListingIncomplete, ProjectsFiltered, ProjectUnmatched
from aluma_async.models import ExportTask


class ProjectFilter:
    """Selects tasks by ``projects``, which are ids or names of projects; empty: all tasks.

    A task that a listing contains both with a selected and with another project is returned with both, or without a
    project. ``excludes`` is true for it then.
    """

    def __init__(self, projects: Collection[str]) -> None:
        self._projects = frozenset(projects)
        self.is_active = bool(projects)
        self._matched: set[str] = set()  # by any listing so far
        self._other_names: set[str] = set()
        self._reported: set[str] = set()
        self._left_out = 0
        self._unknown = 0  # tasks without a project
        self._selected_ids: set[int] = set()  # hashes, which need less memory
        self._left_out_ids: set[int] = set()

    def excludes(self, task: ExportTask) -> bool:
        """Return whether a task belongs to no configured project."""
        return self._projects.isdisjoint((task.project_id, task.project_name))

    def select(self, tasks: list[ExportTask]) -> list[ExportTask]:
        """Return the tasks of the configured projects."""
        if not self._projects:
            return tasks
        selected = []
        for task in tasks:
            if names := self._projects.intersection((task.project_id, task.project_name)):
                self._matched |= names
                selected.append(_unknown(task) if hash(task.id) in self._left_out_ids else task)
                self._selected_ids.add(hash(task.id))
            elif hash(task.id) in self._selected_ids:
                selected.append(_unknown(task))
            else:
                self._left_out_ids.add(hash(task.id))
                self._other_names.add(task.project_name)
                self._unknown += not (task.project_id or task.project_name)
        self._left_out += len(tasks) - len(selected)
        return selected

    def end_listing(self) -> Iterator[ProjectsFiltered | ProjectUnmatched | ListingIncomplete]:
        """Yield what the filter left out of the listing, and each name that matches nothing, once; nothing if unused.

        A project without a pending task cannot be told from a wrong name, so a name counts as unmatched only if it has
        never matched, and other projects have pending tasks.
        """
        if not self._projects:
            return
        yield ProjectsFiltered(self._left_out)
        if self._unknown:
            yield ListingIncomplete(
                f"tasks without a project: {self._unknown}, which may belong to the configured ones"
            )
        for wanted in sorted(self._projects - self._matched - self._reported) if self._left_out else ():
            self._reported.add(wanted)
            nearest = difflib.get_close_matches(wanted, self._other_names, n=1)
            yield ProjectUnmatched(wanted, f"; the nearest is {nearest[0]!r}" if nearest else "")
        self._left_out = self._unknown = 0
        self._other_names.clear()
        self._selected_ids.clear()
        self._left_out_ids.clear()


def _unknown(task: ExportTask) -> ExportTask:
    return replace(task, project_id="", project_name="")
