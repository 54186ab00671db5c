"""What a reply, or the lack of one, stands for: aiohttp's exceptions and HTTP's status codes become our errors.

It knows no URL, no token and no verb. What reaches a caller holds neither a token nor content.
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
"""What aiohttp raises where there is no answer, or no whole one; ``map_transport_error`` tells what that stands for."""

MAX_ERROR_BODY_BYTES = 64 * 1024
"""Bytes that are read of a reply that is not expected to hold much."""
_MAX_SPEC_BYTES = 64 * 1024 * 1024
_ERROR_BODY_SECONDS = 5.0  # for a body that changes nothing, once the status has said what matters
_URL_HINT = "Is base_url right, and is nothing in between (a proxy, a log-in page)?"
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
_REACH_HINT = "Check base_url, the network and the proxy."
_TRUST_HINT = "Where a proxy opens TLS, or the API is your own: name its authority with ca_file under [aluma]."
_PROXY_HINT = "Check proxy under [aluma], and the name and password in it."


class _ConnectionLost(aiohttp.ClientError):
    """The connection broke after the request may have been sent."""


async def prevent_resend(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from silently sending a PUT again after a disconnect: it looks at the type of the exception."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost(type(error).__name__) from None


def map_transport_error(operation: str, error: Exception, *, changes: bool) -> SourceError:
    """Our own error for what aiohttp raised (``TRANSPORT_ERRORS``); the only place that knows its exceptions.

    ``changes`` says whether the request changes a task. Raise it ``from None``: an aiohttp error can show the token.
    """
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        hint = _TRUST_HINT if isinstance(error, aiohttp.ClientConnectorCertificateError) else _REACH_HINT
        return Unreachable(f"{operation}: no connection ({_safe_reason(error)})", hint=hint)
    if isinstance(error, aiohttp.ClientHttpProxyError):  # nothing has gone through it
        return Unreachable(f"{operation}: the proxy answered {error.status}", hint=_PROXY_HINT)
    if isinstance(error, aiohttp.ClientPayloadError):
        return (Ambiguous if changes else InvalidResponse)(f"{operation}: the reply was cut short")
    late = isinstance(error, TimeoutError)
    return (Ambiguous if changes else Unavailable)(f"{operation}: no reply ({_safe_reason(error)})", overloaded=late)


def _safe_reason(error: Exception) -> str:
    """A short reason without URLs, headers or bodies."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror
    return str(error) if isinstance(error, _ConnectionLost) else type(error).__name__


async def raise_for_status(operation: str, response: aiohttp.ClientResponse, *, changes: bool) -> None:
    """Raise the error that a reply stands for, or return; the only place that knows status codes (but 401)."""
    status = response.status
    if status == 206 and "Range" in response.request_info.headers:
        return
    if status in (200, 202, 204):
        if changes and _is_web_page(response):
            raise Ambiguous(f"{operation}: a web page came back", hint=_URL_HINT)
        return
    if 200 <= status < 400:
        raise SourceError(f"{operation}: unexpected reply {status}", hint=_URL_HINT)
    reason = ""
    with suppress(*TRANSPORT_ERRORS, InvalidResponse), anyio.fail_after(_ERROR_BODY_SECONDS):
        reason = wire.error_message(await read_body(response, MAX_ERROR_BODY_BYTES))
    message = f"{operation}: Aluma answered {status}" + (f" ({reason})" if reason else "")
    pause = wire.retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
    if status == 429:
        raise RateLimited(message, retry_after=pause)
    if status == 408 or status >= 500:
        full = status == 503
        raise (Ambiguous if changes else Unavailable)(message, retry_after=pause if full else None, overloaded=full)
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
            raise InvalidResponse("a reply is longer than it can sensibly be")
    return b"".join(chunks)


async def read_chunk(operation: str, response: aiohttp.ClientResponse) -> bytes:
    """Read what has arrived of a body; empty at its end."""
    try:
        return await response.content.readany()
    except TRANSPORT_ERRORS as error:
        raise map_transport_error(operation, error, changes=False) from None


async def read_accepted(response: aiohttp.ClientResponse, *, needed: bool) -> bytes:
    """Read the body of a 2xx; where it is not needed, its absence or its end does not matter."""
    if needed:
        try:
            return await read_body(response, _MAX_SPEC_BYTES)
        except (*TRANSPORT_ERRORS, InvalidResponse):
            raise InvalidResponse("the reply to a Start was accepted but cut short") from None
    if not response.content.at_eof():
        with suppress(*TRANSPORT_ERRORS, InvalidResponse), anyio.fail_after(_ERROR_BODY_SECONDS):
            await read_body(response, MAX_ERROR_BODY_BYTES)
    return b""


def validate_download(operation: str, file: ExportFile, response: aiohttp.ClientResponse) -> None:
    """Refuse a reply whose end could not be told from a broken connection, or that is plainly something else."""
    if response.status != 200:
        raise InvalidResponse(f"{operation}: unexpected reply {response.status}")
    _validate_framing(operation, response)
    if _is_web_page(response) and not file.filename.lower().endswith((".html", ".htm")):
        raise InvalidResponse(f"{operation}: a web page came instead")


def validate_range(operation: str, response: aiohttp.ClientResponse, start: int, size: int | None) -> int:
    """Refuse a reply that is not what was missing from byte ``begin`` on; return the size of the whole file."""
    if response.status != 206:
        raise InvalidResponse(f"{operation}: broke off, and the file is another one by now")
    _validate_framing(operation, response)
    content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not content_range or int(content_range[1]) != start or size not in (None, int(content_range[2])):
        raise InvalidResponse(f"{operation}: broke off, and what came next was not what was missing")
    return int(content_range[2])


def _is_web_page(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Type", "").lstrip().lower().startswith("text/html")


def _validate_framing(operation: str, response: aiohttp.ClientResponse) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise InvalidResponse(f"{operation}: came compressed, though that was not asked for")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if response.content_length is None and not chunked:
        raise InvalidResponse(
            f"{operation}: came without a length, so its end could not be told from a broken connection"
        )
