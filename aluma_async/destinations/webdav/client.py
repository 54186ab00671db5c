"""``WebDavClient``: the WebDAV methods (RFC 4918) that the destination uses; maps responses to errors."""

import re
from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path as FilePath
from typing import NamedTuple, TypeAlias
from urllib.parse import quote, unquote

import aiohttp
import anyio
import anyio.to_thread
from aiohttp.hdrs import WWW_AUTHENTICATE
from yarl import URL

from aluma_async.config.tls import ssl_context
from aluma_async.connections import GuardedConnector, close_connection
from aluma_async.destinations.common.chunks import BLOCK
from aluma_async.destinations.common.spool import SpooledFile
from aluma_async.exceptions import DestinationError, DestinationUnavailable
from aluma_async.policy.naming import INTERNAL_FOLDER

Path: TypeAlias = Sequence[str]
"""The parts of a path below the root."""

_KEEP_ALIVE_SECONDS = 15.0  # less than the idle time-out of common load balancers
_RESPONSE_SECONDS = 120.0
"""Longest wait for a response: a server may copy or scan a big file on PUT and MOVE."""
_REQUEST_SECONDS = 240.0
"""Longest duration of a request without the time for its body, because a response may never end."""
_MIN_UPLOAD_BYTES_PER_SECOND = 1024
_SUCCESS = (200, 201, 204)
_MOVED_OR_COPIED = (201, 204)
_MISSING = -1
"""The size of a file that does not exist."""
_MAX_KNOWN_COLLECTIONS = 10_000
_MAX_RECORD_BYTES = 4096
"""Size above which a file is not one of the exporter's small internal files."""
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
_CONTENT_LENGTH = re.compile(rb"getcontentlength[^>]*>\s*(\d+)")
_UNSUPPORTED_SCHEMES = ("Digest", "Negotiate", "NTLM", "Kerberos")
_COLLECTION = re.compile(rb"resourcetype[^>]*>\s*<[^/>]*collection")
_HREF = re.compile(r"href[^>]*>\s*([^<]*?)/?\s*<")
_LAST_MODIFIED = re.compile(r"getlastmodified[^>]*>\s*([^<]*?)\s*<")
_MOVED = (301, 308)
_MOVE_REFUSED = (400, 403, 405, 409, 501, 502)
"""Responses to COPY and MOVE without ``dav_methods``, or with a Destination header that a proxy did not rewrite."""
_NOT_FOUND, _NOT_ALLOWED, _CONFLICT, _PRECONDITION_FAILED, _LOCKED = 404, 405, 409, 412, 423
_LOCKED_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Delays between attempts while a path is locked: some servers lock a path during another request."""


_LOGIN_HINT = "Check the user and password (or token) and the write permission."
PAGE_HINT = "Check that the url is a WebDAV folder, and that no log-in page or proxy answers in the server's place."
_MOVE_HINT = "Allow the methods COPY and MOVE, and let proxies in front of the server rewrite the Destination header."


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
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_RESPONSE_SECONDS),
    )


class WebDavClient:
    """Sends requests for paths below ``url``; ``session`` adds the credentials, so nothing else may use it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url.rstrip("/")
        self._mkcol_lock = anyio.Lock()  # concurrent requests for one collection could fail
        self._known_collections: set[tuple[str, ...]] = set()
        """Collections that existed when they were last used."""
        self._size_method = "HEAD"

    async def put(self, path: Path, data: SpooledFile) -> None:
        """Create or replace a file."""
        headers = {"Content-Length": str(data.size), "Content-Type": "application/octet-stream"}
        body = _Body(data) if data.size > BLOCK else await data.read_all()
        await self._send("PUT", path, _SUCCESS, headers=headers, data=body)

    async def move(self, source: Path, target: Path, *, overwrite: bool, method: str = "MOVE") -> bool:
        """Move (or COPY) a file; return False if the target exists and ``overwrite`` is False."""
        headers = {"Destination": str(self._url(target)), "Overwrite": "T" if overwrite else "F"}
        accepted = (*_MOVED_OR_COPIED, _PRECONDITION_FAILED)
        response = await self._send(method, source, accepted, headers=headers, target=target)
        return response.status != _PRECONDITION_FAILED

    async def mkcol(self, *path: str) -> bool:
        """Create a collection if it does not exist; return False if a file has its name."""
        if path in self._known_collections:
            return True
        async with self._mkcol_lock:
            response = await self._send("MKCOL", (*path, ""), (*_SUCCESS, _NOT_ALLOWED))
            if response.status == _NOT_ALLOWED and not await self.is_collection(path):
                return False
            if len(self._known_collections) >= _MAX_KNOWN_COLLECTIONS:
                self._known_collections.clear()
            self._known_collections.add(path)
        return True

    async def is_collection(self, path: Path) -> bool:
        """Return whether a path is a collection; also True if the server redirects it or refuses to list it."""
        accepted = (207, *_MOVED, _NOT_FOUND, _NOT_ALLOWED)
        status, _, body = await self._send("PROPFIND", path, accepted, headers={"Depth": "0"})
        return status != _NOT_FOUND and (status != 207 or bool(_COLLECTION.search(body)))

    async def size(self, path: Path) -> int | None:
        """Return the size of a file, -1 if it does not exist, or None if the server does not report sizes."""
        if self._size_method == "HEAD":
            accepted: tuple[int, ...] = (*_SUCCESS, *_MOVED, _NOT_FOUND, _NOT_ALLOWED)
            status, headers, _ = await self._send("HEAD", path, accepted, headers={"Accept-Encoding": "identity"})
            length = headers.get("Content-Length", "")
            if status == _NOT_FOUND:
                return _MISSING
            if status == 200 and length.isdecimal() and "Content-Encoding" not in headers:
                return int(length)
            self._size_method = "PROPFIND"  # so that each further file costs one request
        status, _, body = await self._send("PROPFIND", path, (207, _NOT_FOUND, _NOT_ALLOWED), headers={"Depth": "0"})
        match = _CONTENT_LENGTH.search(body) if status == 207 else None
        return _MISSING if status == _NOT_FOUND else int(match[1]) if match else None

    async def verify_size(self, path: Path, size: int, subject: str) -> None:
        """Compare a stored file with the size that it must have, if the server reports sizes.

        Raises ``DestinationUnavailable`` if it is missing or has another size, whatever the server confirmed before.
        """
        stored = await self.size(path)
        if stored not in (size, None):
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

    async def read(self, path: Path) -> str | None:
        """Return the text of a small internal file; None if it does not exist.

        Raises ``DestinationUnavailable`` if the response is a web page, or cannot be such a file for another reason.
        """
        response = await self._send("GET", path, (200, _NOT_FOUND), headers={"Accept-Encoding": "identity"})
        if response.status == _NOT_FOUND:
            return None
        if len(response.body) > _MAX_RECORD_BYTES or response.body.lstrip().startswith(b"<"):
            raise DestinationUnavailable(
                f"{self.url}: GET: the response is not the exporter's internal file (owner record)", hint=PAGE_HINT
            )
        return response.body.decode(errors="replace")

    async def has_content(self, path: Path, data: SpooledFile) -> bool:
        """Return whether a file has this content; False if it is too large to be compared."""
        if data.size >= BLOCK:
            return False
        response = await self._send("GET", path, (200, _NOT_FOUND), headers={"Accept-Encoding": "identity"})
        return response.status == 200 and response.body == await data.read_all()

    async def exists(self, path: Path) -> bool:
        """Return whether a file or collection exists."""
        accepted = (*_SUCCESS, *_MOVED, _NOT_FOUND, _NOT_ALLOWED)  # some servers redirect or refuse for a collection
        return (await self._send("HEAD", path, accepted)).status != _NOT_FOUND

    async def modified_times(self, path: Path) -> dict[str, float]:
        """Return the modification time of each file in a collection, in seconds since 1970.

        Incomplete for a very large collection, because only the first part of the response is read.
        """
        response = await self._send("PROPFIND", (*path, ""), (207,), headers={"Depth": "1"})
        modified = {}
        for entry in response.body.decode(errors="replace").split("response>"):
            href, timestamp = _HREF.search(entry), _LAST_MODIFIED.search(entry)
            with suppress(ValueError):
                if href and timestamp:
                    modified[unquote(href[1].rpartition("/")[2])] = parsedate_to_datetime(timestamp[1]).timestamp()
        return modified

    async def delete(self, path: Path) -> None:
        """Delete a file if it exists."""
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
        target: Path | None = None,
    ) -> _Response:
        seconds = _REQUEST_SECONDS + int((headers or {}).get("Content-Length", 0)) / _MIN_UPLOAD_BYTES_PER_SECOND
        for delay in (*_LOCKED_SECONDS, None):
            try:
                with anyio.fail_after(seconds):
                    async with self._session.request(
                        method, self._url(path), headers=headers, data=data, allow_redirects=False
                    ) as response:
                        status, body = response.status, b""
                        while len(body) < BLOCK and (chunk := await response.content.read(BLOCK)):
                            body += chunk
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # Only the type, because the message may contain URLs, and so names from documents.
                raise DestinationUnavailable(
                    f"{self.url}: {method}: {type(error).__name__}",
                    hint="Check that the WebDAV server is running and the url is right.",
                ) from error
            # A 201 may contain a page, like those of Apache; a 200 with a page is not the answer of a WebDAV server.
            page = status == 200 and method in ("PUT", "MKCOL") and response.content_type in _PAGE_TYPES
            if status in accepted_statuses and not page:
                return _Response(status, response.headers, body)
            if status >= 500:
                close_connection(response)
            if status != _LOCKED or delay is None:
                self.clear_cache()
                internal = (*(target or path), "")[0] in ("", INTERNAL_FOLDER)
                message = f"{self.url}: {method}: {status} {response.reason or ''}".rstrip()
                if status == 401:
                    raise DestinationUnavailable(
                        message, hint=_login_hint(response.headers.getall(WWW_AUTHENTICATE, []))
                    )
                if internal and target and status in _MOVE_REFUSED:
                    raise DestinationUnavailable(message, hint=_MOVE_HINT)
                raise _map_error(status, message, internal=internal)
            await anyio.sleep(delay)
        raise AssertionError("the last delay is None")


class _Body:
    """The content of a file. Restarts for each request, because aiohttp repeats a PUT whose connection breaks."""

    def __init__(self, data: SpooledFile) -> None:
        self._data = data.data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._data.seek(0)
        while chunk := await anyio.to_thread.run_sync(self._data.read, BLOCK):
            yield chunk


def _login_hint(challenges: Sequence[str]) -> str:
    offered = re.findall(r"(?:^|,)\s*(\w+)", ",".join(challenges).lower())
    unsupported = [scheme for scheme in _UNSUPPORTED_SCHEMES if scheme.lower() in offered]
    if not unsupported or "basic" in offered or "bearer" in offered:
        return _LOGIN_HINT
    return f"Enable basic authentication or bearer tokens on the server; it offers {' and '.join(unsupported)}."


def _map_error(status: int, message: str, *, internal: bool) -> DestinationError:
    """Return the error for a response; a refusal of an internal path concerns all tasks, not only one file."""
    if status == 403 and internal:
        return DestinationUnavailable(message, hint=_LOGIN_HINT)
    if 200 <= status < 300 and status != 207:  # 207 reports that a part of the request failed
        return DestinationUnavailable(message, hint=PAGE_HINT)
    if internal and (status in (_NOT_FOUND, _NOT_ALLOWED, _CONFLICT) or 300 <= status < 400):
        return DestinationUnavailable(message, hint="Check that the url is a WebDAV folder and that its parent exists.")
    if status == 507:
        return DestinationUnavailable(message, hint="Free space on the WebDAV server.", for_all=True)
    if status >= 500 or status in (408, 429):
        return DestinationUnavailable(message, hint="Check that the WebDAV server is healthy.")
    return DestinationError(message, hint="Look into the log of the WebDAV server for the reason.")
