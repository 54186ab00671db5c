"""Recognizes errors of a web server that come with status 200 as the bytes of a file: JSON, XML and web pages. Pure.

Each shape is certain, because a false alarm keeps a task from being exported: JSON counts as an error only if each of
its names is one that errors have, XML only if its root is that of an error, and a page only if it asks for a password,
or has the title of an error. An error of plain text is not recognized.
"""

import re
from typing import TypeAlias

import msgspec

from aluma_async.aluma import file_ends

MAX_BYTES = 64 * 1024
"""Maximum size of a file that is parsed to find out whether it is an error."""

_Object: TypeAlias = dict[str, object]

# Names are compared in lower case, without separators.
_ERROR_NAME = re.compile(
    r"(?:odata)?errors?|err|error(?:code|message|description|details?|type|id)|exception(?:message|type)?"
    r"|fault(?:code|string)?|stack(?:trace)?"
).fullmatch
"""Names that only errors have."""
_TEXT_NAME = re.compile(r"message|msg|title|details?|description|reason|status(?:text|description)").fullmatch
_STATUS_NAME = re.compile(r"(?:http)?(?:status|code|statuscode)").fullmatch
_OTHER_NAME = re.compile(
    r"type|instance|path|timestamp|time|date|trace(?:id|string)?|spanid|activityid|correlationid|req(?:uest)?id|hostid"
    r"|error(?:link|uri|url)|documentationurl|moreinfo|help(?:url|link)?|inner(?:error|exception)|cause|target|service"
    r"|method|uri|url|host|success|succeeded|(?:is)?ok|schema|(?:odata)?context|id|version"
).fullmatch
_EMPTY_NAME = re.compile(r"result|data|value|resource").fullmatch
"""Names of what an error does not have: their values are empty."""
_JSON_TYPE = re.compile(r"\s*(?:application|text)/(?:[\w.-]+\+)?json\b", re.IGNORECASE).match
_BINARY_TYPE = re.compile(r"\s*(?:image/(?!svg)|audio/|video/|application/(?:pdf|zip|gzip)\b)", re.IGNORECASE).match
_PLAIN_JSON_TYPE = re.compile(r"\s*(?:application|text)/json\b", re.IGNORECASE).match
_SEPARATORS = str.maketrans("", "", "_-. ")
_FAILED_STATUSES = range(400, 600)

_XML_ERROR = re.compile(
    rb"errors?|errorresponse|fault|exception|(?:service)?exceptionreport|operationoutcome", re.IGNORECASE
).fullmatch
"""Names of the roots of errors."""
_SOAP_FAULT = re.compile(rb"<(?:[\w.-]+:)?Body\b[^<>]*>\s*<(?:[\w.-]+:)?Fault[\s>]")
_PROBLEM = re.compile(rb"urn:ietf:rfc:(?:7807|9457)")

_PAGE = re.compile(
    # Atomic and possessive, because a text could otherwise be divided in very many ways.
    rb"(?:<\?xml[^>]*>\s*)?(?><!--.*?-->\s*)*+<(?:!doctype\s+html|html|head|body)[\s>]",
    re.IGNORECASE | re.DOTALL,
)
_PASSWORD = re.compile(rb"""<input\b[^<>]*\btype\s*=\s*["']?password\b""", re.IGNORECASE)
_TITLE = re.compile(rb"<title\b[^<>]*>\s*([^<]{0,200})", re.IGNORECASE)
_ERROR_TITLE = re.compile(
    # A number may belong to an address, and a word to the name of a report: the error ends, or names its reason.
    rb"(?:http\s+)?(?:status\s+|error\s+)?(?:4\d\d|50\d)\s*(?:\Z|[^\w\s]|(?:not|bad|forbidden|unauthori[sz]ed|internal"
    rb"|service|gateway|method|request|proxy|error)\b)"
    rb"|(?:sign|log)[ -]?(?:in|on)\b"
    rb"|(?:error|access denied|forbidden|unauthori[sz]ed|not found|bad (?:gateway|request)|gateway time-?out"
    rb"|internal server error|service (?:temporarily )?unavailable|(?:under |site )?maintenance)\s*(?:\Z|[^\w\s])",
    re.IGNORECASE,
)


def kind_of_error(text: bytes, content_type: str) -> str:
    """Return the kind of the error that a file is as a whole; empty if it is not certainly one.

    Args:
        text: The file, or its first bytes if it is longer than ``MAX_BYTES``, without white space before it.
        content_type: Its content type. A mere message counts as an error if the type is plain JSON, and any page does
            if the type is that of a binary format.
    """
    if text[:1] in (b"{", b"["):
        return "a JSON error" if len(text) <= MAX_BYTES and _is_json_error(text, content_type) else ""
    if text[:1] != b"<":
        return ""
    if _PAGE.match(text):
        return "a web page" if _BINARY_TYPE(content_type) or _is_error_page(text) else ""
    return "an XML error" if len(text) <= MAX_BYTES and _is_xml_error(text) else ""


def is_json(content_type: str) -> bool:
    """Return whether a content type is that of JSON."""
    return _JSON_TYPE(content_type) is not None


def has_password_field(text: bytes) -> bool:
    """Return whether a text is a web page that asks for a password."""
    return _PAGE.match(text) is not None and _PASSWORD.search(text) is not None


def _is_json_error(text: bytes, content_type: str) -> bool:
    try:
        value = msgspec.json.decode(text.rstrip(b"\x00"), type=_Object | list[_Object])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    is_json_type = _PLAIN_JSON_TYPE(content_type) is not None
    objects = value if isinstance(value, list) else [value]
    return bool(objects) and all(_is_error(one, is_json_type) for one in objects)


def _is_error(value: _Object, is_json_type: bool) -> bool:
    if value.get("resourceType") == "OperationOutcome":  # FHIR
        return True
    has_error = has_text = is_failed = False
    for key, member in value.items():
        name = key.removeprefix("@odata.").translate(_SEPARATORS).lower()
        if _ERROR_NAME(name):
            has_error |= bool(member)
        elif _TEXT_NAME(name):
            has_text |= bool(member)
        elif _STATUS_NAME(name):
            is_failed |= _is_failed(member)
        elif not _OTHER_NAME(name) and not (_EMPTY_NAME(name) and not member):
            return False
    return has_error or (has_text and (is_failed or is_json_type))


def _is_failed(status: object) -> bool:
    if isinstance(status, str) and status.isascii() and status.isdigit():
        status = int(status[:9])
    return type(status) is int and status in _FAILED_STATUSES


def _is_xml_error(text: bytes) -> bool:
    root = file_ends.root_of(text)
    if not root or not file_ends.ends_with_tag(text, root):
        return False
    name = root.rpartition(b":")[2]
    if name == b"Envelope":
        return _SOAP_FAULT.search(text) is not None
    return _XML_ERROR(name) is not None or (name == b"problem" and _PROBLEM.search(text) is not None)


def _is_error_page(text: bytes) -> bool:
    title = _TITLE.search(text)
    return _PASSWORD.search(text) is not None or (title is not None and _ERROR_TITLE.match(title[1]) is not None)
