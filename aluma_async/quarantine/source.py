"""``QuarantineSource``: a ``TaskSource`` over copies in the quarantine, for delivering them again without Aluma.

Specifications are decoded anew, files are read from the copies and checked against size and hash. Claims exist only in
this object. Completing a task marks its copy as redelivered; no copy is changed otherwise, so that it can be repeated.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager

from msgspec import structs

from aluma_async.aluma import wire
from aluma_async.clock import loop_time, wall_time
from aluma_async.concurrency.threads import run_in_thread
from aluma_async.exceptions import ClaimConflict, SourceError
from aluma_async.models import Claim, ExportFile, ExportSpec, ExportTask, TaskState
from aluma_async.quarantine.folder import Copy, QuarantineFolder
from aluma_async.quarantine.locking import locked_copy
from aluma_async.quarantine.reading import read_file

_PAGE = 100
_TEXT_HINT = "If the text is right, set verify_content = false under [aluma]."


class QuarantineSource:
    """The tasks of ``copies``, of which there is one for each task.

    Args:
        folder: The quarantine.
        copies: The copies to deliver.
        incomplete: Whether a task is delivered although its copy lacks files.
        replace: Whether a complete copy replaces other versions that the destinations have. An incomplete one never
            does.
        verify_content: Whether a text of the specification is refused if its name is that of a binary format.
        now: Returns the time in seconds since 1970.
    """

    def __init__(
        self,
        folder: QuarantineFolder,
        copies: Iterable[Copy],
        *,
        incomplete: bool = False,
        replace: bool = False,
        verify_content: bool = True,
        now: Callable[[], float] = wall_time,
    ) -> None:
        self._folder = folder
        self._copies = {copy.task_id: copy for copy in copies}
        self._incomplete = incomplete
        self._replace = replace
        self._verify_content = verify_content
        self._now = now
        self._states: dict[str, str] = dict.fromkeys(self._copies, TaskState.PENDING)
        self.problems: list[str] = []
        """Messages about copies that were delivered, but could not be marked."""

    async def list_pending(self) -> AsyncIterator[Sequence[ExportTask]]:
        """Yield the tasks that are not delivered yet."""
        tasks = [copy.record.task for key, copy in self._copies.items() if self._states[key] == TaskState.PENDING]
        for start in range(0, len(tasks), _PAGE):
            yield tasks[start : start + _PAGE]

    async def start(self, task: ExportTask) -> Claim:
        """Claim a task: read and decode its specification."""
        self._require(task, TaskState.PENDING, "start")
        copy = self._copies[task.id]
        body = await run_in_thread(self._folder.read_specification, copy)
        spec = wire.export_spec(body, verify_content=self._verify_content)
        files = tuple(self._deliverable(copy, spec.files))
        self._states[task.id] = TaskState.CLAIMED
        may_replace = self._replace and copy.is_complete and len(files) == len(spec.files)
        return Claim(task, ExportSpec(files, body), loop_time(), may_replace=may_replace)

    @asynccontextmanager
    async def open_file(self, claim: Claim, file: ExportFile) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a stored file."""
        copy = self._copies.get(claim.task.id)
        if copy is None:
            raise SourceError(f"task {claim.task.id}: no copy in the quarantine")
        async with aclosing(read_file(self._folder, copy, file.number)) as blocks:
            yield blocks

    async def complete(self, task: ExportTask) -> None:
        """Mark the copy as redelivered. If that is impossible, the task is delivered nevertheless."""
        self._require(task, TaskState.CLAIMED, "complete")
        self._states[task.id] = "completed"
        copy = self._copies[task.id]
        try:
            self._copies[task.id] = await run_in_thread(self._mark, copy)
        except OSError as error:
            self.problems.append(f"{copy.folder}: delivered, but not marked so: {error.strerror or error}")

    async def cancel(self, task: ExportTask) -> None:
        """Release the task."""
        self._require(task, TaskState.CLAIMED, "cancel")
        self._states[task.id] = TaskState.PENDING

    async def fail(self, task: ExportTask, message: str) -> None:  # noqa: ARG002 - the port has it
        """End the attempt at a task. Its copy stays as it is."""
        self._require(task, TaskState.CLAIMED, "fail")
        self._states[task.id] = "failed"

    async def state(self, task: ExportTask) -> str | None:
        """Return the state of the task in this object; None if it has no copy."""
        return self._states.get(task.id)

    def _mark(self, copy: Copy) -> Copy:
        with locked_copy(self._folder, copy, shared=True):  # because it could be deleted at the same time
            return self._folder.mark(copy, redelivered_at=self._now())

    def _require(self, task: ExportTask, state: str, verb: str) -> None:
        actual = self._states.get(task.id)
        if actual != state:
            raise ClaimConflict(f"{verb} task {task.id}: its state is {actual or 'unknown'}")

    def _deliverable(self, copy: Copy, files: Iterable[ExportFile]) -> Iterator[ExportFile]:
        """Yield the files to deliver. Raises ``SourceError`` if one is missing and the copy must be complete."""
        stored = {file.number: file for file in copy.record.files if file.number not in copy.missing}
        for file in files:
            record = stored.get(file.number)
            if file.source == "content" and not file.problem:
                yield file  # its content comes from the specification
            elif file.is_whole_text:  # in the copy, so that it must not be left out either
                raise SourceError(f"task {copy.task_id}: file {file.number}: {file.problem}", hint=_TEXT_HINT)
            elif record and (record.folder, record.filename) == (file.folder, file.filename):
                yield structs.replace(file, problem="")
            elif not self._incomplete:
                reason = copy.missing.get(file.number) or file.problem or "not in the record"
                raise SourceError(f"task {copy.task_id}: file {file.number} is missing in the quarantine: {reason}")
