"""The edges of the pipeline. Each docstring is the contract that an implementation MUST keep.

``aluma_async.testing.check_task_source`` and ``check_destination`` try an implementation against them.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from aluma_async.events import Event
from aluma_async.models import Claim, ClaimRecord, ExportFile, ExportTask, HoldRecord, Timestamp

OnEvent: TypeAlias = Callable[[Event], None]
"""Told of everything that happens. MUST NOT block; what it raises is swallowed."""

Uniform: TypeAlias = Callable[[float, float], float]
"""Chance, handed in: a number between the two (``random.uniform``)."""

Clock: TypeAlias = Callable[[], Timestamp]
"""What time it is, for what outlives the process; everything else goes by the event loop's clock."""


class TaskSource(Protocol):
    """Where tasks wait, are claimed and are settled.

    Every verb raises ``SourceError`` and nothing else (``start`` also ``BadSpecification``).
    """

    def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """Yield the tasks that wait for export, oldest first, some at a time.

        MUST NOT end early without an error. A task MAY come twice. A row that cannot be read MUST be
        left out without ending the listing.
        """
        ...

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task.

        MUST be whole for a cancelled caller: once the request is under way its answer is awaited, and
        the claim is returned even then. Raises ``ClaimConflict`` if the task is not given to us, ``Ambiguous``,
        ``InvalidResponse`` or ``BadSpecification`` if it was or may have been, anything else if it was not.
        """
        ...

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open the bytes of a file whose ``source`` is ``url``.

        The iterator MUST raise unless the file is provably whole at its end. MAY be called again.
        """
        ...

    async def complete(self, task: ExportTask) -> None:
        """Say that a claimed task is exported. Aluma deletes it, for ever.

        Raises ``ClaimConflict`` if the claim has ended. MUST be whole for a cancelled caller, like ``start``.
        """
        ...

    async def cancel(self, task: ExportTask) -> None:
        """Give a claimed task back; it waits again at once. Raises as ``complete`` does."""
        ...

    async def fail(self, task: ExportTask, message: str) -> None:
        """Say that a claimed task can never be exported. Aluma deletes it, for ever. Raises as ``complete`` does."""
        ...

    async def state(self, task: ExportTask) -> str | None:
        """Tell the task's state (``pending:start_client_action``, …); None if Aluma does not know it."""
        ...


class Delivery(Protocol):
    """The files of one claim on their way into a destination."""

    def resumable_size(self, file: ExportFile) -> int | None:
        """Tell the size of a file that an earlier attempt at the very same specification has staged; None: save it.

        MAY always be None. It serves a task that has more to download than a claim lasts.
        """
        ...

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage one file.

        MAY be called for several files at once. Called again for the same file it MUST start from nothing,
        so that a broken download can be repeated. What ``chunks`` raises MUST come out unchanged.
        Raises ``DestinationError``.
        """
        ...


class Destination(Protocol):
    """Where files go."""

    async def probe(self) -> None:
        """Try whether files can be written at all; raise ``DestinationUnavailable`` if not. Makes what is missing."""
        ...

    def open(self, claim: Claim) -> AbstractAsyncContextManager[Delivery]:
        """Begin to deliver the files of a claim.

        Leaving the block MUST make all of them visible, complete and durable, or raise ``DestinationError``;
        leaving it with an exception (cancellation included) MUST leave no trace and no work under way.
        The same task delivered again MUST replace what it delivered before, and MUST NOT touch another task's files.
        """
        ...


class RequestLimiter(Protocol):
    """The right to send a request: one limit, one rate and one pause for all requests of an exporter."""

    def permit(self, *, urgent: bool = False) -> AbstractAsyncContextManager[float]:
        """Wait until a request may be sent, and hold the permit until its answer has been read.

        Yields the moment (the event loop's clock) from which on the request may be sent.
        An ``urgent`` one goes before all that are not: it ends something, and what was begun must not starve.
        A ``SourceError`` that leaves the block with ``retry_after`` set holds back all other requests.
        """
        ...

    async def consume_bytes(self, count: int) -> None:
        """Account for bytes downloaded; waits if there is a limit on bytes per second."""
        ...


class Journal(Protocol):
    """What must outlive the process: open claims, and tasks that are held back.

    For each task there is at most one record of each kind; a newer one replaces it. MUST hold neither
    content nor tokens. Every verb but ``note`` and ``forget`` raises ``JournalError``.
    """

    async def load(self) -> Sequence[ClaimRecord | HoldRecord]:
        """Return all records. Called once, before all else; MUST refuse a second process until ``close``."""
        ...

    async def write(self, *records: ClaimRecord | HoldRecord) -> None:
        """Keep records. MUST be durable when it returns, with all that was noted and forgotten before.

        A caller that is cancelled meanwhile MUST NOT stop what others wait for.
        """
        ...

    def put(self, record: ClaimRecord | HoldRecord) -> None:
        """Keep a record some time soon; a crash MAY lose it."""
        ...

    def delete(self, kind: type[ClaimRecord] | type[HoldRecord], task_id: str) -> None:
        """Drop a task's record, if there is one, some time soon; a crash MAY bring it back."""
        ...

    async def flush(self) -> None:
        """Make durable what was noted and forgotten."""
        ...

    async def pop_released(self) -> Sequence[str]:
        """Ids of the tasks whose hold an operator has lifted since this was last asked."""
        ...
