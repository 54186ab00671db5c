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

NO_ANSWER = (aiohttp.ClientError, TimeoutError)
"""What aiohttp raises where there is no answer, or no whole one; ``lost`` tells what that stands for."""

LONGEST_ERROR = 64 * 1024
"""Bytes that are read of a reply that is not expected to hold much."""
_LONGEST_SPEC = 64 * 1024 * 1024
_EPILOGUE_SECONDS = 5.0  # for a body that changes nothing, once the status has said what matters
_URL_HINT = "Is base_url right, and is nothing in between (a proxy, a log-in page)?"
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")
_REACH_HINT = "Check base_url, the network and the proxy."
_TRUST_HINT = "Where a proxy opens TLS, or the API is your own: name its authority with ca_file under [aluma]."
_PROXY_HINT = "Check proxy under [aluma], and the name and password in it."


class _Lost(aiohttp.ClientError):
    """The connection broke after the request may have been sent."""


async def no_replay(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from silently sending a PUT again after a disconnect: it looks at the type of the exception."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _Lost(type(error).__name__) from None


def lost(what: str, error: Exception, *, changes: bool) -> SourceError:
    """Our own error for what aiohttp raised (``NO_ANSWER``); the only place that knows its exceptions.

    ``changes`` says whether the request changes a task. Raise it ``from None``: an aiohttp error can show the token.
    """
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        hint = _TRUST_HINT if isinstance(error, aiohttp.ClientConnectorCertificateError) else _REACH_HINT
        return Unreachable(f"{what}: no connection ({_reason(error)})", hint=hint)
    if isinstance(error, aiohttp.ClientHttpProxyError):  # nothing has gone through it
        return Unreachable(f"{what}: the proxy answered {error.status}", hint=_PROXY_HINT)
    if isinstance(error, aiohttp.ClientPayloadError):
        return (Ambiguous if changes else InvalidResponse)(f"{what}: the reply was cut short")
    late = isinstance(error, TimeoutError)
    return (Ambiguous if changes else Unavailable)(f"{what}: no reply ({_reason(error)})", overloaded=late)


def _reason(error: Exception) -> str:
    """A short reason without URLs, headers or bodies."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror
    return str(error) if isinstance(error, _Lost) else type(error).__name__


async def check(what: str, response: aiohttp.ClientResponse, *, changes: bool) -> None:
    """Raise the error that a reply stands for, or return; the only place that knows status codes (but 401)."""
    status = response.status
    if status == 206 and "Range" in response.request_info.headers:
        return
    if status in (200, 202, 204):
        if changes and _is_web_page(response):
            raise Ambiguous(f"{what}: a web page came back", hint=_URL_HINT)
        return
    if 200 <= status < 400:
        raise SourceError(f"{what}: unexpected reply {status}", hint=_URL_HINT)
    reason = ""
    with suppress(*NO_ANSWER, InvalidResponse), anyio.fail_after(_EPILOGUE_SECONDS):  # the status has said what matters
        reason = wire.problem(await body(response, LONGEST_ERROR))
    said = f"{what}: Aluma answered {status}" + (f" ({reason})" if reason else "")
    pause = wire.retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
    if status == 429:
        raise RateLimited(said, retry_after=pause)
    if status == 408 or status >= 500:
        full = status == 503
        raise (Ambiguous if changes else Unavailable)(said, retry_after=pause if full else None, overloaded=full)
    if changes:
        raise ClaimConflict(said)
    if status in (404, 410):
        raise FileMissing(said, hint=_URL_HINT)
    raise SourceError(said, hint=_URL_HINT)


async def body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a body of at most ``limit`` bytes. Raises ``InvalidResponse`` if there is more."""
    pieces = []
    while not response.content.at_eof():
        pieces.append(await response.content.readany())
        limit -= len(pieces[-1])
        if limit < 0:
            raise InvalidResponse("a reply is longer than it can sensibly be")
    return b"".join(pieces)


async def piece(what: str, response: aiohttp.ClientResponse) -> bytes:
    """Read what has arrived of a body; empty at its end."""
    try:
        return await response.content.readany()
    except NO_ANSWER as error:
        raise lost(what, error, changes=False) from None


async def accepted(response: aiohttp.ClientResponse, *, needed: bool) -> bytes:
    """Read the body of a 2xx; where it is not needed, its absence or its end does not matter."""
    if needed:
        try:
            return await body(response, _LONGEST_SPEC)
        except (*NO_ANSWER, InvalidResponse):
            raise InvalidResponse("the reply to a Start was accepted but cut short") from None
    if not response.content.at_eof():
        with suppress(*NO_ANSWER, InvalidResponse), anyio.fail_after(_EPILOGUE_SECONDS):
            await body(response, LONGEST_ERROR)
    return b""


def check_download(what: str, file: ExportFile, response: aiohttp.ClientResponse) -> None:
    """Refuse a reply whose end could not be told from a broken connection, or that is plainly something else."""
    if response.status != 200:
        raise InvalidResponse(f"{what}: unexpected reply {response.status}")
    _check_framing(what, response)
    if _is_web_page(response) and not file.filename.lower().endswith((".html", ".htm")):
        raise InvalidResponse(f"{what}: a web page came instead")


def check_resumption(what: str, response: aiohttp.ClientResponse, begin: int, size: int | None) -> int:
    """Refuse a reply that is not what was missing from byte ``begin`` on; return the size of the whole file."""
    if response.status != 206:
        raise InvalidResponse(f"{what}: broke off, and the file is another one by now")
    _check_framing(what, response)
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != begin or size not in (None, int(found[2])):
        raise InvalidResponse(f"{what}: broke off, and what came next was not what was missing")
    return int(found[2])


def _is_web_page(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Type", "").lstrip().lower().startswith("text/html")


def _check_framing(what: str, response: aiohttp.ClientResponse) -> None:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise InvalidResponse(f"{what}: came compressed, though that was not asked for")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if response.content_length is None and not chunked:
        raise InvalidResponse(f"{what}: came without a length, so its end could not be told from a broken connection")
