"""Decodes the API's JSON and headers into the values of ``models``. Pure: no I/O, no clock.

Source of the formats: Aluma's public guide "Export data". Unused fields are not decoded.
"""

import json
import re
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from aluma_async.aluma.content import content_problem
from aluma_async.aluma.formats import SIGNATURES
from aluma_async.aluma.incomplete import announced_total, sign_of_missing
from aluma_async.aluma.tolerant_json import SURROGATE, UNREADABLE, Number, clean, loads
from aluma_async.aluma.urls import DownloadUrls, RefusedUrl, is_plain_path
from aluma_async.exceptions import BadSpecification, InvalidResponse
from aluma_async.models import ExportFile, ExportSpec


class _File(Struct):
    filename: str
    folder: str | UnsetType | None = UNSET
    source: str | UnsetType | None = UNSET
    content: str | UnsetType | None = UNSET
    url: str | UnsetType | None = UNSET


class _Document(Struct):
    files: list[_File]


class _Spec(Struct):
    documents: list[_Document]


class _Token(Struct):
    access_token: str
    expires_in: Any = None


class _State(Struct):
    state: str


class _Problem(Struct):
    """The two known formats of errors: ``{"message": ...}`` and RFC 7807."""

    message: str | None = None
    title: str | None = None
    detail: str | None = None


_spec = msgspec.json.Decoder(_Spec)

_OF_CONTENT = re.compile(r"(?:encoding|content|compress\w*|base64|part|data|ur[il])$", re.IGNORECASE).search
"""Names of fields that may say how to read a file, or where the rest of it is."""
_FILE_MARK = b'"filename"'
_DOCUMENT_MARK = b'"files"'
_UNCOUNTED = re.compile(rb'"(?:\s+:|(?<=\\\\"):)').search
"""Finds a field with white space before its colon, or with a name that ends with a backslash; also some texts."""
_BINARY = re.compile(rf"\.(?:{'|'.join(SIGNATURES)})\W*\Z", re.IGNORECASE).search


def export_spec(
    body: bytes, urls: DownloadUrls | None = None, *, max_files: int = 0, verify_content: bool = True
) -> ExportSpec:
    """Decode an Export Specification.

    A file that cannot be exported has a ``problem``; the other files stay readable, for the quarantine. With ``urls``,
    a URL that must not be requested is a problem; with ``verify_content``, so is a text as content of a file whose name
    is that of a binary format. Unpaired surrogates, which no encoding can represent, become
    replacement characters. Raises ``BadSpecification`` if the specification is unreadable, if it or one of its
    documents contains nothing, or if it contains more than ``max_files`` files (0: no limit).
    """
    # Counted before decoding, which would need seconds and much memory. Texts contain no such bytes, but \"filename\".
    # A document without a file is refused anyway, so documents count like files.
    if 0 < max_files < (count := max(body.count(_FILE_MARK), body.count(_DOCUMENT_MARK))):
        raise BadSpecification(
            f"the Export Specification contains {count} files, more than {max_files}",
            hint="Raise max_files under [limits] if such tasks are expected.",
            received=body,
        )
    try:
        spec = _spec.decode(body)
    except UNREADABLE as error:
        if files := _files_with_surrogates(body, urls, verify_content):
            _check_fields(body, verify_content)
            return ExportSpec(files, body)
        # A ValidationError contains only field paths and types; other messages could quote content.
        reason = str(error) if isinstance(error, msgspec.ValidationError) else "not JSON"
        raise BadSpecification(f"unreadable Export Specification: {reason}", received=body) from None
    if _count_fields(body) != _known_fields(spec) or _UNCOUNTED(body):
        _check_fields(body, verify_content)
    return ExportSpec(_files(spec, body, urls, verify_content), body)


def _count_fields(body: bytes) -> int:
    """Return the number of fields of all objects in a JSON text, except those that ``_UNCOUNTED`` finds."""
    return body.count(b'":') - body.count(b'\\":')  # in a text, the quote is escaped


def _known_fields(spec: _Spec) -> int:
    """Return the number of fields that a decoded specification had, if none was unknown or repeated."""
    fields = 1 + len(spec.documents)
    for document in spec.documents:
        for file in document.files:
            fields += (
                1
                + (file.folder is not UNSET)
                + (file.source is not UNSET)
                + (file.content is not UNSET)
                + (file.url is not UNSET)
            )
    return fields


def _check_fields(body: bytes, verify_content: bool) -> None:
    """Raise ``BadSpecification`` if decoding loses something.

    That is a field that occurs twice, an unknown field that has members, one whose name says that it belongs to the
    content, such as an encoding or a second URL, and one that says that documents are missing, such as a next page, a
    larger total or an error. Others are ignored, so that Aluma can add some.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(fields := dict(pairs)) < len(pairs):
            raise BadSpecification("unreadable Export Specification: a field occurs twice", received=body)
        return fields

    try:  # parse_int, because int() refuses thousands of digits
        spec = json.loads(body.decode(errors="surrogateescape"), object_pairs_hook=unique, parse_int=float)
    except UNREADABLE:
        raise BadSpecification("unreadable Export Specification: not JSON", received=body) from None
    documents = spec["documents"]
    files = [file for document in documents for file in document["files"]]
    for known, objects in (({"documents"}, [spec]), ({"files"}, documents), (set(_File.__struct_fields__), files)):
        for fields in objects:
            for name, value in fields.items():
                if name in known:
                    continue
                if objects is not files and verify_content:
                    total = announced_total(name, value, of_files=objects is documents)
                    is_more = total > max(len(documents), len(files))
                    if problem := "announces more" if is_more else sign_of_missing(name, value):
                        raise BadSpecification(
                            f"the Export Specification is not complete: its field {name[:40]!r} {problem}",
                            hint="Ask Aluma. If the task is complete, set verify_content = false under [aluma].",
                            received=body,
                        )
                if value and (isinstance(value, dict | list) or _OF_CONTENT(name)):
                    raise BadSpecification(
                        f"the Export Specification has an unknown field {name[:40]!r}, which may be needed",
                        hint="Look for a newer version of aluma-async.",
                        received=body,
                    )


def _files_with_surrogates(body: bytes, urls: DownloadUrls | None, verify_content: bool) -> tuple[ExportFile, ...]:
    """Decode a specification with unpaired surrogates, which msgspec refuses; they become replacement characters.

    Returns nothing if the specification is unreadable for another reason.
    """
    try:
        decoded = json.loads(body.decode(), parse_constant=_refuse)
        text = json.dumps(decoded, ensure_ascii=False)
        if not SURROGATE.search(text):
            return ()
        original = msgspec.convert(decoded, _Spec)
        cleaned = _spec.decode(SURROGATE.sub("\ufffd", text).encode())
    except UNREADABLE:
        return ()
    files = _files(cleaned, body, urls, verify_content)
    changed = (file for document in original.documents for file in document.files)
    return tuple(_mark_changes(file, before) for file, before in zip(files, changed, strict=True))


def _mark_changes(file: ExportFile, before: _File) -> ExportFile:
    """Mark a file whose content or URL was changed. A changed name prevents nothing: it is made safe in any case."""
    if file.source == "content":
        return replace(file, invalid_text=file.content != (before.content or ""))
    return file if file.url == (before.url or "") else replace(file, problem="the url is not valid Unicode", hint="")


def _refuse(constant: str) -> object:
    """Refuse NaN and Infinity, which JSON does not have."""
    raise ValueError(constant)


def _files(spec: _Spec, body: bytes, urls: DownloadUrls | None, verify_content: bool) -> tuple[ExportFile, ...]:
    if not spec.documents:
        raise BadSpecification("the Export Specification contains no document", received=body)
    files: list[ExportFile] = []
    for number, document in enumerate(spec.documents):
        if not document.files:
            raise BadSpecification(f"document {number} of the Export Specification contains no file", received=body)
        for file in document.files:
            files.append(_file(len(files), number, file, urls, verify_content))
    return tuple(files)


def _file(number: int, document: int, file: _File, urls: DownloadUrls | None, verify_content: bool) -> ExportFile:
    problem = hint = ""
    if file.source == "content":
        if not isinstance(file.content, str):
            problem = "source is 'content', but it has no content"
        elif file.content and file.url:
            problem = "it has a content and a url, and only one of them could be exported"
        elif verify_content and _BINARY(file.filename):
            problem = content_problem(file.filename, file.content)
    elif file.source != "url":
        problem = f"unknown source {str(file.source or '')[:40]!r}"
        hint = "Look for a newer version of aluma-async."
    elif not file.url:
        problem = "source is 'url', but it has no url"
    elif file.content:
        problem = "it has a content and a url, and only one of them could be exported"
    elif urls and not is_plain_path(file.url) and isinstance(refused := urls.resolve(file.url), RefusedUrl):
        problem, hint = refused
    return ExportFile(
        number,
        document,
        file.folder or "",
        file.filename,
        "content" if file.source == "content" else "url",
        file.content or "",
        file.url or "",
        problem,
        hint,
    )


def decode_token(body: bytes) -> tuple[str, float]:
    """Return a token and its lifetime in seconds (300 if unspecified). Raises ``InvalidResponse``."""
    try:
        response = msgspec.json.decode(body, type=_Token)
    except UNREADABLE:
        raise InvalidResponse("the response to the token request contains no token") from None
    if not response.access_token.isascii() or not response.access_token.isprintable():
        raise InvalidResponse("the response to the token request contains an invalid token")
    try:
        lifetime = float(response.expires_in)
    except (TypeError, ValueError, OverflowError):
        lifetime = 0.0
    return response.access_token, lifetime if 0 < lifetime < float("inf") else 300.0


def decode_state(body: bytes) -> str:
    """Return the state of a task, whatever its other fields contain. Raises ``InvalidResponse``."""
    try:
        return msgspec.json.decode(body, type=_State).state
    except UNREADABLE:
        task = _loads_object(body)
    state = task.get("state")
    if isinstance(state, str) and not isinstance(state, Number):
        return state
    raise InvalidResponse("unreadable task")


def is_json(body: bytes) -> bool:
    """Return whether a body is JSON, or has only white space."""
    for decode in (msgspec.json.decode, loads):
        with suppress(*UNREADABLE):
            decode(body)
            return True
    return not body.strip()


def _loads_object(body: bytes) -> dict[str, Any]:
    """Return the fields of an object; none if it is unreadable."""
    with suppress(*UNREADABLE):
        if isinstance(fields := loads(body), dict):
            return fields
    return {}


def error_message(body: bytes) -> str:
    """Return the message in the body of an error, as one short line; empty if there is none."""
    try:
        error_body = msgspec.json.decode(body, type=_Problem)
    except UNREADABLE:
        fields = _loads_object(body)
        error_body = _Problem(*(clean(fields.get(name)) for name in _Problem.__struct_fields__))
    text = error_body.message or ": ".join(filter(None, (error_body.title, error_body.detail)))
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()


def retry_after(value: str | None, date: str | None) -> float | None:
    """Return the seconds in a Retry-After header, given as a number or a date; None if it is missing or invalid.

    A date is compared with the response's own ``Date``, so that a wrong local clock does not matter.
    """
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        seconds = (parsedate_to_datetime(value) - parsedate_to_datetime(date or "")).total_seconds()
    except (TypeError, ValueError, OverflowError):  # not a date, too far away, or only one of the two has a time zone
        return None
    return seconds if seconds > 0 else None
