"""The edges of the pipeline, as Protocols. Each docstring states what an implementation MUST do.

``aluma_async.testing.check_task_source`` and ``check_destination`` check an implementation against these contracts.
"""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Protocol, TypeAlias, runtime_checkable

from aluma_async.events import Event
from aluma_async.models import BreakerRecord, Claim, ClaimRecord, ExportFile, ExportTask, HoldRecord, Timestamp

OnEvent: TypeAlias = Callable[[Event], None]
"""A listener that receives every event. MUST NOT block. An exception that it raises is ignored."""

Uniform: TypeAlias = Callable[[float, float], float]
"""A source of random numbers between two limits, such as ``random.uniform``."""

BeforeComplete: TypeAlias = Callable[[Claim], Awaitable[object]]
"""A coroutine function that is awaited when all files of a task are durable, before it is completed.

MUST be repeatable. If it raises an exception, the task is released and cools down, as if the destination had raised it.
"""

Clock: TypeAlias = Callable[[], Timestamp]
"""A clock for times that outlive the process. Any thread may call it. All other times are those of the event loop."""


BEFORE_SENDING: ContextVar[Callable[[], object]] = ContextVar("before_sending", default=lambda: None)
"""Called by a source that waits before it sends a Complete, Cancel or Fail (for a permit, or for a token), directly
before the request is sent. Raises ``SourceError`` if the claim may have ended meanwhile; nothing may be sent then."""

OTHERS_WAIT: ContextVar[Callable[[], bool] | None] = ContextVar("others_wait", default=lambda: False)
"""Returns whether further tasks wait until the caller has finished its task. A source that is asked for something that
does not arrive should then give up early, with an error whose ``spares_others`` and ``ended_early`` are set. None: it
must not give up early, because a copy of the task would be incomplete for hours."""

CHECK_LEASE: ContextVar[Callable[[], object]] = ContextVar("check_lease", default=lambda: None)
"""Set where ``Destination.open`` is called for a claim. A destination that publishes in several steps reads it there,
and calls the function before each step, in any thread. It raises ``DestinationError`` if the lease may have expired,
also while the machine or the process was suspended: another exporter may have delivered a newer version since."""


class TaskSource(Protocol):
    """The API that tasks are listed, claimed and settled at.

    Every method raises ``SourceError`` and no other error; ``start`` also ``BadSpecification``.
    """

    def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """Yield the pending tasks in batches, oldest first.

        MUST NOT end early without an error. MUST skip a row that cannot be read, and continue. MAY yield a task twice.
        """
        ...

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task.

        MUST NOT be interrupted by cancellation: once the request is in flight, it MUST wait for the response, and
        return the claim even if the caller has been cancelled. MUST raise ``ClaimConflict`` if the task cannot be
        claimed; ``Ambiguous``, ``InvalidResponse`` or ``BadSpecification`` if it is or may be claimed; any other
        error only if it is certainly not claimed.
        """
        ...

    def open_file(self, claim: Claim, file: ExportFile) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open the download of a file whose ``source`` is ``url``.

        The iterator MUST raise an error unless the file is provably complete at its end. MAY be called repeatedly. The
        iterator MAY have an attribute ``version``: letters and digits that are different for each content of the file,
        at most 64, or empty. With it, a file that an earlier attempt has saved is not downloaded again.
        """
        ...

    async def complete(self, task: ExportTask) -> None:
        """Complete a claimed task. Aluma then deletes it permanently.

        MUST raise ``ClaimConflict`` if the claim is not valid any more. MUST NOT be interrupted by cancellation, like
        ``start``.
        """
        ...

    async def cancel(self, task: ExportTask) -> None:
        """Release a claimed task, which is pending again at once. Contract as for ``complete``."""
        ...

    async def fail(self, task: ExportTask, message: str) -> None:
        """Fail a claimed task. Aluma then deletes it permanently. Contract as for ``complete``."""
        ...

    async def state(self, task: ExportTask) -> str | None:
        """Return the task's state (see ``TaskState``), or None if Aluma does not know the task.

        MUST NOT return None if the answer may come from a proxy: it would prove that a Complete was executed.
        """
        ...


class Delivery(Protocol):
    """A delivery of the files of one claim to a destination.

    MAY have an attribute ``destinations``, a tuple of names. The history then records it for the task.

    MAY have a coroutine method ``omit(file)`` that leaves a file out of the delivery. The quarantine needs it to keep a
    copy of a task some of whose files cannot be fetched.

    MAY have an attribute ``receipt``, a text, which is read after the block of ``Destination.open`` was left without an
    error. It is stored with the claim; a later process passes it to ``VerifyingDestination.verify``. MUST NOT contain
    content or names of documents in clear. An empty text means no receipt.
    """

    def resumable_size(self, file: ExportFile) -> int | None:
        """Return the size of a file that an earlier attempt has staged completely; None if it must be saved.

        MUST return a size only if the attempt had exactly the same specification, and the file is certainly there and
        complete, also after a power loss. MAY always return None. Resuming helps tasks whose downloads take longer than
        a lease.

        The staged file is used only if the delivery also has a method ``resumable_version(file)`` that returns the
        ``version`` which ``chunks`` had when it was saved, and the source returns the same one again. Otherwise the
        file is saved again.
        """
        ...

    async def save(self, file: ExportFile, chunks: AsyncIterable[bytes]) -> None:
        """Stage one file.

        MUST support concurrent calls for different files. MUST start from nothing if it is called again for the same
        file, so that a failed download can be repeated, or for a file that could be resumed. MUST pass on unchanged any
        error that ``chunks`` raises.
        Raises ``DestinationError``.
        """
        ...


class Destination(Protocol):
    """A place where files are stored.

    MAY have a method ``destinations_for(claim)`` that returns the names which a delivery of the claim would have as its
    attribute ``destinations``. With them, the tasks that may be failed automatically are counted for each destination.
    """

    async def probe(self) -> None:
        """Check that the destination accepts files, and create what is missing.

        MUST raise ``DestinationUnavailable`` if it does not accept files.
        """
        ...

    def open(self, claim: Claim) -> AbstractAsyncContextManager[Delivery]:
        """Open a delivery of the files of a claim.

        Leaving the block MUST make all files visible, complete and durable, or raise ``DestinationError``. Leaving it
        with an exception (including cancellation) MUST leave no trace and no work in progress. A repeated delivery of
        the same task MUST replace the earlier one, and MUST NOT change files of other tasks.

        Another exporter may deliver the task when the lease has expired: see ``CHECK_LEASE``.

        If ``claim.may_replace`` is False, the delivery may contain older files, or fewer: it MUST NOT remove anything,
        and MUST raise ``AlreadyExported`` instead of replacing something that is different or cannot be compared.
        """
        ...


@runtime_checkable
class VerifyingDestination(Destination, Protocol):
    """A destination whose deliveries have receipts.

    After a crash, a claim whose files were committed is completed only if ``verify`` returns True. Without a receipt
    the claim is cancelled, and the task is exported again, with the same result.
    """

    async def verify(self, receipt: str) -> bool:
        """Return whether all files of an earlier delivery are still there, complete and durable.

        Called after a successful ``probe``, also by another process. MUST return False if that is not certain, and for
        a text that is not a receipt. MAY raise ``DestinationError``, which counts as False. MUST NOT change any file.
        """
        ...


class RequestLimiter(Protocol):
    """Permission to send requests: one concurrency limit, rate and pause for all requests of an exporter."""

    def permit(self, *, urgent: bool = False) -> AbstractAsyncContextManager[float]:
        """Wait until a request may be sent; hold the permit until the response has been read.

        MUST yield the time (the event loop's clock) from which on the request may be sent. MUST serve ``urgent``
        requests first: they settle claims, and must not wait behind new work. If a ``SourceError`` with ``retry_after``
        leaves the block, it MUST delay all other requests as well; urgent ones only for a part of a lease, so that
        claims do not expire.
        """
        ...

    @property
    def is_contended(self) -> bool:
        """Whether requests wait because as many as allowed are in flight."""
        ...

    @property
    def pause_is_unverified(self) -> bool:
        """Whether a long pause is in effect for which only requests about single tasks were answered.

        The pause may be theirs alone. One other request then tests it: with ``probe_permit`` it is sent in the pause.
        If it is answered with a pause as well, the pause is that of all.
        """
        ...

    def probe_permit(self) -> AbstractAsyncContextManager[float]:
        """Wait for the permission to send one request that tests an unverified pause. At most one at a time is used."""
        ...

    def end_pause(self) -> None:
        """End an unverified pause, because the request that tested it has succeeded."""
        ...

    async def consume_bytes(self, count: int) -> None:
        """Account for downloaded bytes. MUST wait if they exceed the limit on bytes per second."""
        ...


class Journal(Protocol):
    """The state that outlives the process: open claims, tasks on hold, and tasks that were failed automatically.

    MUST keep at most one record of each type per task; a new record replaces the old one. MUST NOT contain document
    content or tokens. Every method but ``put`` and ``delete`` raises ``JournalError``.
    """

    async def load(self) -> Sequence[ClaimRecord | HoldRecord | BreakerRecord]:
        """Return all records. Called once, before any other method.

        MUST raise ``JournalLocked`` if another process uses the journal, and lock it until ``close``.
        """
        ...

    async def write(self, *records: ClaimRecord | HoldRecord | BreakerRecord) -> None:
        """Store records durably, together with all earlier ``put`` and ``delete`` calls.

        The cancellation of one caller MUST NOT interrupt a write that other callers wait for.
        """
        ...

    def put(self, record: ClaimRecord | HoldRecord | BreakerRecord) -> None:
        """Store a record with the next write. A crash MAY lose it."""
        ...

    def delete(self, kind: type[ClaimRecord] | type[HoldRecord] | type[BreakerRecord], task_id: str) -> None:
        """Delete the task's record of a type, if there is one, with the next write. A crash MAY restore it."""
        ...

    async def flush(self) -> None:
        """Make all ``put`` and ``delete`` calls durable."""
        ...

    async def pop_released(self) -> Sequence[str]:
        """Return, once, the ids of the tasks whose hold an operator has ended since the last call."""
        ...
