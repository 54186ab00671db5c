"""Checks the headers of the responses to downloads: whether they announce the file, whole or from a byte on."""

import re

import aiohttp

from aluma_async.aluma.content import is_html, may_be_html, may_be_mail
from aluma_async.exceptions import InvalidResponse, WrongContent
from aluma_async.models import ExportFile

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_STRONG_ETAG = re.compile(r'"[^"]*"').fullmatch
_CONTENT_HINT = (
    "Check whether a proxy or a log-in page answers in place of Aluma. If the file is right, set"
    " verify_content = false under [aluma]."
)
_WRAPPERS = ("multipart/form-data", "multipart/mixed")
"""Types of bodies whose parts are files."""
_FILE_TYPES = frozenset({None, "application/pdf", "application/octet-stream"})


def validate_download(
    operation: str, file: ExportFile, response: aiohttp.ClientResponse, *, verify_content: bool
) -> None:
    """Raise ``InvalidResponse`` if a truncated body could go unnoticed, or if the response is not the file.

    ``verify_content``: whether a type of errors or of web pages, which some servers send with files, is refused.
    """
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
    if not verify_content:
        return
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
