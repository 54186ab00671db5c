"""Selects the destinations of a file by its task and its names. Pure."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from msgspec import Struct

from aluma_async.exceptions import DestinationError
from aluma_async.models import ExportFile, ExportTask

Source: TypeAlias = Literal["", "content", "url"]


class Route(Struct, frozen=True):
    """Sends a file ``to`` these destinations if every condition matches; an empty condition matches every file."""

    to: tuple[str, ...]
    project: str = ""
    """Id or name of the project."""
    folder: str = ""
    filename: str = ""
    """Globs (``*``, ``?``, ``[a-z]``) of folder and filename; case is ignored, and ``*`` also matches slashes."""
    source: Source = ""

    def matches_task(self, task: ExportTask) -> bool:
        """Return whether the project of a task matches."""
        return self.project in ("", task.project_id, task.project_name)

    def may_match_task(self, task: ExportTask) -> bool:
        """Return whether the project of a task may match: it does, or the listing lacks its id or its name."""
        return self.matches_task(task) or not (task.project_id and task.project_name)

    def matches(self, task: ExportTask, file: ExportFile) -> bool:
        """Return whether all conditions match."""
        return self.matches_task(task) and self.matches_file(file)

    def matches_file(self, file: ExportFile) -> bool:
        """Return whether all conditions of the file match."""
        return (
            self.source in ("", file.source)
            and _matches(file.folder, self.folder)
            and _matches(file.filename, self.filename)
        )


class Routing(Struct, frozen=True):
    """The first matching route of a file decides; a file without one goes to ``default`` (empty: an error).

    A route that may match, because the project of the task is not known completely, or a listing has the task with
    different ones, is an error: the file could be confidential and go to the wrong destination.
    """

    routes: tuple[Route, ...] = ()
    default: str = ""

    def destinations_for(self, task: ExportTask, file: ExportFile) -> tuple[str, ...]:
        """Return the names of a file's destinations, each once. Raises ``DestinationError`` if there is none."""
        for route in self.routes:
            if route.matches(task, file):
                return tuple(dict.fromkeys(route.to))
            if route.may_match_task(task) and route.matches_file(file):
                raise DestinationError(
                    f"task {task.id}: the listing lacks the id or the name of its project, or has different ones, and"
                    f" the route of file {file.number} depends on it",
                    hint="Ask Aluma for the project, or remove project from [[routes]].",
                )
        if not self.default:
            raise DestinationError(
                f"task {task.id}: no route matches file {file.number}",
                hint='Add a matching route, or a destination named "default".',
            )
        return (self.default,)

    def possible_destinations(self, task: ExportTask) -> Sequence[str]:
        """Return the destinations that files of a listed task may have; its files are not known yet."""
        names: dict[str, None] = {}
        for route in self.routes:
            if route.matches_task(task):
                names |= dict.fromkeys(route.to)
                if not (route.folder or route.filename or route.source):  # matches all remaining files
                    return list(names)
            elif route.may_match_task(task):
                return list(names)
        return [*names, self.default] if self.default and self.default not in names else list(names)


def _matches(text: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(text.replace("\\", "/").casefold(), pattern.casefold())
