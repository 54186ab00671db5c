"""An object that is put, and one that exists: the task, delivery and content of an object. Pure."""

import mimetypes
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from msgspec import Struct

from aluma_async.destinations.common.manifest import is_manifest
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.object_store.client import version_of
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import PathParts

if TYPE_CHECKING:
    from obstore import GetResult


class ExistingObject(Struct, frozen=True):
    """The object that exists under the wanted key."""

    task: str
    delivery: str
    sha256: str
    size: int
    version: Any
    """The version for the condition of a put."""


class Upload(Struct, frozen=True):
    """A file that is uploaded."""

    number: int
    data: SpooledFile
    attributes: dict[str, str]
    is_manifest: bool
    may_replace: bool
    check_lease: Callable[[], object]
    """Raises ``DestinationError`` if another exporter may have claimed the task."""

    def is_beside(self, existing: ExistingObject) -> bool:
        """Return whether an object is another file of the same delivery."""
        mine = self.attributes["delivery"]
        return existing.delivery != mine and existing.delivery.partition("-")[0] == mine.partition("-")[0]


def existing_object(response: "GetResult") -> ExistingObject:
    """Return the object that a response to GET or HEAD describes."""
    meta: Mapping[str, Any] = response.meta
    metadata = {name.lower(): value for name, value in response.attributes.items()}
    task, delivery, sha256 = (metadata.get(name, "") for name in ("task", "delivery", "sha256"))
    return ExistingObject(task, delivery, sha256, meta["size"], version_of(meta))


def make_upload(
    claim: Claim,
    delivery: str,
    file: ExportFile,
    path: PathParts,
    data: SpooledFile,
    check_lease: Callable[[], object],
) -> Upload:
    """Return the upload of a file; ``delivery`` identifies the file of this delivery."""
    content_type = mimetypes.guess_type(path[-1])[0] or "application/octet-stream"
    metadata = {"task": claim.task.id, "project": claim.task.project_id, "delivery": delivery, "sha256": data.sha256}
    attributes = {"Content-Type": content_type} | {name: _header_safe(value) for name, value in metadata.items()}
    return Upload(file.number, data, attributes, is_manifest(file), claim.may_replace, check_lease)


def _header_safe(text: str) -> str:
    """Percent-encode a value, because metadata is sent in HTTP headers."""
    return quote(text, safe="/:@ ", errors="replace")
