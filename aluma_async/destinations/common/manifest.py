"""The manifest of a task: the path, size and hash of each exported file, for the programs that process them.

Pure: the time is an argument.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from msgspec import Struct

from aluma_async.models import Claim, ExportFile

FOLDER = "manifests"
VERSION = 1
"""Version of the format. It increases when a field is removed or changes its meaning."""


class StoredFile(Struct, frozen=True):
    """A file at its final path."""

    file: ExportFile
    path: str
    """Path below the root or prefix, with slashes."""
    size: int
    sha256: str


def manifest_file(claim: Claim) -> ExportFile:
    """Return the manifest as another file of the task, so that it gets its path like any other file."""
    return ExportFile(-1, -1, FOLDER, f"{claim.task.id}.json", "content")


def is_manifest(file: ExportFile) -> bool:
    """Return whether a file is the manifest of its task. A redelivery leaves an existing one as it is."""
    return file.number < 0


def render_manifest(claim: Claim, stored: Iterable[StoredFile], exported_at: float) -> bytes:
    """Return the manifest as JSON; ``exported_at`` is in seconds since 1970."""
    task = claim.task
    content = {
        "version": VERSION,
        "task": {
            "id": _encodable(task.id),
            "name": _encodable(task.name),
            "project_id": _encodable(task.project_id),
            "project_name": _encodable(task.project_name),
        },
        "exported_at": datetime.fromtimestamp(exported_at, UTC).isoformat(timespec="milliseconds"),
        "files": [
            {
                "path": each.path,
                "size": each.size,
                "sha256": each.sha256,
                "document": each.file.document,
                "folder": _encodable(each.file.folder),
                "filename": _encodable(each.file.filename),
            }
            for each in stored
        ],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _encodable(text: str) -> str:
    """Replace lone surrogates, which JSON text can contain and UTF-8 cannot."""
    return text.encode(errors="replace").decode()
