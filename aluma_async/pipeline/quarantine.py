"""``Quarantine``: where everything goes that a task holds before Aluma is told that it failed.

Fail deletes the only copy. So the files that can be had, the specification as it came, the error and the
original names are saved first, durably, in a destination of their own. A file is left out only if it can
never be had, and then the record says so.
"""

import msgspec

from aluma_async.exceptions import AlumaAsyncError, FileMissing
from aluma_async.models import Claim, ExportFile, ExportSpec
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.ports import Destination

RECORD_NAME = "quarantine.json"
"""The file that says what happened; written with the others, below the task's id."""


class Quarantine:
    """Saves a task below a folder that bears its id, with a record of what happened in ``quarantine.json``."""

    def __init__(self, source: RetryingSource, destination: Destination, transfer: FileTransfer) -> None:
        self._source = source
        self._destination = destination
        self._transfer = transfer

    async def store(self, claim: Claim, error: AlumaAsyncError) -> None:
        """Save what a task holds. Raises if that cannot be done: then the task must not be failed."""
        await self._destination.probe()  # it makes what is missing: the first task may come after months
        missing = {file.number: file.problem for file in claim.spec.files if file.problem}
        for file in claim.spec.files:
            if file.source == "url" and not file.problem and (why := await self._unavailable_reason(claim, file)):
                missing[file.number] = why
        await self._transfer.deliver(_quarantine_claim(claim, error, missing), self._destination)

    async def _unavailable_reason(self, claim: Claim, file: ExportFile) -> str:
        """Why a file cannot be had; empty if it can."""
        try:
            async with self._source.open_file(claim, file):
                return ""
        except FileMissing as error:
            return str(error)


def _quarantine_claim(claim: Claim, error: AlumaAsyncError, missing: dict[int, str]) -> Claim:
    """The claim as it is saved: its files under their own names, the specification, and a record of what happened."""
    task, spec = claim.task, claim.spec
    record = {
        "task": task,
        "error": type(error).__name__,
        "message": str(error),
        "files": [
            {"number": f.number, "folder": f.folder, "filename": f.filename, "missing": missing.get(f.number, "")}
            for f in spec.files
        ],
    }
    kept = [
        msgspec.structs.replace(file, folder=f"{task.id}/files/{file.folder}")
        for file in spec.files
        if file.number not in missing
    ]
    texts = {
        "specification.json": spec.received.decode(errors="replace"),
        RECORD_NAME: msgspec.json.format(msgspec.json.encode(record)).decode(),
    }
    notes = [
        ExportFile(len(spec.files) + i, 0, task.id, name, "content", text)
        for i, (name, text) in enumerate(texts.items())
    ]
    return Claim(task, ExportSpec((*kept, *notes), spec.received), claim.sent_at)
