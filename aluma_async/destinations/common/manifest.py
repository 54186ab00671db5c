"""The manifest of a task: what was stored, where, and what it was called; for whoever takes it from there.

Pure: the moment is an argument.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from aluma_async.models import Claim, ExportFile

FOLDER = "manifests"
VERSION = 1
"""Of the format; goes up when a field changes its meaning or is gone."""


class StoredFile(Struct, frozen=True):
    """A file that is in its place."""

    file: ExportFile
    path: str
    """Below the root or prefix, with slashes."""
    size: int
    sha256: str


def manifest_file(claim: Claim) -> ExportFile:
    """The manifest as one more file of the task, so that it is given a name like any other."""
    return ExportFile(-1, -1, FOLDER, f"{claim.task.id}.json", "content")


def render_manifest(claim: Claim, stored: Iterable[StoredFile], exported_at: float) -> bytes:
    """Return the JSON; ``exported_at`` is in seconds since 1970."""
    task = claim.task
    found = {
        "version": VERSION,
        "task": {
            "id": _text(task.id),
            "name": _text(task.name),
            "project_id": _text(task.project_id),
            "project_name": _text(task.project_name),
        },
        "exported_at": datetime.fromtimestamp(exported_at, UTC).isoformat(timespec="milliseconds"),
        "files": [
            {
                "path": each.path,
                "size": each.size,
                "sha256": each.sha256,
                "document": each.file.document,
                "folder": _text(each.file.folder),
                "filename": _text(each.file.filename),
            }
            for each in stored
        ],
    }
    return msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"


def _text(text: str) -> str:
    """What JSON may hold may not be what UTF-8 can: half a character."""
    return text.encode(errors="replace").decode()
