"""``Download``: the bytes of one file, over as many connections as it takes; and where a download may be led.

A body that breaks off goes on where it broke if the server gave it an ETag (Range, If-Range). The token goes to
the API's own origin only; another host has to be named in the settings, and may not be one of our own network.
"""

import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Self, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from msgspec import Struct
from yarl import URL

from aluma_async.aluma import responses
from aluma_async.clock import loop_time
from aluma_async.exceptions import InvalidResponse, SourceError, Unavailable
from aluma_async.models import ExportFile
from aluma_async.ports import RequestLimiter

Fetch: TypeAlias = Callable[[Mapping[str, str]], AbstractAsyncContextManager[aiohttp.ClientResponse]]
"""Sends the request for the file with further headers."""

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 3
_MOST_RESUMPTIONS = 5
_WHOLE = {"Accept-Encoding": "identity"}  # of what is compressed a short one looks like a whole one
_WINDOW_SECONDS = 60.0
"""The time over which a rate is measured; only waiting for the network counts."""


class DownloadLimits(Struct, frozen=True, kw_only=True):
    """What a download must keep to; 0: no such limit."""

    hosts: Collection[str] = ()
    """Hosts besides the API's to which a download may be redirected."""
    max_bytes: float = 0
    """Of one file."""
    min_bytes_per_second: float = 0


class Download:
    """The bytes of a file, once. Raises ``SourceError`` unless they are whole, of the promised kind and in time."""

    def __init__(
        self, what: str, file: ExportFile, fetch: Fetch, request_limiter: RequestLimiter, limits: DownloadLimits
    ) -> None:
        self._what = what
        self._file = file
        self._fetch = fetch
        self._permits = request_limiter
        self._limits = limits
        self._connection: AbstractAsyncContextManager[aiohttp.ClientResponse] | None = None
        self._count = 0
        self._size: int | None = None
        self._version = ""
        self._pace = _Slowest(limits.min_bytes_per_second)
        self._resumptions, self._resumed_at = 0, -1

    async def __aenter__(self) -> AsyncIterator[bytes]:
        """Send the request; its bytes come as they arrive."""
        self._response = await self._open({})
        try:
            responses.check_download(self._what, self._file, self._response)
        except BaseException:
            await self._close()
            raise
        self._size = self._response.content_length
        etag = self._response.headers.get("ETag", "")
        self._version = "" if etag.startswith("W/") else etag  # a weak one does not promise the same bytes
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                piece = await self._piece()
                break
            except (InvalidResponse, Unavailable):
                self._resumptions += 1
                if not self._version or self._count == self._resumed_at or self._resumptions > _MOST_RESUMPTIONS:
                    raise
                self._resumed_at = self._count
                await self._resume()
        if not piece:
            if self._size is not None and self._count != self._size:
                raise InvalidResponse(f"{self._what}: {self._count} bytes came, {self._size} were announced")
            raise StopAsyncIteration
        self._count += len(piece)
        if 0 < self._limits.max_bytes < max(self._count, self._size or 0):
            raise SourceError(
                f"{self._what}: more than {self._limits.max_bytes:.0f} bytes",
                hint="limits.max_file_bytes says how long a file may be.",
            )
        await self._permits.consume_bytes(len(piece))
        return piece

    async def _piece(self) -> bytes:
        """What has arrived; empty at the end. Raises ``Unavailable`` if it comes too slowly."""
        content, waited = self._response.content, 0.0
        try:
            piece = content.read_nowait()
            if not piece and not content.at_eof():
                asked = loop_time()
                piece = await content.readany()
                waited = loop_time() - asked
        except responses.NO_ANSWER as error:
            raise responses.lost(self._what, error, changes=False) from None
        if piece and not self._pace.lets(waited, len(piece)):
            raise Unavailable(
                f"{self._what}: slower than {self._limits.min_bytes_per_second:.0f} bytes a second",
                hint="limits.min_bytes_per_second says what is too slow.",
            )
        return piece

    async def _resume(self) -> None:
        """Ask for what is missing. Raises ``InvalidResponse`` if the file is another one by now."""
        await self._close()
        self._response = await self._open({"Range": f"bytes={self._count}-", "If-Range": self._version})
        self._size = responses.check_resumption(self._what, self._response, self._count, self._size)

    async def _open(self, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        connection = self._fetch({**_WHOLE, **headers} if headers else _WHOLE)
        response = await connection.__aenter__()
        self._connection = connection
        return response

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            await connection.__aexit__(None, None, None)


class _Slowest:
    """Tells a transfer that is only slow from one that is kept open for nothing."""

    def __init__(self, bytes_per_second: float) -> None:
        self._least = bytes_per_second * _WINDOW_SECONDS
        self._seconds = 0.0
        self._bytes = 0

    def lets(self, seconds: float, count: int) -> bool:
        """Whether to go on after ``count`` bytes that were waited for so long."""
        self._seconds += seconds
        self._bytes += count
        if self._seconds < _WINDOW_SECONDS:
            return True
        enough = self._bytes >= self._least
        self._seconds = self._bytes = 0
        return enough


def redirected(what: str, url: URL, location: str, api: URL, hosts: Collection[str]) -> URL:
    """Where a redirect leads. Raises ``SourceError`` if a download must not go there."""
    try:
        target = url.join(URL(location, encoded=True))
        origin, host = target.origin(), target.host or ""
    except ValueError:
        raise SourceError(f"{what}: redirected to something that is no URL") from None
    if origin == api.origin():
        return target
    if target.scheme != "https" or host not in hosts or target.user is not None:
        raise SourceError(
            f"{what}: redirected to another host",
            hint=f'If Aluma keeps files there, download_hosts = ["{host}"] in [aluma] allows it (https only).',
        )
    if _is_ours(host):
        raise SourceError(f"{what}: redirected to an address of a private network")
    return target


class PublicResolver(AbstractResolver):
    """Resolves names with ``resolver``; the given hosts only if they are not on a network of our own."""

    def __init__(self, resolver: AbstractResolver, hosts: Collection[str]) -> None:
        self._resolver = resolver
        self._hosts = frozenset(hosts)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name. Raises ``OSError``."""
        found = await self._resolver.resolve(host, port, family)
        if host in self._hosts and any(_is_ours(result["host"]) for result in found):
            raise OSError(None, f"{host} is on a private network")
        return found

    async def close(self) -> None:
        """Close what it resolves with."""
        await self._resolver.close()


def _is_ours(host: str) -> bool:
    """Whether an address is of a private network, the machine itself or the like; a name is not."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
