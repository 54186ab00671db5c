"""``ObjectStoreDestination``: files as objects in a bucket of S3, Azure Blob, Google Cloud Storage or their like.

Files are staged on this machine, and put into the bucket together at the end: data first, each object whole or
not at all. A bucket knows no transaction over several objects: if one of them fails, those that are new are
deleted again. Whose an object is stands in its metadata; a server that loses metadata makes it nobody's.
"""

import mimetypes
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import anyio
import obstore
from msgspec import Struct
from obstore.exceptions import AlreadyExistsError, PreconditionError

from aluma_async.config.redaction import redact_url
from aluma_async.destinations.common.conflicts import OnConflict, candidate_paths
from aluma_async.destinations.common.manifest import StoredFile, manifest_file, render_manifest
from aluma_async.destinations.common.spool import Spool, SpooledFile
from aluma_async.destinations.object_store.client import (
    ERRORS,
    MULTIPART_BYTES,
    map_error,
    open_store,
    put_multipart,
    put_object,
)
from aluma_async.exceptions import DestinationError, primary_error
from aluma_async.models import Claim
from aluma_async.policy.naming import INTERNAL_FOLDER, PathParts, as_object_key, plan_paths

_MARKER_KEY = f"{INTERNAL_FOLDER}/mark"
_MAX_KEY_BYTES = 1024
"""Bytes in the name of an object, its prefix included: the limit of S3 and of Google."""
_CONCURRENCY, _MULTIPART_CONCURRENCY = 16, 4
"""Objects that are put at a time; big ones need memory."""
_ATTEMPTS = 10
"""At one name, while somebody else changes it."""


class _ExistingObject(Struct, frozen=True):
    """An object that has the name already."""

    task: str
    sha256: str
    version: Any
    """What a conditional put names it by."""


class _Upload(Struct, frozen=True):
    """One file on its way into the bucket."""

    number: int
    path: PathParts
    data: SpooledFile
    attributes: dict[str, str]


class ObjectStoreDestination:
    """A bucket, or what is below a prefix in it: ``s3://bucket/prefix``, ``az://…``, ``gs://…``.

    ``options`` are obstore's own: of the store, and of its HTTP client. ``on_conflict`` says what becomes of a file
    whose name another task's object has; ``manifest`` adds one that is put last. Big files are staged in ``spool``.

    Where the server honours conditional puts nobody else's object is ever replaced; where it does not
    (``conditional`` tells, once it was probed) names are looked up first, and two processes that want one name in
    one instant may meet. So may files above ``BIG`` bytes, which go up in parts.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        on_conflict: OnConflict = "keep-both",
        manifest: bool = False,
        spool: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = open_store(url, options or {})
        self._url, self._on_conflict, self._spool = redact_url(url), on_conflict, spool
        self._manifest, self._now = manifest, now
        self._max_path_bytes = max(_MAX_KEY_BYTES - len(url.encode()), _MAX_KEY_BYTES // 2)
        self._slots, self._multipart_slots = anyio.Semaphore(_CONCURRENCY), anyio.Semaphore(_MULTIPART_CONCURRENCY)
        self._name_locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self.conditional: bool | None = None
        """Whether the server honours conditional puts; None: not known yet."""

    async def probe(self) -> None:
        """Put a mark only if it is not there, twice: the second time has to be refused, if conditions are honoured."""
        try:
            for _ in range(2):
                await obstore.put_async(self._store, _MARKER_KEY, b"aluma-async was here", mode="create")
            self.conditional = False
        except AlreadyExistsError:
            self.conditional = True
        except ERRORS as error:
            raise map_error(error, self._url) from error

    @property
    def warning(self) -> str:
        """What an operator should know of the server, once it was probed."""
        if self.conditional is not False:
            return ""
        return "conditional puts are ignored there: let no two exporters write below one prefix"

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Spool]:
        """Begin to deliver: files are staged, and put into the bucket at the end."""
        with Spool(self._spool) as spool:
            yield spool
            if self.conditional is None:
                await self.probe()
            await self._publish(claim, spool)

    async def _publish(self, claim: Claim, spool: Spool) -> None:
        files = claim.spec.files
        paths = list(plan_paths((*files, manifest_file(claim))).values())
        new: dict[str, _Upload] = {}
        keys: dict[str, int] = {}
        try:
            async with anyio.create_task_group() as group:
                for file, path in zip(files, paths, strict=False):
                    group.start_soon(self._put, claim, _upload(claim, file.number, path, spool[file]), new, keys)
            if self._manifest:
                where = {number: key for key, number in keys.items()}
                stored = [StoredFile(file, where[file.number], spool[file].size, spool[file].sha256) for file in files]
                data = SpooledFile.from_bytes(render_manifest(claim, stored, self._now()))
                await self._put(claim, _upload(claim, -1, paths[-1], data), new, keys)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._roll_back(new)
            if isinstance(error, BaseExceptionGroup):
                raise primary_error(error) from None
            raise

    async def _put(self, claim: Claim, upload: _Upload, new: dict[str, _Upload], keys: dict[str, int]) -> None:
        async with self._slots if upload.data.size <= MULTIPART_BYTES else self._multipart_slots:
            subject = f"{self._url}: task {claim.task.id}: file {upload.number}"
            for path in candidate_paths(upload.path, claim.task.id, self._on_conflict, subject):
                key = as_object_key(path, self._max_path_bytes)
                async with self._name_locks.setdefault(key, anyio.Lock()):
                    try:
                        if key not in keys and await self._put_at(key, upload, new):
                            keys[key] = upload.number
                            return
                    except ERRORS as error:
                        raise map_error(error, subject) from error

    async def _put_at(self, key: str, upload: _Upload, new: dict[str, _Upload]) -> bool:
        """Put an object under a name; False if that is another's."""
        conditional = self.conditional and upload.data.size <= MULTIPART_BYTES
        existing = None if conditional else await self._head(key)
        for _ in range(_ATTEMPTS):
            if existing and existing.task != upload.attributes["task"] and self._on_conflict != "overwrite":
                return False
            if not existing:
                new[key] = upload  # from here on it may be there
            try:
                if upload.data.size <= MULTIPART_BYTES:
                    mode = (existing.version if existing else "create") if conditional else "overwrite"
                    await put_object(self._store, key, upload.data, upload.attributes, mode)
                    return True
                if await put_multipart(
                    self._store, key, upload.data, upload.attributes, partial(self._is_unchanged, key, existing)
                ):
                    return True
            except (AlreadyExistsError, PreconditionError):
                pass
            new.pop(key, None)
            existing = await self._head(key)
        raise DestinationError(f"{self._url}: file {upload.number}: somebody else goes on changing its object")

    async def _head(self, key: str) -> _ExistingObject | None:
        try:
            response = await obstore.get_async(self._store, key, options={"head": True})
        except FileNotFoundError:
            return None
        meta: Mapping[str, Any] = response.meta
        version = {name: meta[name] for name in ("e_tag", "version") if meta[name]}
        metadata = {name.lower(): value for name, value in response.attributes.items()}
        return _ExistingObject(metadata.get("task", ""), metadata.get("sha256", ""), version)

    async def _is_unchanged(self, key: str, expected: _ExistingObject | None) -> bool:
        return await self._head(key) == expected

    async def _roll_back(self, new: Mapping[str, _Upload]) -> None:
        """Delete what is new, as far as it can be reached; what stays is replaced by the task's next attempt."""
        for key, upload in new.items():
            try:
                existing = await self._head(key)
                if existing and (existing.task, existing.sha256) == (
                    upload.attributes["task"],
                    upload.attributes["sha256"],
                ):
                    await obstore.delete_async(self._store, key)
            except ERRORS:
                return


def _upload(claim: Claim, number: int, path: PathParts, data: SpooledFile) -> _Upload:
    content_type = mimetypes.guess_type(path[-1])[0] or "application/octet-stream"
    metadata = {"task": claim.task.id, "project": claim.task.project_id, "sha256": data.sha256}
    return _Upload(
        number,
        path,
        data,
        {"Content-Type": content_type, **{name: _header_safe(text) for name, text in metadata.items()}},
    )


def _header_safe(text: str) -> str:
    """Metadata travels in headers."""
    return quote(text, safe="/:@ ", errors="replace")
