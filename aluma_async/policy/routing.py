"""Which destinations a file goes to, by what its task and its names are. Pure."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from msgspec import Struct

from aluma_async.exceptions import DestinationError
from aluma_async.models import ExportFile, ExportTask

Source: TypeAlias = Literal["", "content", "url"]


class Route(Struct, frozen=True):
    """A file goes ``to`` these destinations if all that is given fits; what is empty fits everything."""

    to: tuple[str, ...]
    project: str = ""
    """Id or name."""
    folder: str = ""
    filename: str = ""
    """Globs (``*``, ``?``, ``[a-z]``); upper and lower case are the same, and ``*`` goes across slashes."""
    source: Source = ""

    def matches_task(self, task: ExportTask) -> bool:
        """Whether a file of this task may fit, as far as its project tells."""
        return self.project in ("", task.project_id, task.project_name)

    def matches(self, task: ExportTask, file: ExportFile) -> bool:
        """Whether a file goes this way."""
        return (
            self.matches_task(task)
            and self.source in ("", file.source)
            and _matches(file.folder, self.folder)
            and _matches(file.filename, self.filename)
        )


class Routing(Struct, frozen=True):
    """A file goes by the first of ``routes`` that fits, else to ``default`` (empty: nowhere, which is an error)."""

    routes: tuple[Route, ...] = ()
    default: str = ""

    def destinations_for(self, task: ExportTask, file: ExportFile) -> tuple[str, ...]:
        """Names of the destinations of a file, none twice. Raises ``DestinationError`` if there is none."""
        for route in self.routes:
            if route.matches(task, file):
                return tuple(dict.fromkeys(route.to))
        if not self.default:
            raise DestinationError(
                f"task {task.id}: no route fits file {file.number}",
                hint='Add a route that fits, or a destination named "default".',
            )
        return (self.default,)

    def possible_destinations(self, task: ExportTask) -> Sequence[str]:
        """Names of the destinations that files of a task may go to, as far as a listing tells."""
        names: dict[str, None] = {}
        for route in self.routes:
            if route.matches_task(task):
                names |= dict.fromkeys(route.to)
                if not (route.folder or route.filename or route.source):  # takes all that is left
                    return list(names)
        return [*names, self.default] if self.default and self.default not in names else list(names)


def _matches(text: str, pattern: str) -> bool:
    return not pattern or fnmatchcase(text.replace("\\", "/").casefold(), pattern.casefold())
