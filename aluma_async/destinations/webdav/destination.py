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
from aluma_async.destinations.webdav.client import Dav
from aluma_async.exceptions import DestinationError, primary_error
from aluma_async.models import Claim
from aluma_async.policy.naming import INTERNAL_FOLDER, PathParts, collision_key, plan_paths

_AT_ONCE = 8
"""Requests at a time."""
_LEFT_SECONDS = 24 * 3600.0
"""What is on its way for so long is not: no claim lasts that long."""
_STAGED = re.compile(r"[0-9a-f]{16}[-.]")
_STAGING, _OWNERS = (INTERNAL_FOLDER, "staging"), (INTERNAL_FOLDER, "owners")


class _OnItsWay(Struct, frozen=True):
    """A file of a task that is on the server, but not in its place."""

    task: str
    what: str
    wanted: PathParts
    staged: PathParts
    record: PathParts
    """A file that holds the task's id."""


class _Placed(Struct, frozen=True):
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
        self._dav = Dav(session, url)
        self._on_conflict, self._spool = on_conflict, spool
        self._manifest, self._now = manifest, now
        self._turns = anyio.Semaphore(_AT_ONCE)
        self._names: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._token, self._numbers = secrets.token_hex(8), count(1)  # no two processes may stage under one name

    async def probe(self) -> None:
        """Make what is missing, sweep what crashed runs left, and write a file to see whether that goes."""
        self._dav.forget()
        await self._make_ours()
        with suppress(DestinationError):  # not every server lists
            for name, changed in (await self._dav.changed(_STAGING)).items():
                if _STAGED.match(name) and changed < self._now() - _LEFT_SECONDS:
                    await self._dav.delete((*_STAGING, name))
        trial = (*_STAGING, f"{self._token}.probe")
        await self._dav.put(trial, SpooledFile.from_bytes(b"aluma-async was here"))
        await self._dav.delete(trial)

    @asynccontextmanager
    async def open(self, claim: Claim) -> AsyncIterator[Spool]:
        """Begin to deliver: files are staged, and go to the server at the end."""
        with Spool(self._spool) as spool:
            yield spool
            await self._publish(claim, spool)

    async def _publish(self, claim: Claim, spool: Spool) -> None:
        files, prefix = claim.spec.files, f"{self._token}-{next(self._numbers)}"
        everything = (*files, manifest_file(claim))
        record = (*_STAGING, f"{prefix}.owner")
        moves = []
        for file, path in zip(everything, plan_paths(everything).values(), strict=True):
            what = f"{self._dav.url}: task {claim.task.id}: file {file.number}"
            moves.append(_OnItsWay(claim.task.id, what, path, (*_STAGING, f"{prefix}-{file.number}.part"), record))
        new: list[_Placed] = []
        places: dict[str, tuple[PathParts, PathParts]] = {}
        await self._make_ours()
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(
                    self._stage, record, SpooledFile.from_bytes(claim.task.id.encode(errors="surrogatepass"))
                )
                for file, move in zip(files, moves, strict=False):
                    group.start_soon(self._stage, move.staged, spool[file])
            async with anyio.create_task_group() as group:
                for move in moves[:-1]:
                    group.start_soon(self._place, move, new, places)
            if self._manifest:
                finals = dict(places.values())
                stored = [
                    StoredFile(file, "/".join(finals[move.staged]), spool[file].size, spool[file].sha256)
                    for file, move in zip(files, moves, strict=False)
                ]
                await self._stage(moves[-1].staged, SpooledFile.from_bytes(render_manifest(claim, stored, self._now())))
                await self._place(moves[-1], new, places)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._take_back(new, [move.staged for move in moves])
            if isinstance(error, BaseExceptionGroup):
                raise primary_error(error) from None
            raise
        finally:
            with anyio.CancelScope(shield=True), suppress(DestinationError):
                await self._dav.delete(record)

    async def _make_ours(self) -> None:
        for path in ((), _STAGING[:1], _STAGING, _OWNERS):
            if not await self._dav.make(*path):
                raise DestinationError(f"{self._dav.url}: a file has the name of our folder {'/'.join(path)}")

    async def _stage(self, path: PathParts, data: SpooledFile) -> None:
        async with self._turns:
            # A server may carry out what was given up, after we deleted it; a big file is then swept a day later.
            with anyio.CancelScope(shield=data.size <= BLOCK):
                await self._dav.put(path, data)

    async def _place(self, file: _OnItsWay, new: list[_Placed], places: dict[str, tuple[PathParts, PathParts]]) -> None:
        async with self._turns:
            folder: PathParts = ()
            for part in file.wanted[:-1]:
                for (name,) in candidate_paths((part,), file.task, self._on_conflict, file.what):
                    if await self._dav.make(*folder, name):
                        folder = (*folder, name)
                        break
            for final in candidate_paths((*folder, file.wanted[-1]), file.task, self._on_conflict, file.what):
                key = collision_key(final)
                async with self._names.setdefault(key, anyio.Lock()):
                    with anyio.CancelScope(shield=True):  # a move is not given up half-way
                        if key not in places and await self._take(final, file, new):
                            places[key] = (file.staged, final)
                            return

    async def _take(self, final: PathParts, file: _OnItsWay, new: list[_Placed]) -> bool:
        """Move a file to a name; False if that is another's."""
        digest = hashlib.sha256(collision_key(final).encode()).hexdigest()
        owner = (*_OWNERS, digest[:2], digest[2:40])
        whose = await self._dav.read(owner)
        if whose is None and not await self._dav.has(final):
            await self._dav.make(*owner[:-1])
            if await self._dav.move(file.record, owner, overwrite=False, verb="COPY"):
                placed = _Placed(file.staged, final, owner)
                new.append(placed)
                if await self._dav.move(file.staged, final, overwrite=False):
                    return True
                new.remove(placed)  # somebody else put something there just now
                await self._dav.delete(owner)
            else:
                whose = await self._dav.read(owner)
        if whose != file.task and self._on_conflict != "overwrite":
            return False
        # To replace a collection is to delete all that is in it.
        return not await self._dav.is_collection(final) and await self._dav.move(file.staged, final, overwrite=True)

    async def _take_back(self, new: Sequence[_Placed], staged: Iterable[PathParts]) -> None:
        """Delete what is new, as far as the server is there; what stays is replaced by the task's next attempt."""
        with suppress(DestinationError):
            for placed in new:
                if not await self._dav.has(placed.staged):
                    await self._dav.delete(placed.final)
                await self._dav.delete(placed.owner)
            for path in staged:
                await self._dav.delete(path)
