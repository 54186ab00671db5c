"""``SourceWrapper``: the base of sources that wrap another source, so that each shows only what it changes."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from aluma_async.models import Claim, ExportFile, ExportTask
from aluma_async.ports import TaskSource


class SourceWrapper:
    """Forwards every method of a ``TaskSource`` to ``source``.

    The methods return the coroutine of ``source`` instead of awaiting it, because each further coroutine costs time
    whenever a request waits.
    """

    def __init__(self, source: TaskSource) -> None:
        self._source = source

    def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """List the pending tasks."""
        return self._source.list_pending()

    def start(self, task: ExportTask) -> Coroutine[Any, Any, Claim]:
        """Claim a task."""
        return self._source.start(task)

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open a download."""
        return self._source.open_file(claim, file)

    def complete(self, task: ExportTask) -> Coroutine[Any, Any, None]:
        """Complete a claimed task."""
        return self._source.complete(task)

    def cancel(self, task: ExportTask) -> Coroutine[Any, Any, None]:
        """Cancel the claim of a task."""
        return self._source.cancel(task)

    def fail(self, task: ExportTask, message: str) -> Coroutine[Any, Any, None]:
        """Fail a claimed task."""
        return self._source.fail(task, message)

    def state(self, task: ExportTask) -> Coroutine[Any, Any, str | None]:
        """Look up a task's state."""
        return self._source.state(task)
