"""``WebDavDestination``: files on a WebDAV server (Nextcloud, SharePoint and most document management systems).

Files are staged on this machine, put below ``.aluma-async`` on the server, and moved into place together at the
end: a final name appears only with complete content. Whose a name is stands in a small file below
``.aluma-async/owners``, which one task only can make (``Overwrite: F``). What a crash leaves on its way is
removed a day later.
"""

import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from weakref import WeakValueDictionary

import aiohttp
import anyio
from msgspec import Struct

from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.conflicts import OnConflict, candidate_paths
from aluma_async.destinations.common.manifest import StoredFile, manifest_file, render_manifest
from aluma_async.destinations.common.spool import Spool, SpooledFile
from aluma_async.destinations.webdav.client import WebDavClient
from aluma_async.exceptions import DestinationError, primary_error
from aluma_async.models import Claim
from aluma_async.policy.naming import INTERNAL_FOLDER, PathParts, collision_key, plan_paths

_CONCURRENCY = 8
"""Requests at a time."""
_STALE_SECONDS = 24 * 3600.0
"""What is on its way for so long is not: no claim lasts that long."""
_STAGED_NAME = re.compile(r"[0-9a-f]{16}[-.]")
_STAGING, _OWNERS = (INTERNAL_FOLDER, "staging"), (INTERNAL_FOLDER, "owners")


class _StagedUpload(Struct, frozen=True):
    """A file of a task that is on the server, but not in its place."""

    task: str
    subject: str
    wanted: PathParts
    staged: PathParts
    record: PathParts
    """A file that holds the task's id."""


class _PublishedFile(Struct, frozen=True):
    """A file that is in its place, or may be, where nothing was."""

    staged: PathParts
    final: PathParts
    owner: PathParts


class WebDavDestination:
    """What is below ``url``; ``session`` sends the credentials for it, and nothing else may use it.

    ``on_conflict`` says what becomes of a file whose name another task's file has; ``manifest`` adds one that is put
    into its place last. Big files are staged in ``spool``.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        on_conflict: OnConflict = "keep-both",
        manifest: bool = False,
        spool: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._client = WebDavClient(session, url)
        self._on_conflict, self._spool = on_conflict, spool
        self._manifest, self._now = manifest, now
        self._slots = anyio.Semaphore(_CONCURRENCY)
        self._name_locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._token, self._numbers = secrets.token_hex(8), count(1)  # no two processes may stage under one name

    async def probe(self) -> None:
        """Make what is missing, sweep what crashed runs left, and write a file to see whether that goes."""
        self._client.clear_cache()
        await self._ensure_folders()
        with suppress(DestinationError):  # not every server lists
            for name, modified_at in (await self._client.modified_times(_STAGING)).items():
                if _STAGED_NAME.match(name) and modified_at < self._now() - _STALE_SECONDS:
                    await self._client.delete((*_STAGING, name))
        probe_path = (*_STAGING, f"{self._token}.probe")
        await self._client.put(probe_path, SpooledFile.from_bytes(b"aluma-async was here"))
        await self._client.delete(probe_path)

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Spool]:
        """Begin to deliver: files are staged, and go to the server at the end."""
        with Spool(self._spool) as spool:
            yield spool
            await self._publish(claim, spool)

    async def _publish(self, claim: Claim, spool: Spool) -> None:
        files, prefix = claim.spec.files, f"{self._token}-{next(self._numbers)}"
        files_with_manifest = (*files, manifest_file(claim))
        record = (*_STAGING, f"{prefix}.owner")
        uploads = []
        for file, path in zip(files_with_manifest, plan_paths(files_with_manifest).values(), strict=True):
            subject = f"{self._client.url}: task {claim.task.id}: file {file.number}"
            uploads.append(
                _StagedUpload(claim.task.id, subject, path, (*_STAGING, f"{prefix}-{file.number}.part"), record)
            )
        new: list[_PublishedFile] = []
        places: dict[str, tuple[PathParts, PathParts]] = {}
        await self._ensure_folders()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(
                    self._stage, record, SpooledFile.from_bytes(claim.task.id.encode(errors="surrogatepass"))
                )
                for file, upload in zip(files, uploads, strict=False):
                    group.start_soon(self._stage, upload.staged, spool[file])
            async with anyio.create_task_group() as group:
                for upload in uploads[:-1]:
                    group.start_soon(self._publish_file, upload, new, places)
            if self._manifest:
                finals = dict(places.values())
                stored = [
                    StoredFile(file, "/".join(finals[upload.staged]), spool[file].size, spool[file].sha256)
                    for file, upload in zip(files, uploads, strict=False)
                ]
                await self._stage(
                    uploads[-1].staged, SpooledFile.from_bytes(render_manifest(claim, stored, self._now()))
                )
                await self._publish_file(uploads[-1], new, places)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._roll_back(new, [upload.staged for upload in uploads])
            if isinstance(error, BaseExceptionGroup):
                raise primary_error(error) from None
            raise
        finally:
            with anyio.CancelScope(shield=True), suppress(DestinationError):
                await self._client.delete(record)

    async def _ensure_folders(self) -> None:
        for path in ((), _STAGING[:1], _STAGING, _OWNERS):
            if not await self._client.mkcol(*path):
                raise DestinationError(f"{self._client.url}: a file has the name of our folder {'/'.join(path)}")

    async def _stage(self, path: PathParts, data: SpooledFile) -> None:
        async with self._slots:
            # A server may carry out what was given up, after we deleted it; a big file is then swept a day later.
            with anyio.CancelScope(shield=data.size <= BLOCK):
                await self._client.put(path, data)

    async def _publish_file(
        self, file: _StagedUpload, new: list[_PublishedFile], places: dict[str, tuple[PathParts, PathParts]]
    ) -> None:
        async with self._slots:
            folder: PathParts = ()
            for part in file.wanted[:-1]:
                for (name,) in candidate_paths((part,), file.task, self._on_conflict, file.subject):
                    if await self._client.mkcol(*folder, name):
                        folder = (*folder, name)
                        break
            for final in candidate_paths((*folder, file.wanted[-1]), file.task, self._on_conflict, file.subject):
                key = collision_key(final)
                async with self._name_locks.setdefault(key, anyio.Lock()):
                    with anyio.CancelScope(shield=True):  # a move is not given up half-way
                        if key not in places and await self._publish_at(final, file, new):
                            places[key] = (file.staged, final)
                            return

    async def _publish_at(self, final: PathParts, file: _StagedUpload, new: list[_PublishedFile]) -> bool:
        """Move a file to a name; False if that is another's."""
        digest = hashlib.sha256(collision_key(final).encode()).hexdigest()
        owner = (*_OWNERS, digest[:2], digest[2:40])
        owner_id = await self._client.read(owner)
        if owner_id is None and not await self._client.exists(final):
            await self._client.mkcol(*owner[:-1])
            if await self._client.move(file.record, owner, overwrite=False, method="COPY"):
                published = _PublishedFile(file.staged, final, owner)
                new.append(published)
                if await self._client.move(file.staged, final, overwrite=False):
                    return True
                new.remove(published)  # somebody else put something there just now
                await self._client.delete(owner)
            else:
                owner_id = await self._client.read(owner)
        if owner_id != file.task and self._on_conflict != "overwrite":
            return False
        # To replace a collection is to delete all that is in it.
        return not await self._client.is_collection(final) and await self._client.move(
            file.staged, final, overwrite=True
        )

    async def _roll_back(self, new: Sequence[_PublishedFile], staged: Iterable[PathParts]) -> None:
        """Delete what is new, as far as the server is there; what stays is replaced by the task's next attempt."""
        with suppress(DestinationError):
            for published in new:
                if not await self._client.exists(published.staged):
                    await self._client.delete(published.final)
                await self._client.delete(published.owner)
            for path in staged:
                await self._client.delete(path)
