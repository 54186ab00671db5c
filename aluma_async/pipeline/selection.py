"""``SelectedSource``: wraps a ``TaskSource`` and lists only the tasks that a function selects.

``Selection`` is that function for a first, careful export: named tasks, or a limited number of them.
"""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing
from typing import TypeAlias

from aluma_async.models import ExportTask
from aluma_async.ports import TaskSource
from aluma_async.source_wrapper import SourceWrapper

Select: TypeAlias = Callable[[ExportTask], bool]
"""Returns whether a pending task may be claimed. Called at each listing."""


class SelectedSource(SourceWrapper):
    """Wraps ``source``; lists the tasks for which ``select`` returns True. Claims are settled as without it."""

    def __init__(self, source: TaskSource, select: Select) -> None:
        super().__init__(source)
        self._select = select

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """Yield the selected tasks that are pending."""
        async with aclosing(self._source.list_pending()) as pages:  # type: ignore[type-var]
            async for tasks in pages:
                yield [task for task in tasks if self._select(task)]


class Selection:
    """Selects the tasks with the ids ``task_ids`` (empty: all), and of these the first ``limit`` (None: all).

    Args:
        task_ids: Tasks to select.
        limit: Number of tasks at most. Once selected, a task stays selected, so that no other takes its place.
        on_hold: Tasks on hold. With a limit they are not selected, because they would use it up without being tried.
    """

    def __init__(self, task_ids: Collection[str] = (), limit: int | None = None, on_hold: Collection[str] = ()) -> None:
        self._task_ids = frozenset(task_ids)
        self._limit = limit
        self._on_hold = frozenset(on_hold)
        self._selected: set[str] = set()
        self.skipped: set[str] = set()
        """Listed tasks that are not selected because they are on hold."""

    @property
    def absent(self) -> list[str]:
        """Tasks of ``task_ids`` that were not listed."""
        return sorted(self._task_ids - self._selected - self.skipped) if not self._is_full else []

    @property
    def is_refused(self) -> bool:
        """Whether a named task cannot be exported by this run: it was not listed, or is on hold."""
        return bool(self.absent or (self._task_ids and self.skipped and not self._is_full))

    @property
    def _is_full(self) -> bool:
        return self._limit is not None and len(self._selected) >= self._limit

    def __call__(self, task: ExportTask) -> bool:
        """Return whether the task is selected."""
        if task.id in self._selected:
            return True
        if (self._task_ids and task.id not in self._task_ids) or self._is_full:
            return False
        if self._limit is not None and task.id in self._on_hold:
            self.skipped.add(task.id)
            return False
        self._selected.add(task.id)
        return True
