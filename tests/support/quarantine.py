"""A source of a few files, and a quarantine on disk, for tests of copies."""

import json
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from aluma_async import FolderDestination, RetryPolicy
from aluma_async.aluma import wire
from aluma_async.exceptions import FileMissing, SchemaMismatch
from aluma_async.models import Claim, ExportTask
from aluma_async.pipeline.quarantine import Quarantine
from aluma_async.pipeline.retrying_source import RetryingSource
from aluma_async.pipeline.transfer import FileTransfer
from aluma_async.quarantine.folder import QuarantineFolder
from aluma_async.quarantine.records import CopyState
from aluma_async.testing import MemoryDestination
from tests.support.folders import Download

TASK = ExportTask("t1", "scan.pdf", "p1", "Invoices", 1_711_385_828.0)
PARKED, FAILED = CopyState.PARKED, CopyState.FAILED
ERROR = SchemaMismatch("row 1, column a: too long")


def specification(*files):
    """Return an Export Specification (JSON): a file is (folder, filename, text), or (folder, filename) of a URL."""
    rows = [
        {"folder": folder, "filename": name, "source": "content", "content": text[0]}
        if text
        else {"folder": folder, "filename": name, "source": "url", "url": f"/files/{number}"}
        for number, (folder, name, *text) in enumerate(files)
    ]
    return json.dumps({"documents": [{"files": rows}]}).encode()


SPEC = specification(("in", "a.csv", "x,y\n"), ("in", "a.pdf"), ("in", "b.pdf"))
CONTENT = {"/files/1": b"%PDF one", "/files/2": b"%PDF two" * 500}


def claim_for(spec, task=TASK):
    """Return a claim with this specification."""
    return Claim(task, wire.export_spec(spec), 0.0)


class Files:
    """A source whose files are in ``content``, by URL; an exception is raised, another URL is missing."""

    def __init__(self, content=()):
        self.content = dict(content)
        self.version = ""
        self.opened = []

    @asynccontextmanager
    async def open_file(self, claim, file):
        self.opened.append(file.number)
        data = self.content.get(file.url, FileMissing(f"file {file.number}: not found"))
        if isinstance(data, Exception):
            raise data
        yield Download(*[data[start : start + 1000] for start in range(0, len(data), 1000)], version=self.version)


class Store:
    """A quarantine in ``path`` whose files come from ``files``; ``events`` has what it emitted.

    With a ``destination``, the copies are stored there instead.
    """

    def __init__(self, path: Path, files=None, destination=None, **options):
        self.files = files or Files()
        self.events = []
        self.folder = QuarantineFolder(path)
        self.destination = destination or FolderDestination(path, on_conflict="overwrite")
        source = RetryingSource(
            self.files, RetryPolicy(2, 0.0, 0.0), uniform=lambda low, high: low, on_event=lambda event: None
        )
        self.source = source
        self.quarantine = Quarantine(
            source,
            self.destination,
            folder=None if destination else self.folder,
            now=lambda: 1_800_000_000.0,
            on_event=self.events.append,
            **options,
        )

    @property
    def copies(self):
        """All copies; none may be unreadable."""
        copies, problems = self.folder.copies()
        assert not problems
        return copies

    async def deliver(self, claim):
        """Let a task be exported."""
        copied, hashes = self.quarantine.task_ids, self.quarantine.exported_hashes
        transfer = FileTransfer(self.source, copied=copied, hashes=hashes, on_event=lambda event: None)
        await transfer.deliver(claim, MemoryDestination())

    async def export(self, claim):
        """Export a task, and remove its copies if that is right."""
        await self.deliver(claim)
        self.quarantine.discard_later(claim)
        await self.quarantine.discard_exported()

    def count(self, kind):
        return sum(isinstance(event, kind) for event in self.events)


def make_copy(path: Path, record, files=(), spec=b'{"documents": []}'):
    """Write a copy as a person could: ``record`` is a value or JSON, ``files`` are paths and content."""
    path.mkdir(parents=True)
    if not isinstance(record, bytes):
        record = msgspec.json.encode(record)
    (path / "quarantine.json").write_bytes(record)
    if spec is not None:
        (path / "specification.json").write_bytes(spec)
    for name, data in dict(files).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
