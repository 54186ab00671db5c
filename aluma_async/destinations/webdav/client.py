"""``WebDavClient``: the WebDAV methods (RFC 4918) that the destination uses."""

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path as FilePath
from typing import NamedTuple, TypeAlias
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp
import anyio
from aiohttp.hdrs import WWW_AUTHENTICATE
from yarl import URL

from aluma_async.config.tls import ssl_context
from aluma_async.connections import GuardedConnector, close_connection
from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.destinations.webdav import responses
from aluma_async.destinations.webdav.body import Body, ProgressDeadline
from aluma_async.destinations.webdav.responses import (
    LOCKED,
    MOVED,
    NO_SPACE,
    NOT_ALLOWED,
    NOT_FOUND,
    NOT_IMPLEMENTED,
    PAGE_HINT,
    PRECONDITION_FAILED,
    TOO_MANY,
)
from aluma_async.exceptions import DestinationUnavailable
from aluma_async.policy.naming import INTERNAL_FOLDER

Path: TypeAlias = Sequence[str]
"""The parts of a path below the root."""

_KEEP_ALIVE_SECONDS = 15.0  # less than the idle time-out of common load balancers
REQUEST_SECONDS = 20.0
"""Longest duration of a request about a small file, because a response may never come, or never end."""
_SUCCESS = (200, 201, 204)
_MOVED_OR_COPIED = (201, 204)
_MISSING = -1
"""The size of a file that does not exist."""
_MAX_KNOWN_COLLECTIONS = 10_000
_MAX_RECORD_BYTES = 4096
"""Size above which a file is not one of the exporter's small internal files."""
_READS = ("GET", "HEAD", "PROPFIND")
_CONSISTENT_SECONDS = (0.1, 0.5)
"""Delays between attempts to verify a file, because a server may show it a moment later."""
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_LOCKED_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Delays between attempts while a path is locked, because some servers lock a path during another request, or while
there are too many requests."""


class Existing(NamedTuple):
    """A file or collection on the server."""

    is_collection: bool
    """Also True if the server redirects the path or refuses to list it."""
    size: int | None
    """None if the server reports no size."""


class _Response(NamedTuple):
    """A response whose status is one of the accepted ones."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def open_session(headers: Mapping[str, str], ca_file: FilePath | None = None) -> aiohttp.ClientSession:
    """Open a session that sends ``headers`` with each request. The caller closes it.

    ``ca_file`` contains additional certificate authorities (PEM). Raises ``ConfigError``.
    """
    return aiohttp.ClientSession(
        connector=GuardedConnector(ssl=ssl_context(ca_file), keepalive_timeout=_KEEP_ALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
    )


class WebDavClient:
    """Sends requests for paths below ``url``; ``session`` adds the credentials, so nothing else may use it."""

    def __init__(self, session: aiohttp.ClientSession, url: str, request_seconds: float = REQUEST_SECONDS) -> None:
        """``request_seconds``: longest duration of a request about a small file."""
        self._session = session
        self._request_seconds = request_seconds
        self.url = url.rstrip("/")
        # Concurrent requests for one collection could fail. Each has its own lock, because a request may take long.
        self._mkcol_locks: WeakValueDictionary[tuple[str, ...], anyio.Lock] = WeakValueDictionary()
        self._known_collections: set[tuple[str, ...]] = set()
        """Collections that existed when they were last used."""
        self._size_method = "HEAD"
        self.refused_bytes = 0
        """Size of the largest file for which the server had no space since the last probe, at most ``BLOCK``."""

    async def put(self, path: Path, data: SpooledFile) -> None:
        """Create or replace a file."""
        headers = {"Content-Length": str(data.size), "Content-Type": "application/octet-stream"}
        await self._send("PUT", path, _SUCCESS, headers=headers, data=data, size=data.size)

    async def move(self, source: Path, target: Path, *, overwrite: bool, method: str = "MOVE", size: int = 0) -> bool:
        """Move (or COPY) a file of some size; return False if the target exists and ``overwrite`` is False."""
        headers = {"Destination": str(self._url(target)), "Overwrite": "T" if overwrite else "F"}
        accepted = (*_MOVED_OR_COPIED, PRECONDITION_FAILED)
        response = await self._send(method, source, accepted, headers=headers, target=target, size=size)
        return response.status != PRECONDITION_FAILED

    async def mkcol(self, *path: str) -> bool:
        """Create a collection if it does not exist; return False if a file has its name."""
        if path in self._known_collections:
            return True
        lock = self._mkcol_locks.setdefault(path, anyio.Lock())
        try:
            with anyio.fail_after(self._request_seconds):
                await lock.acquire()
        except TimeoutError:
            raise self._no_response("MKCOL", "TimeoutError") from None
        try:
            return path in self._known_collections or await self._mkcol(path)
        finally:
            lock.release()

    async def _mkcol(self, path: tuple[str, ...]) -> bool:
        response = await self._send("MKCOL", (*path, ""), (*_SUCCESS, NOT_ALLOWED))
        if response.status == NOT_ALLOWED:
            existing = await self.find(path)
            if existing is None or not existing.is_collection:
                return False
        if len(self._known_collections) >= _MAX_KNOWN_COLLECTIONS:
            self._known_collections.clear()
        self._known_collections.add(path)
        return True

    async def find(self, path: Path, *, by_head: bool = False) -> Existing | None:
        """Return what exists at a path; None if nothing does.

        ``by_head``: without PROPFIND, regard what HEAD does not redirect as a file. Otherwise it may be a collection.
        """
        accepted: tuple[int, ...] = (207, *MOVED, NOT_FOUND, NOT_ALLOWED, NOT_IMPLEMENTED)
        status, _, body = await self._send("PROPFIND", path, accepted, headers={"Depth": "0"})
        if by_head and status in (NOT_ALLOWED, NOT_IMPLEMENTED):
            accepted = (*_SUCCESS, *MOVED, NOT_FOUND, NOT_ALLOWED)
            status = (await self._send("HEAD", path, accepted)).status
            if status == 200:
                return Existing(is_collection=False, size=None)
        if status == NOT_FOUND:
            return None
        return Existing(status != 207 or responses.names_collection(body), responses.content_length(body))

    async def size(self, path: Path) -> int | None:
        """Return the size of a file, -1 if it does not exist, or None if the server does not report sizes."""
        if self._size_method == "HEAD":
            accepted: tuple[int, ...] = (*_SUCCESS, *MOVED, NOT_FOUND, NOT_ALLOWED)
            status, headers, _ = await self._send("HEAD", path, accepted, headers={"Accept-Encoding": "identity"})
            length = headers.get("Content-Length", "")
            if status == NOT_FOUND:
                return _MISSING
            is_reported = status == 200 and length.isdecimal() and "Content-Encoding" not in headers
            if is_reported and int(length):
                return int(length)
            if not is_reported:
                self._size_method = "PROPFIND"  # so that each further file costs one request
        # Also for an empty file, because some servers answer each HEAD with the length 0.
        accepted = (207, NOT_FOUND, NOT_ALLOWED, NOT_IMPLEMENTED)
        status, _, body = await self._send("PROPFIND", path, accepted, headers={"Depth": "0"})
        if status == 207 and (size := responses.content_length(body)) is not None:
            return size
        return _MISSING if status == NOT_FOUND else None

    async def verify_size(self, path: Path, size: int, subject: str) -> None:
        """Compare a stored file with the size that it must have, if the server reports sizes.

        Raises ``DestinationUnavailable`` if it is missing or has another size, whatever the server confirmed before.
        """
        for delay in (*_CONSISTENT_SECONDS, None):
            stored = await self.size(path)
            if stored in (size, None):
                return
            if delay:
                await anyio.sleep(delay)
                continue
            state = "does not exist" if stored == _MISSING else f"has {stored} bytes instead of {size}"
            raise DestinationUnavailable(
                f"{subject}: the server has confirmed it, but it {state}",
                hint="Look into the log of the WebDAV server, and check its storage and the proxies in front of it.",
            )

    async def verify_gone(self, path: Path, subject: str) -> None:
        """Raise ``DestinationUnavailable`` if a file exists whose MOVE was confirmed.

        The size of the target alone does not show whether the MOVE had an effect, if it replaces a file of that size.
        """
        if await self.exists(path):
            raise DestinationUnavailable(
                f"{subject}: MOVE: the server has confirmed it, but the old name still exists", hint=PAGE_HINT
            )

    def clear_cache(self) -> None:
        """Forget which collections exist, and how the server reports sizes."""
        self._known_collections.clear()
        self._size_method = "HEAD"

    async def read(self, path: Path, max_bytes: int = _MAX_RECORD_BYTES) -> str | None:
        """Return the text of a small internal file; None if it does not exist.

        Raises ``DestinationUnavailable`` if the response is a web page, or cannot be such a file for another reason.
        """
        response = await self._send("GET", path, (200, NOT_FOUND), headers={"Accept-Encoding": "identity"})
        if response.status == NOT_FOUND:
            return None
        if len(response.body) > max_bytes or response.body.lstrip().startswith(b"<"):
            raise DestinationUnavailable(
                f"{self.url}: GET: the response is not the exporter's internal file (owner record)", hint=PAGE_HINT
            )
        return response.body.decode(errors="replace")

    async def digest(self, path: Path) -> str | None:
        """Return the SHA-256 of a file's content; None if it does not exist."""
        digest = hashlib.sha256()
        identity = {"Accept-Encoding": "identity"}
        response = await self._send("GET", path, (200, NOT_FOUND), headers=identity, receive=digest.update)
        return digest.hexdigest() if response.status == 200 else None

    async def exists(self, path: Path) -> bool:
        """Return whether a file or collection exists."""
        accepted = (*_SUCCESS, *MOVED, NOT_FOUND, NOT_ALLOWED)  # some servers redirect or refuse for a collection
        return (await self._send("HEAD", path, accepted)).status != NOT_FOUND

    async def modified_times(self, path: Path, now: float | None = None) -> dict[str, float]:
        """Return the modification time of each file in a collection, in seconds since 1970.

        ``now``: the time here, for which the times are corrected if the server's clock differs. Incomplete for a very
        large collection, because only the first part of the response is read.
        """
        response = await self._send("PROPFIND", (*path, ""), (207,), headers={"Depth": "1"})
        ahead = 0.0
        with suppress(ValueError):
            date = parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
            ahead = date - now if now is not None else 0.0
        return {name: modified_at - ahead for name, modified_at in responses.modified_times(response.body)}

    async def delete(self, path: Path) -> None:
        """Delete a file if it exists."""
        await self._send("DELETE", path, (*_SUCCESS, NOT_FOUND))

    def _url(self, path: Path) -> URL:
        return URL("/".join((self.url, *(quote(part, safe="") for part in path))), encoded=True)

    def _no_response(self, method: str, reason: str) -> DestinationUnavailable:
        hint = "Check that the WebDAV server is running and the url is right."
        return DestinationUnavailable(f"{self.url}: {method}: {reason}", hint=hint)

    async def _send(
        self,
        method: str,
        path: Path,
        accepted_statuses: Container[int],
        *,
        headers: dict[str, str] | None = None,
        data: SpooledFile | None = None,
        size: int = 0,
        target: Path | None = None,
        receive: Callable[[bytes], None] | None = None,
    ) -> _Response:
        """Send a request until its path is not locked. ``receive`` gets the whole body of a response, in chunks."""
        for delay in (*_LOCKED_SECONDS, None):
            if method in _READS:  # a cache in front of the server would hide what other exporters have done
                headers = {"Cache-Control": "no-cache", **(headers or {})}
            try:
                limit = ProgressDeadline(self._request_seconds, size)
                body = Body(data, limit) if data and data.size > BLOCK else data and await data.read_all()
                with limit.scope:
                    async with self._session.request(
                        method, self._url(path), headers=headers, data=body, allow_redirects=False
                    ) as response:
                        status, content = response.status, b""
                        while len(content) < BLOCK and (chunk := await response.content.read(BLOCK)):
                            if receive and status == 200:
                                limit.extend()
                                receive(chunk)
                            else:
                                content += chunk
                if limit.scope.cancelled_caught:
                    raise TimeoutError
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # Only the type, because the message may contain URLs, and so names from documents.
                raise self._no_response(method, type(error).__name__) from error
            # A 201 may contain a page, like those of Apache; a 200 with a page is not the answer of a WebDAV server.
            page = status == 200 and method in ("PUT", "MKCOL") and response.content_type in _PAGE_TYPES
            if status in accepted_statuses and not page:
                return _Response(status, response.headers, content)
            if status >= 500:
                close_connection(response)
            if status not in (LOCKED, TOO_MANY) or delay is None:
                self.clear_cache()
                if status == NO_SPACE:
                    self.refused_bytes = max(self.refused_bytes, min(size, BLOCK))
                raise responses.error_of(
                    status,
                    f"{self.url}: {method}: {status} {response.reason or ''}".rstrip(),
                    internal=(*(target or path), "")[0] in ("", INTERNAL_FOLDER),
                    moves=target is not None,
                    challenges=response.headers.getall(WWW_AUTHENTICATE, []),
                )
            await anyio.sleep(delay)
        raise AssertionError("the last delay is None")
