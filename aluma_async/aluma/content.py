"""``ContentCheck``: detects downloads that cannot be the requested file: error pages, log-in pages and empty bodies.

It compares the first bytes with the file's name. Each rule is certain, because a false alarm keeps a task from being
exported: an image may have the format of another image, an Office file may be encrypted, and ``.doc``, ``.xls`` and
``.txt`` may contain the many things that they contain in practice. Unknown names are only checked for emptiness. Where
there is a signature, the bytes decide and not the content type. Wrong content of the right format is not detected,
except for a PDF that was cut (``is_cut``), because a proxy may pass on the beginning of a file as the whole.
"""

import re

import msgspec

_HEAD_BYTES = 1024
"""Number of bytes that decide, because a PDF may begin anywhere in them (Adobe's reader accepts that)."""
TAIL_BYTES = 4096
"""Number of bytes at the end of a PDF that must contain its end mark; Adobe's reader wants it in the last 1024."""
_MAX_JSON_BYTES = 64 * 1024
"""Maximum size of a file that is parsed to find out whether it is JSON."""

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK")
_OFFICE = (*_ZIP, _OLE)  # because encrypted Office files are OLE files
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_JPEG_2000 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
_IMAGE = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"RIFF", *_TIFF, *_JPEG_2000)
_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "pdf": (b"%PDF-",),
    **dict.fromkeys(("png", "jpg", "jpeg", "jpe", "jfif", "gif", "tif", "tiff", "bmp"), _IMAGE),
    **dict.fromkeys(("zip", "odt", "ods", "odp", "odg", "epub"), _ZIP),
    **dict.fromkeys(("docx", "docm", "dotx", "xlsx", "xlsm", "xlsb", "xltx", "pptx", "pptm", "ppsx", "potx"), _OFFICE),
    "msg": (_OLE,),
    "rtf": (b"{\\rtf",),
    "gz": (b"\x1f\x8b",),
    "7z": (b"7z\xbc\xaf\x27\x1c",),
}
BINARY_EXTENSIONS = tuple(_SIGNATURES)
"""Extensions of the formats that have a signature, in lower case."""
_HTML = frozenset({"html", "htm", "xhtml", "xht", "shtml"})
_XML = frozenset({"xml", "xsd", "svg"})
_TABLE_OR_MAIL = frozenset({"csv", "tsv", "eml"})
_NEVER_JSON = _TABLE_OR_MAIL | {"doc", "xls", "ppt"}

_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|script)[\s>]", re.IGNORECASE)
_MARKUP = re.compile(rb"<(?:!doctype|html|head|body|script|\?xml|!--)", re.IGNORECASE)
_JSON_TYPE = re.compile(r"\s*(?:application|text)/(?:[\w.-]+\+)?json\b", re.IGNORECASE)
_BLANK = b" \t\r\n\x0c\xef\xbb\xbf\xff\xfe"  # white space, and the byte order marks of UTF-8 and UTF-16
_EBCDIC_XML = b"\x4c\x6f"


class ContentCheck:
    """Checks one file, whose name and content type are known, while it arrives."""

    def __init__(self, filename: str, content_type: str) -> None:
        self._extension = _extension(filename)
        self._content_type = content_type
        self._head = b""

    def feed(self, chunk: bytes) -> str | None:
        """Add the next bytes. Return None if more are needed, otherwise the problem, or "" if there is none."""
        may_be_json = self._extension in _NEVER_JSON and (self._text() or chunk.lstrip(_BLANK))[:1] in (b"{", b"[")
        limit = _MAX_JSON_BYTES if may_be_json else _HEAD_BYTES
        self._head += chunk[: max(limit + 1 - len(self._head), 0)]
        return self._problem() if len(self._head) > limit else None

    def close(self) -> str:
        """Return the problem of a file that has ended, or "" if there is none."""
        return self._problem() if self._head else "the file is empty"

    def _problem(self) -> str:
        extension, text = self._extension, self._text()
        if extension in _SIGNATURES:
            matches = self._has_signature(text)
        elif extension in _XML:
            matches = (text[:1] == b"<" or self._head.startswith(_EBCDIC_XML)) and not _PAGE.match(text)
        elif extension == "json":
            matches = text[:1] != b"<"
        elif text[:1] in (b"{", b"["):
            matches = not self._is_json(text)
        elif extension in _TABLE_OR_MAIL:
            matches = not _MARKUP.match(text)
        else:
            matches = extension != "txt" or not _PAGE.match(text)
        return "" if matches else f"the file begins like {_describe(text)}, not like .{extension}"

    def _has_signature(self, text: bytes) -> bool:
        signatures = _SIGNATURES[self._extension]
        if self._head.startswith(signatures):
            return True
        if self._extension == "pdf":
            return signatures[0] in self._head[:_HEAD_BYTES] and text[:1] not in (b"<", b"{", b"[")
        return signatures is _IMAGE and self._head[4:8] == b"ftyp"  # HEIF and AVIF

    def _is_json(self, text: bytes) -> bool:
        """Return whether a file that begins with a bracket is certainly JSON, and its name is not that of JSON."""
        if self._extension in _NEVER_JSON | _HTML | {"txt"} and _JSON_TYPE.match(self._content_type):
            return True
        if self._extension not in _NEVER_JSON or len(text) > _MAX_JSON_BYTES:
            return False
        try:
            msgspec.json.decode(text, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
        except (msgspec.DecodeError, ValueError, RecursionError):
            return False
        return True

    def _text(self) -> bytes:
        """Return the beginning as text in an encoding like UTF-8, without white space before it."""
        return self._head.replace(b"\x00", b"").lstrip(_BLANK)  # NUL: half of the bytes in UTF-16


def content_problem(filename: str, content: str) -> str:
    """Return the problem of a file whose content is in the Export Specification, or "" if there is none."""
    check = ContentCheck(filename, "")
    problem = check.feed(content[: _MAX_JSON_BYTES + 1].encode())
    return check.close() if problem is None else problem


def is_cut(filename: str, tail: bytes) -> bool:
    """Return whether a file lacks its end. ``tail``: its last ``TAIL_BYTES`` bytes."""
    return _extension(filename) == "pdf" and b"%%EOF" not in tail


def is_html(content_type: str | None) -> bool:
    """Return whether a content type is that of a web page."""
    return content_type is not None and content_type.lstrip().lower().startswith(("text/html", "application/xhtml"))


def may_be_html(filename: str) -> bool:
    """Return whether a file with this name may be a web page."""
    return _extension(filename) in _HTML


def _extension(filename: str) -> str:
    _, dot, extension = filename.rstrip(" .").rpartition(".")
    return extension.lower() if dot else ""


def _describe(text: bytes) -> str:
    if _PAGE.match(text):
        return "a web page"
    return {b"<": "XML", b"{": "JSON", b"[": "JSON"}.get(text[:1], "something else")
