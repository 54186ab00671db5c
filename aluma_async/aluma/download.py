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
MAX_REDIRECTS = 3
_MAX_RESUMPTIONS = 5
_WHOLE = {"Accept-Encoding": "identity"}  # of what is compressed a short one looks like a whole one
_WINDOW_SECONDS = 60.0
"""The time over which a rate is measured; only waiting for the network counts."""


class DownloadLimits(Struct, frozen=True, kw_only=True):
    """What a download must keep to; 0: no such limit."""

    redirect_hosts: Collection[str] = ()
    """Hosts besides the API's to which a download may be redirected."""
    max_bytes: float = 0
    """Of one file."""
    min_bytes_per_second: float = 0


class Download:
    """The bytes of a file, once. Raises ``SourceError`` unless they are whole, of the promised kind and in time."""

    def __init__(
        self, operation: str, file: ExportFile, fetch: Fetch, request_limiter: RequestLimiter, limits: DownloadLimits
    ) -> None:
        self._operation = operation
        self._file = file
        self._fetch = fetch
        self._request_limiter = request_limiter
        self._limits = limits
        self._connection: AbstractAsyncContextManager[aiohttp.ClientResponse] | None = None
        self._count = 0
        self._size: int | None = None
        self._version = ""
        self._minimum_rate = _MinimumRate(limits.min_bytes_per_second)
        self._resumptions, self._resumed_at = 0, -1

    async def __aenter__(self) -> AsyncIterator[bytes]:
        """Send the request; its bytes come as they arrive."""
        self._response = await self._open({})
        try:
            responses.validate_download(self._operation, self._file, self._response)
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
                chunk = await self._read_chunk()
                break
            except (InvalidResponse, Unavailable):
                self._resumptions += 1
                if not self._version or self._count == self._resumed_at or self._resumptions > _MAX_RESUMPTIONS:
                    raise
                self._resumed_at = self._count
                await self._resume()
        if not chunk:
            if self._size is not None and self._count != self._size:
                raise InvalidResponse(f"{self._operation}: {self._count} bytes came, {self._size} were announced")
            raise StopAsyncIteration
        self._count += len(chunk)
        if 0 < self._limits.max_bytes < max(self._count, self._size or 0):
            raise SourceError(
                f"{self._operation}: more than {self._limits.max_bytes:.0f} bytes",
                hint="limits.max_file_bytes says how long a file may be.",
            )
        await self._request_limiter.consume_bytes(len(chunk))
        return chunk

    async def _read_chunk(self) -> bytes:
        """What has arrived; empty at the end. Raises ``Unavailable`` if it comes too slowly."""
        content, waited = self._response.content, 0.0
        try:
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                read_at = loop_time()
                chunk = await content.readany()
                waited = loop_time() - read_at
        except responses.TRANSPORT_ERRORS as error:
            raise responses.map_transport_error(self._operation, error, changes=False) from None
        if chunk and not self._minimum_rate.allows(waited, len(chunk)):
            raise Unavailable(
                f"{self._operation}: slower than {self._limits.min_bytes_per_second:.0f} bytes a second",
                hint="limits.min_bytes_per_second says what is too slow.",
            )
        return chunk

    async def _resume(self) -> None:
        """Ask for what is missing. Raises ``InvalidResponse`` if the file is another one by now."""
        await self._close()
        self._response = await self._open({"Range": f"bytes={self._count}-", "If-Range": self._version})
        self._size = responses.validate_range(self._operation, self._response, self._count, self._size)

    async def _open(self, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        connection = self._fetch({**_WHOLE, **headers} if headers else _WHOLE)
        response = await connection.__aenter__()
        self._connection = connection
        return response

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            await connection.__aexit__(None, None, None)


class _MinimumRate:
    """Tells a transfer that is only slow from one that is kept open for nothing."""

    def __init__(self, bytes_per_second: float) -> None:
        self._min_bytes = bytes_per_second * _WINDOW_SECONDS
        self._seconds = 0.0
        self._bytes = 0

    def allows(self, seconds: float, count: int) -> bool:
        """Whether to go on after ``count`` bytes that were waited for so long."""
        self._seconds += seconds
        self._bytes += count
        if self._seconds < _WINDOW_SECONDS:
            return True
        enough = self._bytes >= self._min_bytes
        self._seconds = self._bytes = 0
        return enough


def resolve_redirect(operation: str, url: URL, location: str, api: URL, redirect_hosts: Collection[str]) -> URL:
    """Where a redirect leads. Raises ``SourceError`` if a download must not go there."""
    try:
        target = url.join(URL(location, encoded=True))
        origin, host = target.origin(), target.host or ""
    except ValueError:
        raise SourceError(f"{operation}: redirected to something that is no URL") from None
    if origin == api.origin():
        return target
    if target.scheme != "https" or host not in redirect_hosts or target.user is not None:
        raise SourceError(
            f"{operation}: redirected to another host",
            hint=f'If Aluma keeps files there, download_hosts = ["{host}"] in [aluma] allows it (https only).',
        )
    if is_private_address(host):
        raise SourceError(f"{operation}: redirected to an address of a private network")
    return target


class PublicResolver(AbstractResolver):
    """Resolves names with ``resolver``; the given hosts only if they are not on a network of our own."""

    def __init__(self, resolver: AbstractResolver, redirect_hosts: Collection[str]) -> None:
        self._resolver = resolver
        self._redirect_hosts = frozenset(redirect_hosts)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name. Raises ``OSError``."""
        addresses = await self._resolver.resolve(host, port, family)
        if host in self._redirect_hosts and any(is_private_address(result["host"]) for result in addresses):
            raise OSError(None, f"{host} is on a private network")
        return addresses

    async def close(self) -> None:
        """Close what it resolves with."""
        await self._resolver.close()


def is_private_address(host: str) -> bool:
    """Whether an address is of a private network, the machine itself or the like; a name is not."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False
