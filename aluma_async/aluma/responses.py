"""Maps the statuses and the short bodies of HTTP responses to the errors of this package.

No error contains a token or a document's content. This module knows no URL and no API call.
"""

from contextlib import suppress

import aiohttp
import anyio
from msgspec import Struct

from aluma_async.aluma import wire
from aluma_async.aluma.content import is_html
from aluma_async.aluma.digests import Digests
from aluma_async.aluma.transport_errors import PROXY_HINT, TRANSPORT_ERRORS, map_transport_error
from aluma_async.connections import close_connection
from aluma_async.exceptions import (
    Ambiguous,
    AuthenticationFailed,
    BadSpecification,
    ClaimConflict,
    FileMissing,
    InvalidResponse,
    RateLimited,
    RequestRejected,
    SourceError,
    Unavailable,
    Unreachable,
)

MAX_ERROR_BODY_BYTES = 64 * 1024
"""Maximum size of a response that should be short: an error, a token, a task."""
_ERROR_BODY_SECONDS = 5.0  # Limit for bodies of which only the status matters.
CREDENTIALS_HINT = "Check ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET, or client_id and client_secret_file."
URL_HINT = "Check base_url, and whether a proxy or a log-in page answers in place of Aluma."
_REJECTED_HINT = "Check the permissions of the API client, and whether a proxy answers in place of Aluma."
_GATEWAY_STATUSES = frozenset({408, 500, 502, 504})
"""Statuses by which a proxy gives up its wait for the server."""
_JSON_TYPES = frozenset({None, "application/json", "application/json; charset=utf-8"})
_BLANK = b" \t\r\n\xef\xbb\xbf"  # white space and the byte order mark of UTF-8


class RequestKind(Struct, frozen=True):
    """A kind of request, which determines what a status means."""

    is_token: bool = False
    changes: bool = False
    """Whether the request changes a task."""
    is_download: bool = False
    conflicts: frozenset[int] = frozenset()
    """Statuses that mean that the task's state does not allow the request, unless they come with a web page."""

    is_look_up: bool = False

    @property
    def of_task(self) -> bool:
        """Whether the request is about one task."""
        return self.changes or self.is_download or self.is_look_up


READ = RequestKind()
LOOK_UP = RequestKind(is_look_up=True)
DOWNLOAD = RequestKind(is_download=True)
TOKEN = RequestKind(is_token=True)
SETTLE = RequestKind(changes=True, conflicts=frozenset({404, 409, 410, 412, 422}))
"""Complete, Cancel and Fail."""
START = RequestKind(changes=True, conflicts=SETTLE.conflicts | {400})


async def raise_for_status(operation: str, response: aiohttp.ClientResponse, kind: RequestKind) -> None:
    """Raise the error for an unsuccessful status. Except for 401, no other function interprets status codes."""
    status = response.status
    if status == 200 or (status in (202, 204) and (kind.changes or kind.is_token)):
        headers = response.headers
        # Only operators, because method calls for each request would be a noticeable part of its cost.
        content_type = headers["Content-Type"] if "Content-Type" in headers else None  # noqa: SIM401
        if kind.changes and content_type not in _JSON_TYPES and is_html(content_type):
            raise Ambiguous(f"{operation}: received a web page", hint=URL_HINT)
        return
    if status == 206 and "Range" in response.request_info.headers:
        return
    body: bytes | None = None  # unreadable
    with suppress(*TRANSPORT_ERRORS, InvalidResponse), anyio.fail_after(_ERROR_BODY_SECONDS):
        body = await read_body(response, MAX_ERROR_BODY_BYTES)
    error = _status_error(operation, response, body, kind)
    if kind.of_task:
        error.operation = operation
    raise error


def _status_error(
    operation: str, response: aiohttp.ClientResponse, body: bytes | None, kind: RequestKind
) -> SourceError:
    status = response.status
    if status in _GATEWAY_STATUSES:
        close_connection(response)
    is_page = _is_page(status, response.headers.get("Content-Type"), body)
    reason = wire.error_message(body or b"")
    message = f"{operation}: Aluma answered {status}" + (f" ({reason})" if reason else "")
    if is_page:
        message = f"{operation}: a proxy or a web page answered {status}"
    pause = wire.retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
    if status == 429:
        return RateLimited(message, retry_after=pause)
    if status in (407, 511):  # Only proxies send these statuses, so the request did not reach Aluma.
        return Unreachable(f"{operation}: the proxy answered {status}", hint=PROXY_HINT)
    if status in (421, 425):
        return Unavailable(message)
    if status == 408 or status >= 500:
        overloaded = status == 503
        error_type = Ambiguous if kind.changes else Unavailable
        return error_type(message, retry_after=pause if overloaded else None, overloaded=overloaded)
    if kind.is_token:
        if status in (400, 401, 403) and not is_page:
            return AuthenticationFailed(f"Aluma refused the client id and secret ({status})", hint=CREDENTIALS_HINT)
        return RequestRejected(message, hint=URL_HINT, retry_after=pause)
    if status < 400:
        unexpected = Ambiguous if kind.changes else InvalidResponse if status in (202, 204) else SourceError
        return unexpected(f"{operation}: unexpected status {status}", hint=URL_HINT)
    if kind.changes:
        if status in kind.conflicts and not is_page:
            return ClaimConflict(message)
        return RequestRejected(message, hint=_REJECTED_HINT, retry_after=pause)
    if status in (404, 410) and not is_page:
        return FileMissing(message, hint=URL_HINT)
    if status == 416:
        return InvalidResponse(message)
    return SourceError(message, hint=URL_HINT)


def _is_page(status: int, content_type: str | None, body: bytes | None) -> bool:
    """Return whether an error was sent by a proxy or a web server, and not by the API, whose errors are JSON or empty.

    Proxies without a backend answer 400, 404 and 410 also with plain text, such as "default backend - 404". With these
    statuses, an unreadable body counts as theirs.
    """
    text = (body or b"").lstrip(_BLANK)
    if is_html(content_type) or text.startswith(b"<"):
        return True
    return status in (400, 404, 410) and (body is None or (bool(text) and not text.startswith((b"{", b"[", b'"'))))


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


async def read_accepted(
    operation: str, response: aiohttp.ClientResponse, *, max_specification_bytes: int = 0, verify_digests: bool = False
) -> bytes:
    """Read the body of a successful response. Unless it is a specification, it may be missing or incomplete."""
    body = b""
    if max_specification_bytes:
        try:
            body = await read_body(response, max_specification_bytes)
        except TRANSPORT_ERRORS:
            raise InvalidResponse(f"{operation}: accepted, but the response is incomplete") from None
        except InvalidResponse:
            raise BadSpecification(
                f"{operation}: the Export Specification is larger than max_specification_bytes"
                f" ({max_specification_bytes}), so it was not read, and there is no copy of the task",
                hint="Raise max_specification_bytes under [limits]. Four times as much memory must be free.",
            ) from None
    elif not response.content.at_eof():
        with suppress(*TRANSPORT_ERRORS, InvalidResponse), anyio.fail_after(_ERROR_BODY_SECONDS):
            body = await read_body(response, MAX_ERROR_BODY_BYTES)
    if verify_digests and (digests := Digests.of(response.headers)) and "Content-Encoding" not in response.headers:
        digests.update(body)
        if digests.problem():
            raise InvalidResponse(
                f"{operation}: accepted, but the response does not have the digest that was sent with it",
                hint=URL_HINT,
            )
    # Aluma's body is empty or JSON. Some log-in pages have another content type, and some proxies answer "ok".
    if body[:1] not in (b"", b"{") and not wire.is_json(body):
        page = "a web page" if body.lstrip(_BLANK).startswith(b"<") else "a text in place of Aluma's answer"
        raise Ambiguous(f"{operation}: received {page}", hint=URL_HINT)
    return body
