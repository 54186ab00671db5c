"""Maps HTTP responses and aiohttp exceptions to the errors of this package, and reads bodies of limited size.

No error contains a token or a document's content. This module knows no URL and no API call.
"""

import errno
import re
from contextlib import suppress

import aiohttp
import anyio
from msgspec import Struct
from yarl import URL

from aluma_async.aluma import wire
from aluma_async.aluma.content import is_html, may_be_html, may_be_mail
from aluma_async.aluma.digests import Digests
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
    WrongContent,
)
from aluma_async.models import ExportFile

TRANSPORT_ERRORS = (aiohttp.ClientError, TimeoutError)
"""Exceptions that aiohttp raises if there is no complete response; ``map_transport_error`` converts them."""

MAX_ERROR_BODY_BYTES = 64 * 1024
"""Maximum size of a response that should be short: an error, a token, a task."""
_ERROR_BODY_SECONDS = 5.0  # Limit for bodies of which only the status matters.
CREDENTIALS_HINT = "Check ALUMA_CLIENT_ID and ALUMA_CLIENT_SECRET, or client_id and client_secret_file."
URL_HINT = "Check base_url, and whether a proxy or a log-in page answers in place of Aluma."
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_STRONG_ETAG = re.compile(r'"[^"]*"').fullmatch
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_DESCRIPTORS_HINT = "Raise the limit of open files (ulimit -n, LimitNOFILE=), or set fewer workers."
_REACH_HINT = "Check base_url, the network and the proxy."
_TRUST_HINT = "If a proxy inspects TLS or the API uses a private CA, set ca_file under [aluma]."
_PROXY_HINT = "Check proxy under [aluma], including its user name and password, and the network's log-in."
_REJECTED_HINT = "Check the permissions of the API client, and whether a proxy answers in place of Aluma."
_GATEWAY_STATUSES = frozenset({408, 500, 502, 504})
"""Statuses by which a proxy gives up its wait for the server."""
_CONTENT_HINT = (
    "Check whether a proxy or a log-in page answers in place of Aluma. If the file is right, set"
    " verify_content = false under [aluma]."
)
_WRAPPERS = ("multipart/form-data", "multipart/mixed")
"""Types of bodies whose parts are files."""
_FILE_TYPES = frozenset({None, "application/pdf", "application/octet-stream"})
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
        of_machine = getattr(getattr(error, "os_error", None), "errno", None) in _NO_DESCRIPTORS
        text = f"{operation}: no connection to {_peer(error)} ({_safe_reason(error)})"
        unreachable = Unreachable(text, hint=_DESCRIPTORS_HINT if of_machine else hint)
        unreachable.of_machine = of_machine
        return unreachable
    if isinstance(error, aiohttp.ClientHttpProxyError):  # The tunnel was not opened, so the request was not sent.
        target = error.request_info.url
        text = f"{operation}: the proxy answered {error.status} to a connection to {target.host}:{target.port}"
        return Unreachable(text, hint=_PROXY_HINT)
    if isinstance(error, aiohttp.ClientPayloadError):
        return (Ambiguous if changes else InvalidResponse)(f"{operation}: the response is incomplete")
    kind = Ambiguous if changes else Unavailable
    return kind(f"{operation}: no response ({_safe_reason(error)})", overloaded=isinstance(error, TimeoutError))


def _peer(error: Exception) -> str:
    """Return host and port, and those of the proxy, for a connection that was not made."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):  # "Connection timeout to host URL"
        with suppress(ValueError):
            if (url := URL(str(error).rpartition(" ")[2])).host:
                return f"{url.host}:{url.port}"
    host, port = getattr(error, "host", None), getattr(error, "port", None)
    if not host:
        return "the server"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {host}:{port}"
    proxy = getattr(getattr(error, "_conn_key", None), "proxy", None)
    return f"{host}:{port}" + (f" through the proxy {proxy.host}:{proxy.port}" if proxy else "")


def _safe_reason(error: Exception) -> str:
    """Return a short reason without URLs, headers or bodies."""
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.strerror:
        return error.os_error.strerror
    return str(error) if isinstance(error, _ConnectionLost) else type(error).__name__


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
        return Unreachable(f"{operation}: the proxy answered {status}", hint=_PROXY_HINT)
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


def validate_download(operation: str, file: ExportFile, response: aiohttp.ClientResponse) -> None:
    """Raise ``InvalidResponse`` if a truncated body could go unnoticed, or if the response is not the file."""
    if response.status != 200:
        raise InvalidResponse(f"{operation}: unexpected status {response.status}")
    headers = response.headers
    if "Content-Length" not in headers or "Content-Encoding" in headers:
        _validate_framing(operation, response)
    if "Content-Range" in headers:
        raise InvalidResponse(f"{operation}: received a part in place of the whole file")
    content_type = headers["Content-Type"] if "Content-Type" in headers else None  # noqa: SIM401
    if content_type is None or content_type in _FILE_TYPES:
        return
    kind = content_type.lstrip().lower()
    if kind.startswith("multipart/byteranges") or (kind.startswith(_WRAPPERS) and not may_be_mail(file.filename)):
        raise InvalidResponse(f"{operation}: received parts in place of the whole file")
    if kind.startswith("application/problem+"):  # RFC 9457
        raise wrong_content(operation, "received the description of an error in place of the file")
    if is_html(content_type) and not may_be_html(file.filename):
        raise wrong_content(operation, "received a web page in place of the file")


def wrong_content(operation: str, problem: str) -> WrongContent:
    """Return the error for a download that cannot be the file."""
    return WrongContent(f"{operation}: {problem}", hint=_CONTENT_HINT)


def strong_etag(response: aiohttp.ClientResponse) -> str:
    """Return the ETag of a response, or "" if it does not identify the exact bytes: missing, invalid or weak."""
    headers = response.headers
    return headers["ETag"] if "ETag" in headers and _STRONG_ETAG(headers["ETag"]) else ""


def validate_range(operation: str, response: aiohttp.ClientResponse, start: int, size: int | None, etag: str) -> int:
    """Return the size of the file. Raises ``InvalidResponse`` unless the body is the file from byte ``start`` on.

    ``etag`` is the strong ETag of the first response. The second one must be equal, so that two versions of a file
    are never joined.
    """
    if response.status != 206 or response.headers.get("ETag") != etag:
        raise InvalidResponse(f"{operation}: the download was interrupted, and the file has changed")
    _validate_framing(operation, response)
    if content_range := _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "")):
        first, last, total = map(int, content_range.groups())
        length = response.content_length
        if first == start and last == total - 1 and size in (None, total) and length in (None, total - start):
            return total
    raise InvalidResponse(
        f"{operation}: the download was interrupted, and the server returned a different range than requested"
    )


def _validate_framing(operation: str, response: aiohttp.ClientResponse) -> None:
    headers = response.headers
    encodings = ",".join(headers.getall("Content-Encoding", ())).strip().lower()
    if encodings not in ("", "identity"):
        raise InvalidResponse(f"{operation}: the response is compressed although that was not requested")
    # Only this coding: with another one beside it, the body could end anywhere, or be compressed.
    codings = ",".join(headers.getall("Transfer-Encoding", ())).strip().lower()
    if codings not in ("", "chunked"):
        raise InvalidResponse(f"{operation}: the response has the unknown transfer coding {codings[:40]!r}")
    if "Content-Length" not in headers and not codings:
        raise InvalidResponse(
            f"{operation}: the response has neither a length nor chunks, so a truncated file would go unnoticed"
        )
