"""``Quarantine``: keeps a copy of everything that a task contains before the task is failed.

Fail deletes the only copy at Aluma. So all available files, the specification as received, the error and the original
names are first stored durably in a destination of their own. A file is left out only if it can never be downloaded;
the record names the reason.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from aluma_async.exceptions import AlumaAsyncError, FileMissing
from aluma_async.models import Claim, ExportFile, ExportSpec
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.ports import Destination

RECORD_NAME = "quarantine.json"
"""Name of the file that records the error; it is written with the other files in the task's folder."""


class Quarantine:
    """Stores each task in a folder named after its id, with a record of the error in ``quarantine.json``."""

    def __init__(self, source: RetryingSource, destination: Destination, transfer: FileTransfer) -> None:
        self._source = source
        self._destination = destination
        self._transfer = transfer

    async def store(self, claim: Claim, error: AlumaAsyncError) -> None:
        """Store everything that the claim contains. Raises if that is impossible; the task must not be failed then."""
        await self._destination.probe()  # creates the folder: the first task may come after months
        missing = {file.number: file.problem for file in claim.spec.files if file.problem}
        for file in claim.spec.files:
            if file.source == "url" and not file.problem and (reason := await self._unavailable_reason(claim, file)):
                missing[file.number] = reason
        await self._transfer.deliver(_quarantine_claim(claim, error, missing), self._destination)

    async def _unavailable_reason(self, claim: Claim, file: ExportFile) -> str:
        """Return why a file cannot be downloaded; empty if it can."""
        try:
            async with self._source.open_file(claim, file):
                return ""
        except FileMissing as error:
            return str(error)


def _quarantine_claim(claim: Claim, error: AlumaAsyncError, missing: dict[int, str]) -> Claim:
    """Return the claim to store: its files under their own names, the specification, and the record of the error."""
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
    files = [
        msgspec.structs.replace(file, folder=f"{task.id}/files/{file.folder}")
        for file in spec.files
        if file.number not in missing
    ]
    texts = {
        "specification.json": spec.received.decode(errors="replace"),
        RECORD_NAME: msgspec.json.format(msgspec.json.encode(record)).decode(),
    }
    metadata_files = [
        ExportFile(len(spec.files) + i, 0, task.id, name, "content", text)
        for i, (name, text) in enumerate(texts.items())
    ]
    return Claim(task, ExportSpec((*files, *metadata_files), spec.received), claim.sent_at)


class QuarantineRecord(Struct, frozen=True):
    """The main fields of a task's ``quarantine.json``."""

    task_id: str
    folder: Path
    error: str
    """Class of the error; earlier versions used other names."""
    message: str


def read_records(folder: Path) -> tuple[list[QuarantineRecord], list[str]]:
    """Return the records below a quarantine folder, and a message for each one that cannot be read."""
    records: list[QuarantineRecord] = []
    problems: list[str] = []
    for path in sorted(folder.glob(f"*/{RECORD_NAME}")):
        try:
            record = msgspec.json.decode(path.read_bytes())
            task_id, error, message = record["task"]["id"], record["error"], record["message"]
        except (OSError, ValueError, KeyError, TypeError) as problem:
            problems.append(f"{path}: not readable: {type(problem).__name__}")
        else:
            records.append(QuarantineRecord(str(task_id), path.parent, str(error), str(message)))
    return records, problems
