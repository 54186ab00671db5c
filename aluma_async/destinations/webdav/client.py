"""``Dav``: the verbs of WebDAV (RFC 4918) that are needed, with what a server's answers mean for us."""

import re
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path as FilePath
from typing import TypeAlias
from urllib.parse import quote, unquote

import aiohttp
import anyio
import anyio.to_thread
from yarl import URL

from aluma_async.config.tls import ssl_context
from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.policy.naming import INTERNAL_FOLDER

Path: TypeAlias = Sequence[str]
"""Below the root, part by part."""

_KEEP_ALIVE_SECONDS = 15.0  # shorter than what load balancers grant
_ANSWER_SECONDS = 120.0
"""A server may copy or scan a big file when it is put or moved."""
_DONE = (200, 201, 204)
_COLLECTION = re.compile(rb"resourcetype[^>]*>\s*<[^/>]*collection")
_HREF = re.compile(r"href[^>]*>\s*([^<]*?)/?\s*<")
_CHANGED = re.compile(r"getlastmodified[^>]*>\s*([^<]*?)\s*<")
_MOVED = (301, 308)
_NO_SUCH, _NOT_ALLOWED, _CONFLICT, _PRECONDITION, _LOCKED = 404, 405, 409, 412, 423
_LOCKED_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses, as long as a name is locked: some servers lock what another request is at work on."""


def open_session(headers: Mapping[str, str], ca_file: FilePath | None = None) -> aiohttp.ClientSession:
    """Make a session that sends ``headers`` with each request; ``ca_file`` names further authorities (PEM).

    Raises ``ConfigError``. It has to be closed.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl_context(ca_file), keepalive_timeout=_KEEP_ALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_ANSWER_SECONDS),
    )


class Dav:
    """What is below one URL. ``session`` sends the credentials, and may be used for nothing else."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url.rstrip("/")
        self._making = anyio.Lock()  # two who make one collection at once would meet
        self._known: set[tuple[str, ...]] = set()
        """Collections that are there, as far as we know."""

    async def put(self, path: Path, data: SpooledFile) -> None:
        """Write a file, or write it anew."""
        headers = {"Content-Length": str(data.size), "Content-Type": "application/octet-stream"}
        body = _Body(data) if data.size > BLOCK else await data.read_all()
        await self._send("PUT", path, _DONE, headers=headers, data=body)

    async def move(self, source: Path, target: Path, *, overwrite: bool, verb: str = "MOVE") -> bool:
        """Give a file another name; False if something has that name, and must not be replaced."""
        headers = {"Destination": str(self._address(target)), "Overwrite": "T" if overwrite else "F"}
        status, _ = await self._send(verb, source, (*_DONE, _PRECONDITION), headers=headers)
        return status != _PRECONDITION

    async def make(self, *path: str) -> bool:
        """Make a collection, unless it is there; False if a file has its name."""
        if path in self._known:
            return True
        async with self._making:
            status, _ = await self._send("MKCOL", (*path, ""), (*_DONE, _NOT_ALLOWED))
            if status == _NOT_ALLOWED and not await self.is_collection(path):
                return False
            self._known.add(path)
        return True

    async def is_collection(self, path: Path) -> bool:
        """Whether files may be in it; what is led to the address with a slash, or tells nothing, is taken for one."""
        fine = (207, *_MOVED, _NO_SUCH, _NOT_ALLOWED)
        status, answer = await self._send("PROPFIND", path, fine, headers={"Depth": "0"})
        return status != _NO_SUCH and (status != 207 or bool(_COLLECTION.search(answer)))

    def forget(self) -> None:
        """Take no collection for known any more."""
        self._known.clear()

    async def read(self, path: Path) -> str | None:
        """Return what a small file of ours holds; None if it is not there."""
        status, text = await self._send("GET", path, (200, _NO_SUCH))
        return text.decode(errors="replace") if status == 200 else None

    async def has(self, path: Path) -> bool:
        """Whether something has that name."""
        status, _ = await self._send("HEAD", path, (*_DONE, *_MOVED, _NO_SUCH, _NOT_ALLOWED))  # of a collection, maybe
        return status != _NO_SUCH

    async def changed(self, path: Path) -> dict[str, float]:
        """Tell when each file in a collection was last changed, in seconds since 1970; of very many, some."""
        _, answer = await self._send("PROPFIND", (*path, ""), (207,), headers={"Depth": "1"})
        found = {}
        for entry in answer.decode(errors="replace").split("response>"):
            name, when = _HREF.search(entry), _CHANGED.search(entry)
            with suppress(ValueError):
                if name and when:
                    found[unquote(name[1].rpartition("/")[2])] = parsedate_to_datetime(when[1]).timestamp()
        return found

    async def delete(self, path: Path) -> None:
        """Delete a file, if it is there."""
        await self._send("DELETE", path, (*_DONE, _NO_SUCH))

    def _address(self, path: Path) -> URL:
        return URL("/".join((self.url, *(quote(part, safe="") for part in path))), encoded=True)

    async def _send(
        self, verb: str, path: Path, fine: Container[int], *, headers: dict[str, str] | None = None, data: object = None
    ) -> tuple[int, bytes]:
        for pause in (*_LOCKED_SECONDS, None):
            try:
                async with self._session.request(
                    verb, self._address(path), headers=headers, data=data, allow_redirects=False
                ) as reply:
                    status, body = reply.status, b""
                    while len(body) < BLOCK and (piece := await reply.content.read(BLOCK)):
                        body += piece
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # The message of an error may hold addresses, and so names from documents.
                raise DestinationUnavailable(
                    f"{self.url}: {verb}: {type(error).__name__}", hint="Is the server up, and is the url right?"
                ) from error
            if status in fine:
                return status, body
            if status != _LOCKED or pause is None:
                self.forget()
                ours = verb != "MOVE" and (*path, "")[0] in ("", INTERNAL_FOLDER)
                raise _told(status, f"{self.url}: {verb}: {status} {reply.reason or ''}".rstrip(), ours=ours)
            await anyio.sleep(pause)
        raise AssertionError  # the last pause is None


class _Body:
    """The bytes of a file; begun anew for each request, since aiohttp repeats a PUT whose connection breaks."""

    def __init__(self, data: SpooledFile) -> None:
        self._data = data.data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._data.seek(0)
        while piece := await anyio.to_thread.run_sync(self._data.read, BLOCK):
            yield piece


def _told(status: int, what: str, *, ours: bool) -> DestinationError:
    """Make ours of an answer that says no; what is refused under a name of ours is refused to everybody."""
    if status == 401 or (status == 403 and ours):
        return DestinationUnavailable(what, hint="Are user and password (or token) right, and may they write there?")
    if ours and (status in (_NO_SUCH, _NOT_ALLOWED, _CONFLICT) or 300 <= status < 400):
        return DestinationUnavailable(what, hint="Is the url that of a WebDAV folder, whose parent is there?")
    if status == 507:
        return DestinationUnavailable(what, hint="Is there space left?")
    if status >= 500 or status in (408, 429):
        return DestinationUnavailable(what, hint="Is the server well?")
    return DestinationError(what, hint="The server's own log may tell why it takes no such file.")
