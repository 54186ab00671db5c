"""``WebDavDestination``: files on a WebDAV server (Nextcloud and many document management systems).

Files are staged on this machine, uploaded to ``.aluma-async/staging`` on the server, and moved to their final paths
when the delivery commits: a final name appears only with complete content. A small file in ``.aluma-async/owners``
records which task owns a final path, and which delivery; only one can create it (``Overwrite: F``). The size of each
published file is compared with the server's, because a server or a proxy may confirm a request that had no effect. The
probe removes staged files of crashed runs after a day.
"""

import posixpath
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from urllib.parse import unquote, urlsplit
from weakref import WeakValueDictionary

import aiohttp
import anyio

from aluma_async.clock import wall_time
from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.conflicts import candidate_paths
from aluma_async.destinations.common.manifest import is_manifest
from aluma_async.destinations.common.place import RemotePlace, server_name
from aluma_async.destinations.common.publishing import for_each, publish_task
from aluma_async.destinations.common.slots import Share, Slots
from aluma_async.destinations.common.spool import Spool, SpooledFile
from aluma_async.destinations.webdav.client import REQUEST_SECONDS, WebDavClient
from aluma_async.destinations.webdav.probe import probe_folder
from aluma_async.destinations.webdav.upload import (
    CONTENTS,
    MAX_CONTENTS_BYTES,
    OWNERS,
    STAGING,
    PublishedFile,
    StagedUpload,
    contents_path,
    count_files,
    owner_path,
    parse_contents,
    render_content,
)
from aluma_async.exceptions import AlreadyExported, DestinationError, DestinationUnavailable
from aluma_async.models import Claim, ExportFile
from aluma_async.policy.naming import OnConflict, PathParts, loose_key
from aluma_async.ports import CHECK_LEASE

_CONCURRENCY = 8
"""Files at a time, without those that wait long for the server."""
_STALE_SECONDS = 24 * 3600.0
"""Age above which a staged file is left over from a crash, because no claim lasts that long."""
_STAGED_NAME = re.compile(r"[0-9a-f]{16}[-.]")


class WebDavDestination:
    """A folder on a WebDAV server.

    Args:
        session: sends the credentials with each request, so nothing else may use it.
        url: the folder. It is created if its parent exists.
        on_conflict: keep both files under different names, overwrite, or fail if another task's file has the name.
        manifest: publish a manifest for each task, after its files.
        spool: folder in which big files are staged. None: the system's folder for temporary files.
        now: clock for the manifest and the age of staged files, in seconds since 1970.
        request_seconds: longest duration of a request about a small file.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        *,
        on_conflict: OnConflict = "keep-both",
        manifest: bool = False,
        spool: Path | None = None,
        now: Callable[[], float] = wall_time,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._client = WebDavClient(session, url, request_seconds)
        self.place = _place(url)
        self._on_conflict, self._spool = on_conflict, spool
        self._manifest, self._now = manifest, now
        self._slots = Slots(_CONCURRENCY, request_seconds / 4)
        self._roll_back_seconds = request_seconds / 2
        self._path_locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        # The token keeps the names of staged files unique among processes.
        self._token, self._numbers = secrets.token_hex(8), count(1)
        self.warning = ""
        """The limitations that the last probe found; empty if there are none."""

    async def probe(self) -> None:
        """Create missing folders, remove staged files of crashed runs, and try what a delivery does."""
        self._client.clear_cache()
        await self._ensure_folders()
        # Some servers do not list folders. What is not removed in this time is removed by the next probe.
        with suppress(DestinationError), anyio.move_on_after(self._roll_back_seconds):
            now = self._now()
            for name, modified_at in (await self._client.modified_times(STAGING, now)).items():
                is_stale = modified_at < now - _STALE_SECONDS and not name.startswith(self._token)
                if is_stale and _STAGED_NAME.match(name):
                    await self._client.delete((*STAGING, name))
        self.warning = await probe_folder(self._client, STAGING)

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Spool]:
        """Open a delivery: files are staged on this machine, and published on the server when the block is left."""
        check_lease = CHECK_LEASE.get()
        with Spool(self._spool) as spool:
            yield spool
            await self._ensure_folders()
            prefix = f"{self._token}-{next(self._numbers)}"
            upload = StagedUpload(claim.task.id, prefix, may_replace=claim.may_replace, check_lease=check_lease)
            try:
                await publish_task(
                    claim,
                    spool,
                    stage=partial(self._stage, upload, self._slots.share()),
                    publish=partial(self._publish_file, upload, slots := self._slots.share()),
                    verify=partial(self._verify, upload, slots),
                    roll_back=partial(self._roll_back, upload),
                    now=self._now if self._manifest else None,
                    key_of=loose_key,
                )
                await self._remove_superseded(upload)
            finally:
                with anyio.CancelScope(shield=True), suppress(DestinationError):
                    await self._client.delete(upload.owner_record)

    async def _ensure_folders(self) -> None:
        for path in ((), STAGING[:1], STAGING, OWNERS, CONTENTS):
            if not await self._client.mkcol(*path):
                raise DestinationError(f"{self._client.url}: the internal folder {'/'.join(path)} is a file")

    async def _stage(self, upload: StagedUpload, slots: Share, files: Sequence[tuple[ExportFile, SpooledFile]]) -> None:
        """Upload files under temporary names; with the first ones, also the records of the delivery."""
        puts = [(upload.staged_path(file), data) for file, data in files]
        contents: SpooledFile | None = None
        if not upload.staged:
            owner = SpooledFile.from_bytes(upload.owner_text.encode(errors="surrogatepass"))
            puts.insert(0, (upload.owner_record, owner))
            upload.contents_text = "".join(render_content(file, data.sha256) for file, data in files)
            contents = SpooledFile.from_bytes(upload.contents_text.encode())
        upload.staged += [upload.staged_path(file) for file, _ in files]
        await for_each(puts, partial(self._put, slots))
        if contents:
            await self._client.mkcol(*upload.contents[:-1])
            await self._put(slots, (upload.contents, contents))

    async def _put(self, slots: Share, put: tuple[PathParts, SpooledFile]) -> None:
        path, data = put
        async with slots.slot(data.size):
            # The server may execute a cancelled PUT after the roll-back deleted the file. So a small upload is never
            # cancelled; what remains of a big one is removed by the probe after a day.
            with anyio.CancelScope(shield=data.size <= BLOCK):
                await self._client.put(path, data)

    async def _publish_file(
        self, upload: StagedUpload, slots: Share, file: ExportFile, path: PathParts, data: SpooledFile
    ) -> str:
        """Move a staged file to the first path that is free or its task's own, and return the path."""
        subject = f"{self._client.url}: task {upload.task_id}: file {file.number}"
        async with slots.slot(data.size):
            folder: PathParts = ()
            for part in path[:-1]:
                for (name,) in candidate_paths((part,), upload.task_id, self._on_conflict, subject):
                    if await self._client.mkcol(*folder, name):
                        folder = (*folder, name)
                        break
            for final in candidate_paths((*folder, path[-1]), upload.task_id, self._on_conflict, subject):
                key = loose_key(final)
                async with self._lock_of(key):
                    # Shielded, because the outcome of a cancelled MOVE would be unknown.
                    with anyio.CancelScope(shield=True) as scope:
                        if key not in upload.used_keys and await self._publish_at(final, upload, file, data, scope):
                            upload.used_keys.add(key)
                            return "/".join(final)
        raise AssertionError("candidate_paths ended")

    def _lock_of(self, key: str) -> anyio.Lock:
        """Return the lock that is held while the file at a path is published or removed."""
        return self._path_locks.setdefault(key, anyio.Lock())

    async def _publish_at(
        self, final: PathParts, upload: StagedUpload, file: ExportFile, data: SpooledFile, scope: anyio.CancelScope
    ) -> bool:
        """Move a staged file to a path; return False if the path belongs to another task or program."""
        staged, owner = upload.staged_path(file), owner_path(final)
        published = PublishedFile(staged, final, owner, data.sha256)
        record = await self._client.read(owner)
        if record is None and not await self._client.exists(final):
            await self._client.mkcol(*owner[:-1])
            if await self._client.move(upload.owner_record, owner, overwrite=False, method="COPY"):
                if await self._move_new(upload, published, data):
                    return True
                await self._client.delete(owner)
            else:
                record = await self._client.read(owner)
        is_own = upload.owns(record)
        if not is_own and self._on_conflict != "overwrite":
            return False
        existing = await self._client.find(final, by_head=self._on_conflict != "overwrite")
        # Never replace a collection, because that would delete everything in it.
        if existing and existing.is_collection:
            return False
        stored = await self._digest(final, scope) if existing and not is_manifest(file) else None
        if existing and not await self._may_overwrite(upload, file, data, record, stored):
            return False
        upload.replaces |= existing is not None
        may_differ = upload.may_replace or is_manifest(file) or not existing
        if not may_differ and stored != data.sha256:
            raise AlreadyExported(f"{self._client.url}: task {upload.task_id}: file {file.number}")
        upload.check_lease()  # reading the earlier file may have taken long
        if is_own and record != upload.owner_text:  # before the MOVE, so that no other roll-back deletes the file
            await self._client.move(upload.owner_record, owner, overwrite=True, method="COPY")
            if record is not None and not is_manifest(file):  # a list does not contain the manifest
                upload.superseded[contents_path(record)] += 1
        if existing and not upload.may_replace:
            await self._client.delete(staged)
            upload.kept.add(file.number)
            return True
        if existing is None and is_own:
            return await self._move_new(upload, published, data)
        upload.check_lease()
        upload.used_digests.add(data.sha256)
        if not await self._client.move(staged, final, overwrite=existing is not None, size=data.size):
            return False
        await self._client.verify_gone(staged, f"{self._client.url}: task {upload.task_id}: file {file.number}")
        if not is_own:  # after the MOVE, so that no crash gives this task a file of another one
            await self._client.mkcol(*owner[:-1])
            await self._client.move(upload.owner_record, owner, overwrite=True, method="COPY")
        return True

    async def _move_new(self, upload: StagedUpload, published: PublishedFile, data: SpooledFile) -> bool:
        """Move a staged file to a path that its task owns; return False if another program has created a file there."""
        upload.used_digests.add(data.sha256)
        upload.new.append(published)
        upload.check_lease()
        if await self._client.move(published.staged, published.final, overwrite=False, size=data.size):
            return True
        upload.new.remove(published)
        return False

    async def _digest(self, final: PathParts, scope: anyio.CancelScope) -> str | None:
        """Return the SHA-256 of a file. A cancellation takes effect, because a big file may take long."""
        scope.shield = False
        try:
            return await self._client.digest(final)
        finally:
            scope.shield = True

    async def _may_overwrite(
        self, upload: StagedUpload, file: ExportFile, data: SpooledFile, record: str | None, stored: str | None
    ) -> bool:
        """Return whether a file is this task's own, or may be replaced all the same.

        A record does not prove it, because the server may regard the name of another file as equal to this one. So the
        content (``stored``) is compared: with the file, and with what the earlier delivery stored.
        """
        if is_manifest(file) or not upload.may_replace:
            return True
        if stored in (data.sha256, None):
            return True
        if record is not None and upload.owns(record):
            earlier = contents_path(record)
            if earlier not in upload.earlier:
                upload.earlier[earlier] = parse_contents(await self._client.read(earlier, MAX_CONTENTS_BYTES) or "")
            if stored in upload.earlier[earlier] and stored not in upload.used_digests:
                await self._add_to_contents(upload, file, stored)
                return True
        # Another task's file, but never one of this delivery.
        return self._on_conflict == "overwrite" and stored not in upload.used_digests

    async def _add_to_contents(self, upload: StagedUpload, file: ExportFile, stored: str) -> None:
        """Add a content that an earlier delivery stored to the list of this one.

        The owner record of its path will name this delivery while the MOVE that replaces the file can still fail.
        """
        async with upload.contents_lock:
            upload.contents_text += render_content(file, stored)
            await self._client.put(upload.contents, SpooledFile.from_bytes(upload.contents_text.encode()))

    async def _verify(self, upload: StagedUpload, slots: Share, file: ExportFile, path: str, data: SpooledFile) -> None:
        """Compare the size of a file with the server's, when all files of the delivery are published."""
        if file.number in upload.kept:
            return
        final = tuple(path.split("/"))
        async with slots.slot(0):
            try:
                subject = f"{self._client.url}: task {upload.task_id}: file {file.number}"
                await self._client.verify_size(final, data.size, subject)
            except DestinationUnavailable:
                if self._on_conflict != "overwrite" or upload.owns(await self._client.read(owner_path(final))):
                    raise

    async def _remove_superseded(self, upload: StagedUpload) -> None:
        """Remove the lists of earlier deliveries to which no owner record refers any more."""
        with suppress(DestinationError):
            for contents, count in upload.superseded.items():
                text = await self._client.read(contents, MAX_CONTENTS_BYTES)
                if text and count_files(text) <= count:
                    await self._client.delete(contents)

    async def _roll_back(self, upload: StagedUpload) -> None:
        """Delete the new files while the server responds. The task's next attempt replaces those that remain.

        A file of another delivery is kept, also of the same task: it may have been completed in the meantime.
        """
        with suppress(DestinationError, TimeoutError):
            for published in upload.new:
                with anyio.fail_after(self._roll_back_seconds):  # because this name may be the one without a response
                    async with self._lock_of(loose_key(published.final)):
                        await self._remove(upload, published)
            if not upload.replaces:
                await self._client.delete(upload.contents)
        with suppress(DestinationError):  # also if a path above is the reason of the error
            for path in upload.staged:
                await self._client.delete(path)

    async def _remove(self, upload: StagedUpload, published: PublishedFile) -> None:
        """Delete a new file and its owner record, if they are still those of this delivery."""
        record = await self._client.read(published.owner)
        # A damaged record is this delivery's: only with "overwrite" does another task take the path over.
        is_damaged = self._on_conflict != "overwrite" and upload.is_damaged(record)
        if record == upload.owner_text or is_damaged:
            if await self._client.exists(published.staged):
                await self._client.delete(published.staged)  # so that the MOVE cannot be executed later
            elif await self._is_still(published):
                await self._client.delete(published.final)
            await self._client.delete(published.owner)

    async def _is_still(self, published: PublishedFile) -> bool:
        """Return whether a path has the content of this delivery; only "overwrite" can have replaced it."""
        return self._on_conflict != "overwrite" or await self._client.digest(published.final) == published.sha256


def _place(url: str) -> RemotePlace:
    """Return the place of a folder; servers may ignore the case of paths, and more."""
    path = posixpath.normpath(unquote(f"/{urlsplit(url).path}"))
    return RemotePlace("webdav", server_name(url), tuple(loose_key((part,)) for part in path.split("/") if part))
