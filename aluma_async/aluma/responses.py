"""Maps HTTP responses and aiohttp exceptions to the errors of this package, and reads bodies of limited size.

No error contains a token or a document's content. This module knows no URL and no API call.
"""

import re
from contextlib import suppress

import aiohttp
import anyio

from aluma_async.aluma import wire
from aluma_async.exceptions import (
    Ambiguous,
    ClaimConflict,
    FileMissing,
    InvalidResponse,
    RateLimited,
    SourceError,
    Unavailable,
    Unreachable,
)
from aluma_async.models import ExportFile

TRANSPORT_ERRORS = (aiohttp.ClientError, TimeoutError)
"""Exceptions that aiohttp raises if there is no complete response; ``map_transport_error`` converts them."""

MAX_ERROR_BODY_BYTES = 64 * 1024
"""Maximum size of a response that should be short: an error, a token, a task."""
_MAX_SPEC_BYTES = 64 * 1024 * 1024
_ERROR_BODY_SECONDS = 5.0  # Limit for bodies of which only the status matters.
_URL_HINT = "Check base_url, and whether a proxy or a log-in page answers in place of Aluma."
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
_REACH_HINT = "Check base_url, the network and the proxy."
_TRUST_HINT = "If a proxy inspects TLS or the API uses a private CA, set ca_file under [aluma]."
_PROXY_HINT = "Check proxy under [aluma], including its user name and password."


class _ConnectionLost(aiohttp.ClientError):
    """The connection broke at a point where the request may already have been sent."""


async def prevent_resend(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Prevent aiohttp from silently sending a PUT again after a disconnect.

    aiohttp decides by the type of the exception, so this middleware replaces it.
    """
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost(type(error).__name__) from None


def map_transport_error(operation: str, error: Exception, *, changes: bool) -> SourceError:
    """Return the error for one of ``TRANSPORT_ERRORS``. No other function depends on aiohttp's exception types.

    ``changes``: whether the request changes a task. Raise the result ``from None``, because the text of an aiohttp
    exception can contain the token.
    """
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        hint = _TRUST_HINT if isinstance(error, aiohttp.ClientConnectorCertificateError) else _REACH_HINT
        return Unreachable(f"{operation}: no connection ({_safe_reason(error)})", hint=hint)
    if isinstance(error, aiohttp.ClientHttpProxyError):  # The tunnel was not opened, so the request was not sent.
        return Unreachable(f"{operation}: the proxy answered {error.status}", hint=_PROXY_HINT)
    if isinstance(error, aiohttp.ClientPayloadError):
        return (Ambiguous if changes else InvalidResponse)(f"{operation}: the response is incomplete")
    kind = Ambiguous if changes else Unavailable
    return kind(f"{operation}: no response ({_safe_reason(error)})", overloaded=isinstance(error, TimeoutError))


def _safe_reason(error: Exception) -> str:
    """Return a short reason without URLs, headers or bodies."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror
    return str(error) if isinstance(error, _ConnectionLost) else type(error).__name__


async def raise_for_status(operation: str, response: aiohttp.ClientResponse, *, changes: bool) -> None:
    """Raise the error for an unsuccessful status. Except for 401, no other function interprets status codes."""
    status = response.status
    if status == 206 and "Range" in response.request_info.headers:
        return
    if status in (200, 202, 204):
        if changes and _is_web_page(response):
            raise Ambiguous(f"{operation}: received a web page", hint=_URL_HINT)
        return
    if 200 <= status < 400:
        raise SourceError(f"{operation}: unexpected status {status}", hint=_URL_HINT)
    reason = ""  # The status alone decides the error, so a missing or unreadable body does not matter.
    with suppress(*TRANSPORT_ERRORS, InvalidResponse), anyio.fail_after(_ERROR_BODY_SECONDS):
        reason = wire.error_message(await read_body(response, MAX_ERROR_BODY_BYTES))
    message = f"{operation}: Aluma answered {status}" + (f" ({reason})" if reason else "")
    pause = wire.retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
    if status == 429:
        raise RateLimited(message, retry_after=pause)
    if status == 408 or status >= 500:
        overloaded = status == 503
        retry_after = pause if overloaded else None
        raise (Ambiguous if changes else Unavailable)(message, retry_after=retry_after, overloaded=overloaded)
    if changes:
        raise ClaimConflict(message)
    if status in (404, 410):
        raise FileMissing(message, hint=_URL_HINT)
    raise SourceError(message, hint=_URL_HINT)


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body of at most ``limit`` bytes. Raises ``InvalidResponse`` if there is more."""
    chunks = []
    while not response.content.at_eof():
        chunks.append(await response.content.readany())
        limit -= len(chunks[-1])
        if limit < 0:
            raise InvalidResponse("the response is larger than expected")
    return b"".join(chunks)


async def read_chunk(operation: str, response: aiohttp.ClientResponse) -> bytes:
    """Return the next chunk of a body, empty at its end."""
    try:
        return await response.content.readany()
    except TRANSPORT_ERRORS as error:
        raise map_transport_error(operation, error, changes=False) from None


async def read_accepted(response: aiohttp.ClientResponse, *, needed: bool) -> bytes:
    """Read the body of a successful response. A body that is not ``needed`` may be missing or incomplete."""
    if needed:
        try:
            return await read_body(response, _MAX_SPEC_BYTES)
        except (*TRANSPORT_ERRORS, InvalidResponse):
            raise InvalidResponse("Start was accepted, but the response is incomplete") from None
    if not response.content.at_eof():
        with suppress(*TRANSPORT_ERRORS, InvalidResponse), anyio.fail_after(_ERROR_BODY_SECONDS):
            await read_body(response, MAX_ERROR_BODY_BYTES)
    return b""


def validate_download(operation: str, file: ExportFile, response: aiohttp.ClientResponse) -> None:
    """Raise ``InvalidResponse`` if a truncated body could go unnoticed, or if the response is not the file."""
    if response.status != 200:
        raise InvalidResponse(f"{operation}: unexpected status {response.status}")
    _validate_framing(operation, response)
    if _is_web_page(response) and not file.filename.lower().endswith((".html", ".htm")):
        raise InvalidResponse(f"{operation}: received a web page in place of the file")


def validate_range(operation: str, response: aiohttp.ClientResponse, start: int, size: int | None) -> int:
    """Return the size of the file. Raises ``InvalidResponse`` unless the body continues that file at byte ``start``."""
    if response.status != 206:
        raise InvalidResponse(f"{operation}: the download was interrupted, and the file has changed")
    _validate_framing(operation, response)
    content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not content_range or int(content_range[1]) != start or size not in (None, int(content_range[2])):
        raise InvalidResponse(
            f"{operation}: the download was interrupted, and the server returned a different range than requested"
        )
    return int(content_range[2])


def _is_web_page(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Type", "").lstrip().lower().startswith("text/html")


def _validate_framing(operation: str, response: aiohttp.ClientResponse) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise InvalidResponse(f"{operation}: the response is compressed although that was not requested")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if response.content_length is None and not chunked:
        raise InvalidResponse(
            f"{operation}: the response has neither a length nor chunks, so a truncated file would go unnoticed"
        )
