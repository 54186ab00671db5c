"""``Download``: the bytes of one file, over one or more connections.

If a connection breaks and the server sent a strong ETag, the download continues at the same byte (Range, If-Range),
but only in the same version of the file. An incomplete file, a file whose first or last bytes do not fit its name, one
that contradicts a digest in the response's headers, and an exceeded limit raise ``SourceError``.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self, TypeAlias

import aiohttp
from msgspec import Struct

from aluma_async.aluma import download_responses
from aluma_async.aluma.content import ContentCheck
from aluma_async.aluma.digests import Digests
from aluma_async.aluma.minimum_rate import MinimumRate
from aluma_async.aluma.stall_watch import WatchedRequest
from aluma_async.aluma.transport_errors import TRANSPORT_ERRORS, map_transport_error
from aluma_async.clock import loop_time
from aluma_async.exceptions import InvalidResponse, SourceError, Unavailable
from aluma_async.models import ExportFile
from aluma_async.ports import RequestLimiter

Fetch: TypeAlias = Callable[[Mapping[str, str], WatchedRequest], AbstractAsyncContextManager[aiohttp.ClientResponse]]
"""Sends the request for the file, with additional headers."""

_MAX_RESUMPTIONS = 5
_HEADERS = {
    "Accept-Encoding": "identity",  # because a truncated compressed body can look like a complete one
    "Cache-Control": "no-cache",  # because a shared cache may have an earlier file of the same URL
}


class DownloadLimits(Struct, frozen=True, kw_only=True):
    """Limits for downloads; 0 disables a limit, except for specifications."""

    hosts: Collection[str] = ()
    """Hosts other than the API's from which a file may be downloaded, directly or by a redirect."""
    verify_content: bool = True
    """Whether to check that the first and the last bytes of a file fit its name, and digests that the server sends."""
    max_bytes: float = 0
    """Maximum size of a file."""
    max_specification_bytes: int = 64 * 1024 * 1024
    """Maximum size of an Export Specification, which is kept in memory."""
    min_bytes_per_second: float = 0
    """Minimum average rate over one minute."""


class Download:
    """One download of a file: a context manager that yields an iterator over the chunks."""

    def __init__(
        self,
        operation: str,
        file: ExportFile,
        fetch: Fetch,
        request: WatchedRequest,
        request_limiter: RequestLimiter,
        limits: DownloadLimits,
        verify_pause: Callable[[SourceError], Awaitable[None]],
    ) -> None:
        self._operation = operation
        self._file = file
        self._fetch = fetch
        self._request = request
        self._verify_pause = verify_pause
        self._request_limiter = request_limiter
        self._limits = limits
        self._connection: AbstractAsyncContextManager[aiohttp.ClientResponse] | None = None
        self._count = 0
        self._length: int | None = None
        self._size: int | None = None
        self._etag = ""
        self._check: ContentCheck | None = None
        self._digests: Digests | None = None
        self._minimum_rate = MinimumRate(limits.min_bytes_per_second)
        self._resumptions, self._resumed_at = 0, -1

    async def __aenter__(self) -> AsyncIterator[bytes]:
        """Send the request and check the response headers."""
        self._response = await self._open({})
        try:
            verify = self._limits.verify_content
            download_responses.validate_download(self._operation, self._file, self._response, verify_content=verify)
        except BaseException as error:
            await self._close(error)
            raise
        self._length = self._size = self._response.content_length
        self._etag = download_responses.strong_etag(self._response)
        if self._limits.verify_content:
            headers = self._response.headers
            content_type = headers["Content-Type"] if "Content-Type" in headers else ""  # noqa: SIM401 - faster
            self._check = ContentCheck(self._file.filename, content_type)
            self._digests = Digests.of(headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection:  # saves a call for each file that was read to its end
            await self._close(error)

    @property
    def version(self) -> str:
        """Identifier of the file's version; empty if the server sent no strong ETag."""
        return hashlib.sha256(f"{self._etag} {self._length}".encode()).hexdigest()[:32] if self._etag else ""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                chunk = await self._read_chunk()
                break
            except (InvalidResponse, Unavailable) as error:
                self._resumptions += 1
                is_stuck = self._count == self._resumed_at or self._resumptions > _MAX_RESUMPTIONS
                if is_stuck or error.spares_others or not self._etag:
                    raise
                self._resumed_at = self._count
                await self._resume()
        if not chunk:
            if self._size is not None and self._count != self._size:
                raise InvalidResponse(f"{self._operation}: received {self._count} of {self._size} bytes")
            self._verify_end()
            self._request.is_answered = True
            await self._close()  # the destination may need long to store the file, without a request
            raise StopAsyncIteration
        if self._check and (problem := self._check.feed(chunk)):
            raise download_responses.wrong_content(self._operation, problem)
        if self._digests:
            self._digests.update(chunk)
        self._count += len(chunk)
        if 0 < self._limits.max_bytes < max(self._count, self._size or 0):
            raise SourceError(
                f"{self._operation}: file is larger than {self._limits.max_bytes:.0f} bytes",
                hint="Raise max_file_bytes under [limits] if such files are expected.",
            )
        await self._request_limiter.consume_bytes(len(chunk))
        return chunk

    async def _read_chunk(self) -> bytes:
        """Return the next chunk, empty at the end. Raises ``Unavailable`` if the download is too slow."""
        content, request, waited = self._response.content, self._request, 0.0
        try:
            chunk = content.read_nowait()
            if not chunk and not content.at_eof():
                started_at = loop_time()
                request.is_waiting = True
                chunk = await content.readany()
                waited = loop_time() - started_at
        except TRANSPORT_ERRORS as error:
            if request.ended_early:
                raise request.error(self._operation) from None
            raise map_transport_error(self._operation, error, changes=False) from None
        request.is_waiting = False
        if chunk:
            self._minimum_rate.record(self._operation, waited, len(chunk))
        return chunk

    def _verify_end(self) -> None:
        """Check a file that has ended. Raises ``WrongContent``."""
        problem = self._check.close() if self._check else ""
        if not problem and self._digests:
            problem = self._digests.problem()
        if problem:
            raise download_responses.wrong_content(self._operation, problem)

    async def _resume(self) -> None:
        """Request the missing bytes. Raises ``InvalidResponse`` if the file has changed."""
        await self._close()
        self._response = await self._open({"Range": f"bytes={self._count}-", "If-Range": self._etag})
        self._size = download_responses.validate_range(
            self._operation, self._response, self._count, self._size, self._etag
        )

    async def _open(self, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        connection = self._fetch({**_HEADERS, **headers} if headers else _HEADERS, self._request)
        try:
            response = await connection.__aenter__()
        except SourceError as error:
            await self._verify_pause(error)
            raise
        self._connection = connection
        return response

    async def _close(self, error: BaseException | None = None) -> None:
        """Close the connection. The request has failed if the response is not the file, whatever its status is."""
        connection, self._connection = self._connection, None
        if connection:
            failure = error if isinstance(error, InvalidResponse) else None
            await connection.__aexit__(type(failure) if failure else None, failure, None)
