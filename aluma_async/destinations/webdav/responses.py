"""What the responses of a WebDAV server mean: the error for a status, and the properties in a listing. Pure."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from urllib.parse import unquote

from aluma_async.exceptions import DestinationError, DestinationUnavailable

MOVED = (301, 308)
NOT_FOUND, NOT_ALLOWED, CONFLICT, PRECONDITION_FAILED, LOCKED, NO_SPACE = 404, 405, 409, 412, 423, 507
NOT_IMPLEMENTED = 501
TOO_MANY, _TOO_LARGE = 429, 413
PAGE_HINT = "Check that the url is a WebDAV folder, and that no log-in page or proxy answers in the server's place."

_LOGIN_HINT = "Check the user and password (or token) and the write permission."
_LOG_HINT = "Look into the log of the WebDAV server for the reason."
_MOVE_HINT = "Allow the methods COPY and MOVE, and let proxies in front of the server rewrite the Destination header."
_MOVE_REFUSED = (400, 403, 405, 409, 501, 502)
"""Responses to COPY and MOVE without ``dav_methods``, or with a Destination header that a proxy did not rewrite."""
_UNSUPPORTED_SCHEMES = ("Digest", "Negotiate", "NTLM", "Kerberos")
_COLLECTION = re.compile(rb"resourcetype[^>]*>\s*<[^/>]*collection")
_CONTENT_LENGTH = re.compile(rb"getcontentlength[^>]*>\s*(\d+)")
_HREF = re.compile(r"href[^>]*>\s*([^<]*?)/?\s*<")
_LAST_MODIFIED = re.compile(r"getlastmodified[^>]*>\s*([^<]*?)\s*<")


def names_collection(body: bytes) -> bool:
    """Return whether a response to PROPFIND (Depth 0) is about a collection."""
    return bool(_COLLECTION.search(body))


def content_length(body: bytes) -> int | None:
    """Return the size in a response to PROPFIND (Depth 0), if there is one."""
    match = _CONTENT_LENGTH.search(body)
    return int(match[1]) if match else None


def modified_times(body: bytes) -> Iterator[tuple[str, float]]:
    """Yield name and modification time of each member in a response to PROPFIND (Depth 1)."""
    for entry in body.decode(errors="replace").split("response>"):
        href, timestamp = _HREF.search(entry), _LAST_MODIFIED.search(entry)
        with suppress(ValueError):
            if href and timestamp:
                yield unquote(href[1].rpartition("/")[2]), parsedate_to_datetime(timestamp[1]).timestamp()


def error_of(
    status: int, message: str, *, internal: bool, moves: bool = False, challenges: Sequence[str] = ()
) -> DestinationError:
    """Return the error for a response. The refusal of an internal path, or of a method, may concern all tasks.

    Args:
        status: status of the response.
        message: method and status, without names.
        internal: whether the path that the request changes is one of the exporter's own.
        moves: whether the request is COPY or MOVE.
        challenges: the values of the header ``WWW-Authenticate``.
    """
    if status == 401:
        return DestinationUnavailable(message, hint=_login_hint(challenges))
    if moves and status in _MOVE_REFUSED:
        return DestinationUnavailable(message, hint=_MOVE_HINT if internal else _LOG_HINT)
    if status == 403 and internal:
        return DestinationUnavailable(message, hint=_LOGIN_HINT)
    if 200 <= status < 300 and status != 207:  # 207 reports that a part of the request failed
        return DestinationUnavailable(message, hint=PAGE_HINT)
    if internal and (status in (NOT_FOUND, NOT_ALLOWED, CONFLICT) or 300 <= status < 400):
        return DestinationUnavailable(message, hint="Check that the url is a WebDAV folder and that its parent exists.")
    if status == NO_SPACE:
        return DestinationUnavailable(message, hint="Free space on the WebDAV server, or raise the quota.")
    if status >= 500 or status in (408, 429):
        return DestinationUnavailable(message, hint="Check that the WebDAV server is healthy.")
    kind = DestinationUnavailable if internal and status != _TOO_LARGE else DestinationError
    return kind(message, hint=_LOG_HINT)


def _login_hint(challenges: Sequence[str]) -> str:
    offered = re.findall(r"(?:^|,)\s*(\w+)", ",".join(challenges).lower())
    unsupported = [scheme for scheme in _UNSUPPORTED_SCHEMES if scheme.lower() in offered]
    if not unsupported or "basic" in offered or "bearer" in offered:
        return _LOGIN_HINT
    return f"Enable basic authentication or bearer tokens on the server; it offers {' and '.join(unsupported)}."
