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
_RESPONSE_SECONDS = 120.0
"""A server may copy or scan a big file when it is put or moved."""
_SUCCESS = (200, 201, 204)
_COLLECTION = re.compile(rb"resourcetype[^>]*>\s*<[^/>]*collection")
_HREF = re.compile(r"href[^>]*>\s*([^<]*?)/?\s*<")
_LAST_MODIFIED = re.compile(r"getlastmodified[^>]*>\s*([^<]*?)\s*<")
_MOVED = (301, 308)
_NOT_FOUND, _NOT_ALLOWED, _CONFLICT, _PRECONDITION_FAILED, _LOCKED = 404, 405, 409, 412, 423
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
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_RESPONSE_SECONDS),
    )


class WebDavClient:
    """What is below one URL. ``session`` sends the credentials, and may be used for nothing else."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url.rstrip("/")
        self._mkcol_lock = anyio.Lock()  # two who make one collection at once would meet
        self._known_collections: set[tuple[str, ...]] = set()
        """Collections that are there, as far as we know."""

    async def put(self, path: Path, data: SpooledFile) -> None:
        """Write a file, or write it anew."""
        headers = {"Content-Length": str(data.size), "Content-Type": "application/octet-stream"}
        body = _Body(data) if data.size > BLOCK else await data.read_all()
        await self._send("PUT", path, _SUCCESS, headers=headers, data=body)

    async def move(self, source: Path, target: Path, *, overwrite: bool, method: str = "MOVE") -> bool:
        """Give a file another name; False if something has that name, and must not be replaced."""
        headers = {"Destination": str(self._url(target)), "Overwrite": "T" if overwrite else "F"}
        status, _ = await self._send(method, source, (*_SUCCESS, _PRECONDITION_FAILED), headers=headers)
        return status != _PRECONDITION_FAILED

    async def mkcol(self, *path: str) -> bool:
        """Make a collection, unless it is there; False if a file has its name."""
        if path in self._known_collections:
            return True
        async with self._mkcol_lock:
            status, _ = await self._send("MKCOL", (*path, ""), (*_SUCCESS, _NOT_ALLOWED))
            if status == _NOT_ALLOWED and not await self.is_collection(path):
                return False
            self._known_collections.add(path)
        return True

    async def is_collection(self, path: Path) -> bool:
        """Whether files may be in it; what is led to the address with a slash, or tells nothing, is taken for one."""
        accepted_statuses = (207, *_MOVED, _NOT_FOUND, _NOT_ALLOWED)
        status, body = await self._send("PROPFIND", path, accepted_statuses, headers={"Depth": "0"})
        return status != _NOT_FOUND and (status != 207 or bool(_COLLECTION.search(body)))

    def clear_cache(self) -> None:
        """Take no collection for known any more."""
        self._known_collections.clear()

    async def read(self, path: Path) -> str | None:
        """Return what a small file of ours holds; None if it is not there."""
        status, text = await self._send("GET", path, (200, _NOT_FOUND))
        return text.decode(errors="replace") if status == 200 else None

    async def exists(self, path: Path) -> bool:
        """Whether something has that name."""
        status, _ = await self._send(
            "HEAD", path, (*_SUCCESS, *_MOVED, _NOT_FOUND, _NOT_ALLOWED)
        )  # of a collection, maybe
        return status != _NOT_FOUND

    async def modified_times(self, path: Path) -> dict[str, float]:
        """Tell when each file in a collection was last changed, in seconds since 1970; of very many, some."""
        _, body = await self._send("PROPFIND", (*path, ""), (207,), headers={"Depth": "1"})
        modified = {}
        for entry in body.decode(errors="replace").split("response>"):
            name, timestamp = _HREF.search(entry), _LAST_MODIFIED.search(entry)
            with suppress(ValueError):
                if name and timestamp:
                    modified[unquote(name[1].rpartition("/")[2])] = parsedate_to_datetime(timestamp[1]).timestamp()
        return modified

    async def delete(self, path: Path) -> None:
        """Delete a file, if it is there."""
        await self._send("DELETE", path, (*_SUCCESS, _NOT_FOUND))

    def _url(self, path: Path) -> URL:
        return URL("/".join((self.url, *(quote(part, safe="") for part in path))), encoded=True)

    async def _send(
        self,
        method: str,
        path: Path,
        accepted_statuses: Container[int],
        *,
        headers: dict[str, str] | None = None,
        data: object = None,
    ) -> tuple[int, bytes]:
        for pause in (*_LOCKED_SECONDS, None):
            try:
                async with self._session.request(
                    method, self._url(path), headers=headers, data=data, allow_redirects=False
                ) as response:
                    status, body = response.status, b""
                    while len(body) < BLOCK and (chunk := await response.content.read(BLOCK)):
                        body += chunk
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # The message of an error may hold addresses, and so names from documents.
                raise DestinationUnavailable(
                    f"{self.url}: {method}: {type(error).__name__}", hint="Is the server up, and is the url right?"
                ) from error
            if status in accepted_statuses:
                return status, body
            if status != _LOCKED or pause is None:
                self.clear_cache()
                internal = method != "MOVE" and (*path, "")[0] in ("", INTERNAL_FOLDER)
                raise _map_error(
                    status, f"{self.url}: {method}: {status} {response.reason or ''}".rstrip(), internal=internal
                )
            await anyio.sleep(pause)
        raise AssertionError  # the last pause is None


class _Body:
    """The bytes of a file; begun anew for each request, since aiohttp repeats a PUT whose connection breaks."""

    def __init__(self, data: SpooledFile) -> None:
        self._data = data.data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._data.seek(0)
        while chunk := await anyio.to_thread.run_sync(self._data.read, BLOCK):
            yield chunk


def _map_error(status: int, subject: str, *, internal: bool) -> DestinationError:
    """Make ours of an answer that says no; what is refused under a name of ours is refused to everybody."""
    if status == 401 or (status == 403 and internal):
        return DestinationUnavailable(subject, hint="Are user and password (or token) right, and may they write there?")
    if internal and (status in (_NOT_FOUND, _NOT_ALLOWED, _CONFLICT) or 300 <= status < 400):
        return DestinationUnavailable(subject, hint="Is the url that of a WebDAV folder, whose parent is there?")
    if status == 507:
        return DestinationUnavailable(subject, hint="Is there space left?")
    if status >= 500 or status in (408, 429):
        return DestinationUnavailable(subject, hint="Is the server well?")
    return DestinationError(subject, hint="The server's own log may tell why it takes no such file.")
