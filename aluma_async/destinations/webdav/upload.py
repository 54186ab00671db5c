"""``StagedUpload``: the state of one delivery to a WebDAV server, and its records in the internal folder.

An owner record belongs to a path; it names the task that owns the path, and the delivery. A list of contents belongs to
a delivery; it contains the number and the SHA-256 of each file, and of the earlier files that it may have replaced.
"""

import hashlib
from collections import Counter
from collections.abc import Callable

import anyio
from msgspec import Struct

from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.models import ExportFile
from aluma_async.policy.naming import INTERNAL_FOLDER, PathParts, collision_key

STAGING, OWNERS, CONTENTS = ((INTERNAL_FOLDER, name) for name in ("staging", "owners", "contents"))

MAX_CONTENTS_BYTES = 2 * BLOCK
"""Limit for a list of contents. Of more than about 15,000 files, it is read incompletely."""


class PublishedFile(Struct, frozen=True):
    """A file that was moved, or may have been, to a path where nothing existed."""

    staged: PathParts
    final: PathParts
    owner: PathParts
    sha256: str


class StagedUpload:
    """The files of one task on the server."""

    def __init__(
        self, task_id: str, prefix: str, *, may_replace: bool, check_lease: Callable[[], object] = lambda: None
    ) -> None:
        """``prefix`` begins the names of the task's staged files."""
        self.task_id, self.prefix, self.may_replace = task_id, prefix, may_replace
        self.check_lease = check_lease
        """Raises ``DestinationError`` if another exporter may have claimed the task."""
        self.staged: list[PathParts] = []
        self.new: list[PublishedFile] = []
        self.used_keys: set[str] = set()
        """The ``loose_key`` of each final path that a file of this delivery has."""
        self.used_digests: set[str] = set()
        """The SHA-256 of each file that has a final path by now, or may have."""
        self.kept: set[int] = set()
        """The number of each file that has remained as an earlier delivery stored it."""
        self.replaces = False
        """Whether a file may have been replaced. The list of contents then remains, because records refer to it."""
        self.owner_record: PathParts = (*STAGING, f"{prefix}-owner")
        """The staged file that contains ``owner_text``."""
        self.owner_text = f"{task_id}\n{prefix}"
        """The task's id and the delivery: another exporter may deliver the same task after this claim ended."""
        self.contents = _record_path(CONTENTS, prefix)
        """The list of contents."""
        self.contents_text = ""
        self.contents_lock = anyio.Lock()
        self.earlier: dict[PathParts, frozenset[str]] = {}
        """The contents that earlier deliveries stored, by their lists, as far as they were read."""
        self.superseded: Counter[PathParts] = Counter()
        """For each list of an earlier delivery, the number of its paths that belong to this one by now."""

    def owns(self, record: str | None) -> bool:
        """Return whether a record names this task, with any delivery or, in earlier versions, with none."""
        return record is not None and self.task_id in (record, record.rpartition("\n")[0])

    def is_damaged(self, record: str | None) -> bool:
        """Return whether a record that this delivery created is incomplete, or is none."""
        return record is not None and (not self.owns(record) or self.owner_text.startswith(record))

    def staged_path(self, file: ExportFile) -> PathParts:
        """Return the temporary path of a file; without an extension, because servers refuse some of them."""
        return (*STAGING, f"{self.prefix}-{file.number}")


def owner_path(final: PathParts) -> PathParts:
    """Return the path of the owner record for a path."""
    return _record_path(OWNERS, collision_key(final))


def contents_path(record: str) -> PathParts:
    """Return the path of the list of contents of the delivery that an owner record names."""
    return _record_path(CONTENTS, record.rpartition("\n")[2])


def render_content(file: ExportFile, sha256: str) -> str:
    """Return a line of the list of contents of a delivery."""
    return f"{file.number} {sha256}\n"


def count_files(text: str) -> int:
    """Return the number of files of a delivery by its list of contents, which may name several contents of a file."""
    return len({line.partition(" ")[0] for line in text.splitlines()})


def parse_contents(text: str) -> frozenset[str]:
    """Return the SHA-256 of each file of a delivery; incomplete if the list is."""
    return frozenset(line.partition(" ")[2] for line in text.splitlines() if " " in line)


def _record_path(folder: PathParts, key: str) -> PathParts:
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
    return (*folder, digest[:2], digest[2:40])
