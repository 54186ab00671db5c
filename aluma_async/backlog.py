"""``Backlog``: the tasks of one listing that are not in the queue yet, in a compact encoding."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from aluma_async.models import ExportTask

_Project: TypeAlias = tuple[str, str]
"""Id and name; a block of hundreds of tasks has few."""
_Row: TypeAlias = tuple[str, str, int, float | None, str]
"""Id, name, number of the project in its block, creation, id of the file collection."""

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple[list[_Project], list[_Row]]).decode


class Backlog:
    """First in, first out. A task takes its ids, its name and some bytes, so that a million tasks fit into memory."""

    def __init__(self) -> None:
        self._blocks: deque[bytes] = deque()

    def add(self, tasks: Sequence[ExportTask], *, first: bool = False) -> None:
        """Add tasks at the end, or before all others."""
        if not tasks:
            return
        projects: dict[_Project, int] = {}
        rows: list[_Row] = [
            (
                t.id,
                t.name,
                projects.setdefault((t.project_id, t.project_name), len(projects)),
                t.created_at,
                t.collection_id,
            )
            for t in tasks
        ]
        add = self._blocks.appendleft if first else self._blocks.append
        add(_pack((list(projects), rows)))

    def drain(self) -> Iterator[ExportTask]:
        """Remove and yield the tasks."""
        while self._blocks:
            projects, rows = _unpack(self._blocks.popleft())
            for task_id, name, project, created_at, collection_id in rows:
                yield ExportTask(task_id, name, *projects[project], created_at, collection_id)
