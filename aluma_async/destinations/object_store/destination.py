"""``ObjectStoreDestination``: files as objects in a bucket of S3, Azure Blob Storage or Google Cloud Storage.

Files are staged on this machine, and uploaded together when the delivery commits: all files first, then the
manifest. Each object appears completely or not at all. A bucket has no transaction over several objects: if one
upload fails, the new objects are deleted again. The metadata of an object names the task that owns it; if a server
loses metadata, its objects have no owner, and are treated as those of another task. After each put, the object's
size is compared with the file's, because a server or a proxy may confirm a put that had no effect.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anyio
import obstore
from msgspec.structs import replace
from obstore.exceptions import AlreadyExistsError, PreconditionError

from aluma_async.clock import wall_time
from aluma_async.config.redaction import redact_url
from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.conflicts import candidate_paths
from aluma_async.destinations.common.publishing import publish_task
from aluma_async.destinations.common.slots import Share, Slots
from aluma_async.destinations.common.spool import Spool, SpooledFile
from aluma_async.destinations.object_store.client import (
    CONSISTENT_SECONDS,
    ERRORS,
    MULTIPART_BYTES,
    STORED_HINT,
    is_out_of_space,
    map_error,
    open_store,
    place_of,
    put_multipart,
    put_object,
)
from aluma_async.destinations.object_store.probe import probe_store
from aluma_async.destinations.object_store.upload import ExistingObject, Upload, existing_object, make_upload
from aluma_async.exceptions import AlreadyExported, DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import OnConflict, PathParts, as_object_key, loose_key
from aluma_async.ports import CHECK_LEASE

_MAX_KEY_BYTES = 1024
"""Length of an object's key including the prefix: the limit of S3 and of Google Cloud Storage."""
_CONCURRENCY, _MULTIPART_CONCURRENCY = 16, 4
"""Uploads at a time, without slow ones. Fewer multipart uploads, because each holds several parts in memory."""
_DELETIONS, _DELETION_SECONDS = 3, 0.2
"""Attempts to delete an object, and the delay between them."""
_REQUEST_SECONDS = 20.0
_ATTEMPTS = 10
"""Attempts to put one object while another process keeps changing it."""


class ObjectStoreDestination:
    """A bucket, or the part of it below a prefix.

    Where the server honours conditional writes, objects of other tasks and programs are never replaced. Where it does
    not, and for files above ``MULTIPART_BYTES``, the key is looked up before the put: two processes that use the same
    key at the same instant may then overwrite each other.

    Args:
        url: ``s3://bucket/prefix``, ``az://container/prefix`` or ``gs://bucket/prefix``.
        options: obstore's options for the store and for its HTTP client.
        on_conflict: keep both objects under different keys, overwrite, or fail if another task's object has the key.
        manifest: put a manifest for each task, after its files.
        spool: folder in which big files are staged. None: the system's folder for temporary files.
        now: clock for the manifest, in seconds since 1970.
        request_seconds: longest duration of a request about a small object.
    """

    def __init__(
        self,
        url: str,
        *,
        options: Mapping[str, Any] | None = None,
        on_conflict: OnConflict = "keep-both",
        manifest: bool = False,
        spool: Path | None = None,
        now: Callable[[], float] = wall_time,
        request_seconds: float = _REQUEST_SECONDS,
    ) -> None:
        self._store = open_store(url, options or {})
        self._store_without_retries = open_store(url, options or {}, retries=0)
        self.place = place_of(url, self._store)
        self._url, self._on_conflict, self._spool = redact_url(url), on_conflict, spool
        self._manifest, self._now = manifest, now
        self._max_path_bytes = max(_MAX_KEY_BYTES - len(url.encode()), _MAX_KEY_BYTES // 2)
        self._request_seconds = request_seconds
        self._slots = Slots(_CONCURRENCY, request_seconds / 4)
        self._multipart_slots = Slots(_MULTIPART_CONCURRENCY, request_seconds / 4)
        self._key_locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self.conditional: bool | None = None
        """Whether the server honours conditional writes. None: not probed yet."""
        self._conditional_updates = False
        self._refused_bytes = 0
        """Size of the largest file for which the store had no space since the last probe, at most ``BLOCK``."""

    async def probe(self) -> None:
        """Put small objects, read one of them back, and detect what the store can do."""
        capabilities = await probe_store(self._store, self._url, self._refused_bytes)
        self._refused_bytes = 0
        self.conditional, self._conditional_updates = capabilities.conditional, capabilities.conditional_updates

    @property
    def warning(self) -> str:
        """The limitation that the last probe found; empty if there is none."""
        if self.conditional is False:
            return "the server ignores conditional writes: use each prefix with one exporter only"
        return ""

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Spool]:
        """Open a delivery: files are staged, and uploaded when the block is left."""
        check_lease = CHECK_LEASE.get()
        with Spool(self._spool) as spool:
            yield spool
            if self.conditional is None:
                await self.probe()
            new: dict[str, Upload] = {}
            slots = self._slots.share(), self._multipart_slots.share()
            await publish_task(
                claim,
                spool,
                publish=partial(self._put, claim, secrets.token_hex(8), check_lease, new, set(), slots),
                roll_back=partial(self._roll_back, new),
                now=self._now if self._manifest else None,
            )

    async def _put(
        self,
        claim: Claim,
        delivery: str,
        check_lease: Callable[[], object],
        new: dict[str, Upload],
        used_keys: set[str],
        slots: tuple[Share, Share],
        file: ExportFile,
        path: PathParts,
        data: SpooledFile,
    ) -> str:
        """Put a file under the first key that is free or its task's own, and return the key."""
        upload = make_upload(claim, f"{delivery}-{file.number}", file, path, data, check_lease)
        subject = f"{self._url}: task {claim.task.id}: file {file.number}"
        async with slots[data.size > MULTIPART_BYTES].slot(data.size):
            for candidate in candidate_paths(path, claim.task.id, self._on_conflict, subject):
                key = as_object_key(candidate, self._max_path_bytes)
                async with self._lock_of(key):
                    try:
                        if key not in used_keys and await self._put_at(key, upload, new):
                            used_keys.add(key)
                            return key
                    except ERRORS as error:
                        if is_out_of_space(error):
                            self._refused_bytes = max(self._refused_bytes, min(data.size, BLOCK))
                        raise map_error(error, subject) from error
        raise AssertionError("candidate_paths ended")

    def _lock_of(self, key: str) -> anyio.Lock:
        """Return the lock that is held while the object is put or removed; the same one for keys that may be equal."""
        return self._key_locks.setdefault(loose_key((key,)), anyio.Lock())

    async def _put_at(self, key: str, upload: Upload, new: dict[str, Upload]) -> bool:
        """Put an object under a key; return False if the key belongs to another task or program."""
        conditional = self.conditional and upload.data.size <= MULTIPART_BYTES
        existing = None if conditional else await self._head(key)
        for _ in range(_ATTEMPTS):
            if existing and upload.is_beside(existing):  # the server regards the keys of two files as equal
                return False
            if existing and existing.task != upload.attributes["task"] and self._on_conflict != "overwrite":
                return False
            if existing and not upload.may_replace:
                # The same content is put again, so that no roll-back of another delivery deletes it.
                if upload.is_manifest:
                    existing, upload = await self._keep(key, upload)
                elif existing.sha256 != upload.data.sha256:
                    raise AlreadyExported(f"{self._url}: file {upload.number}")
            # After the look at the existing object, so that the put replaces no newer version of another exporter.
            upload.check_lease()
            if not existing:
                new[key] = upload  # before the request, because it may take effect even if it fails
            try:
                if upload.data.size <= MULTIPART_BYTES:
                    mode = self._put_mode(existing) if conditional else "overwrite"
                    await put_object(self._store, key, upload.data, upload.attributes, mode, self._request_seconds)
                    confirmed = True
                else:
                    is_unchanged = partial(self._is_unchanged, key, existing, upload)
                    confirmed = await put_multipart(self._store, key, upload.data, upload.attributes, is_unchanged)
                if confirmed and await self._verify(key, upload):
                    return True
            except (AlreadyExistsError, PreconditionError):
                pass
            existing = await self._head(key)
            if not existing or existing.delivery != upload.attributes["delivery"]:  # otherwise a response was lost
                new.pop(key, None)
        raise DestinationError(f"{self._url}: file {upload.number}: another process keeps changing the object")

    def _put_mode(self, existing: ExistingObject | None) -> Any:
        """Return the condition of a put: the object does not exist, or is still the same."""
        if not existing:
            return "create"
        return existing.version if self._conditional_updates and existing.version else "overwrite"

    async def _verify(self, key: str, upload: Upload) -> bool:
        """Compare an object with the file whose put was confirmed.

        Return False if another task's object has replaced it. Raises ``DestinationUnavailable`` if it is not there.
        """
        for delay in (0.0, *CONSISTENT_SECONDS):
            await anyio.sleep(delay)
            stored = await self._head(key)
            if stored and stored.size == upload.data.size and stored.sha256 in ("", upload.data.sha256):
                break
        if stored and stored.task not in ("", upload.attributes["task"]):
            return self._on_conflict == "overwrite"
        if not stored:
            problem = "does not exist"
        elif stored.size != upload.data.size:
            problem = f"has {stored.size} bytes instead of {upload.data.size}"
        elif stored.sha256 not in ("", upload.data.sha256):
            problem = "has the content of an earlier upload"
        else:
            return True
        raise DestinationUnavailable(
            f"{self._url}: file {upload.number}: the put was confirmed, but the object {problem}", hint=STORED_HINT
        )

    async def _head(self, key: str) -> ExistingObject | None:
        try:
            with anyio.fail_after(self._request_seconds):
                return existing_object(await obstore.get_async(self._store, key, options={"head": True}))
        except FileNotFoundError:
            return None

    async def _keep(self, key: str, upload: Upload) -> tuple[ExistingObject | None, Upload]:
        """Return the object under a key, and an upload with its content; ``upload`` itself if there is none by now."""
        try:
            response = await obstore.get_async(self._store, key)
        except FileNotFoundError:
            return None, upload
        data = SpooledFile.from_bytes(bytes(await response.bytes_async()))
        return existing_object(response), replace(
            upload, data=data, attributes=upload.attributes | {"sha256": data.sha256}
        )

    async def _is_unchanged(self, key: str, expected: ExistingObject | None, upload: Upload) -> bool:
        is_unchanged = await self._head(key) == expected
        upload.check_lease()
        return is_unchanged

    async def _roll_back(self, new: Mapping[str, Upload]) -> None:
        """Delete the new objects while the store responds. The task's next attempt replaces those that remain.

        An object of another delivery is kept, also of the same task: it may have been completed in the meantime.
        """
        for key, upload in new.items():
            lock = self._lock_of(key)
            with anyio.move_on_after(self._request_seconds) as waiting:  # another upload may hang
                await lock.acquire()
            if waiting.cancelled_caught:
                return
            try:
                if not await self._delete(key, upload):
                    return
            finally:
                lock.release()

    async def _delete(self, key: str, upload: Upload) -> bool:
        """Delete an object if it is still the one of an upload; return whether the store has responded.

        A deletion is repeated only after another look, because its response may be lost and another exporter may have
        put an object in the meantime.
        """
        for _ in range(_DELETIONS):
            try:
                existing = await self._head(key)
                if existing and existing.delivery == upload.attributes["delivery"]:
                    with anyio.fail_after(self._request_seconds):
                        await obstore.delete_async(self._store_without_retries, key)
            except TimeoutError:
                return False
            except ERRORS:
                await anyio.sleep(_DELETION_SECONDS)
            else:
                return True
        return False
