"""``ContentCheck``: detects downloads that cannot be the requested file: error and log-in pages, cut or empty bodies.

It compares the first and the last bytes with the name under which the file is stored. Each rule is certain, because a
false alarm keeps a task from being exported: an image may have the format of another image, an Office file may be
encrypted, and ``.doc``, ``.xls`` and ``.txt`` may contain the many things that they contain in practice. Unknown names
are only checked for emptiness, for the frame of a chunked body and for the shapes of errors. Where there is a
signature, the bytes decide and not the content type. Wrong content of the right format is not detected, except if its
end is missing.
"""

import re

import msgspec

from aluma_async.aluma import error_answers, file_ends
from aluma_async.aluma.formats import BINARY, HTML, IMAGE, SIGNATURES, TABLE_OR_MAIL, TEXT, XML, stored_extension
from aluma_async.aluma.image_ends import WALK_BYTES, ImageWalk, image_walk

_HEAD_BYTES = 1024
"""Number of bytes that decide, because a PDF may begin anywhere in them (Adobe's reader accepts that)."""
_MAX_NULS_OF_TEXT = 4096
"""Number of NUL bytes at the end of a text that may be padding; more come from a file system after a power loss."""

_JSON_LINES = frozenset({"json", "jsonl", "ndjson", "jsonc", "json5", "log"})
"""Extensions of files that may be JSON errors."""
_PAGES = HTML | {"xml", "log", "mht", "mhtml"}
"""Extensions of files that may be error pages or XML errors."""
_OFFICE = frozenset({"doc", "xls", "ppt"})
_NEVER_JSON = TABLE_OR_MAIL | _OFFICE
_WITH_END = frozenset(SIGNATURES) | XML | {"json"}

_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|script)[\s>]", re.IGNORECASE)
_PAGE_IN_XML = re.compile(rb"(?:(?i:<!doctype\s+html|<html)|<(?:head|body|script))[\s>]")
"""XML may have a root named Head or Body."""
_MARKUP = re.compile(rb"<(?:!doctype|html|head|body|script|\?xml|!--)", re.IGNORECASE)
_FRAME = re.compile(rb"[0-9a-f]{1,8}(?:;[^\r\n]*)?\r\n(?=(.?))|HTTP/\d", re.IGNORECASE | re.DOTALL)
"""The size of a chunk, or the beginning of a response."""
_BLANK = b" \t\r\n\x0c\xef\xbb\xbf\xff\xfe"  # white space, and the byte order marks of UTF-8 and UTF-16
_EBCDIC_XML = b"\x4c\x6f"


class ContentCheck:
    """Checks one file, whose name and content type are known, while it arrives."""

    def __init__(self, filename: str, content_type: str) -> None:
        self._extension = stored_extension(filename)
        self._tail_bytes = file_ends.PDF_TAIL_BYTES if self._extension == "pdf" else file_ends.TAIL_BYTES
        self._content_type = content_type
        self._head = self._tail = b""
        self._size = self._nuls = 0  # NUL bytes since the last other byte, as far as they are not in the tail
        self._begins_right = False
        self._walk: ImageWalk | None = None

    def feed(self, chunk: bytes) -> str:
        """Add the next bytes. Return the problem that they show, or "" if there is none so far."""
        size = self._size = self._size + len(chunk)
        if chunk[-1:] == b"\x00" and not chunk.strip(b"\x00"):
            self._nuls += len(chunk)
        else:
            if self._nuls:
                self._tail += bytes(min(self._nuls, self._tail_bytes))
                self._nuls = 0
            self._tail = chunk if len(chunk) >= self._tail_bytes else self._tail[-self._tail_bytes :] + chunk
        if not self._begins_right:
            return self._feed_beginning(chunk, size)
        if self._walk:
            self._walk.feed(chunk)
        return ""

    def close(self) -> str:
        """Return the problem of a file that has ended, or "" if there is none."""
        if not self._size:
            return "the file is empty"
        if not self._begins_right and (problem := self._problem()):
            return problem
        head, tail, extension = self._head[:_HEAD_BYTES], self._tail, self._extension
        nuls = uncounted = 0
        if self._nuls or tail[-1:] == b"\x00":
            tail = self._tail.rstrip(b"\x00")
            nuls = self._nuls + len(self._tail) - len(tail)
            tail += bytes(min(nuls, file_ends.MAX_NULS))
            uncounted = max(0, nuls - file_ends.MAX_NULS)
        tail = tail[-self._tail_bytes :]
        if nuls > _MAX_NULS_OF_TEXT and extension in TABLE_OR_MAIL | HTML | {"txt"}:
            missing = f"{nuls} NUL bytes in its place"
        elif self._walk:
            missing = "" if self._walk.has_ended() else "the end of the image"
        elif extension in _WITH_END:
            missing = file_ends.missing_end(extension, head, tail, self._size, uncounted)
        else:
            missing = ""
            if self._is_xml(head, tail):
                return _unlike("XML", extension)
        if missing:
            return f"the file of {self._size} bytes has no end ({missing})"
        is_chunked = extension != "pdf" and file_ends.is_chunked(head, tail, self._size)
        return "the file has the frame of a chunked body" if is_chunked else ""

    def _feed_beginning(self, chunk: bytes, size: int) -> str:
        if chunk[:5] == b"%PDF-" and self._extension == "pdf" and not self._head:
            self._head = chunk[:_HEAD_BYTES]
            self._begins_right = True  # most files, which therefore need no further check of their beginning
            return ""
        if self._walk:
            self._walk.feed(chunk)
        elif size - len(chunk) < WALK_BYTES <= size and self._extension in SIGNATURES:
            self._walk = image_walk(self._head + chunk)
        limit = error_answers.MAX_BYTES if self._may_be_error(self._text() or chunk.lstrip(_BLANK)) else _HEAD_BYTES
        self._head += chunk[: max(limit + 1 - len(self._head), 0)]
        if len(self._head) <= limit:
            return ""
        problem = self._problem()
        self._begins_right = not problem
        return problem

    def _problem(self) -> str:
        """Return the problem of the beginning."""
        extension, text = self._extension, self._text()
        if (frame := _FRAME.match(text)) and self._is_framed(text, frame):
            return "the file begins with the frame of a response"
        if extension in SIGNATURES:
            matches = self._has_signature(text)
        elif extension in TEXT and self._head.startswith(BINARY):
            matches = False
        elif extension in XML:
            matches = (text[:1] == b"<" or self._head.startswith(_EBCDIC_XML)) and not _PAGE_IN_XML.match(text)
        elif extension == "json":
            matches = text[:1] != b"<"
        elif text[:1] in (b"{", b"["):
            matches = not self._is_json(text)
        elif extension in TABLE_OR_MAIL:
            matches = not _MARKUP.match(text)
        else:
            matches = extension != "txt" or not _PAGE.match(text)
        if not matches:
            return _unlike(_describe(text), extension)
        kind = self._kind_of_error(text) if self._may_be_error(text) else ""
        return f"the file is {kind} in place of a document" if kind else ""

    def _may_be_error(self, text: bytes) -> bool:
        """Return whether a file that begins with this text is an error if it has the shape of one."""
        if self._extension in SIGNATURES:
            return False
        if text[:1] == b"<":
            return self._extension not in _PAGES
        return text[:1] in (b"{", b"[") and self._extension not in _JSON_LINES

    def _kind_of_error(self, text: bytes) -> str:
        if self._extension in _OFFICE and _PAGE.match(text):  # Office opens web pages
            return "a log-in page" if error_answers.has_password_field(text) else ""
        return error_answers.kind_of_error(text, self._content_type)

    def _is_framed(self, text: bytes, frame: re.Match[bytes]) -> bool:
        """Return whether a file that begins like a frame certainly has one."""
        begins = text[frame.end() :]
        if self._extension in SIGNATURES:
            return frame[1] is None or begins.startswith(SIGNATURES[self._extension])
        if self._extension == "json":
            return frame[1] in (b"{", b"[")
        return self._extension in HTML and _PAGE.match(begins) is not None

    def _has_signature(self, text: bytes) -> bool:
        signatures = SIGNATURES[self._extension]
        if self._head.startswith(signatures):
            return True
        if self._extension == "pdf":
            return signatures[0] in self._head[:_HEAD_BYTES] and text[:1] not in (b"<", b"{", b"[")
        return signatures is IMAGE and self._head[4:8] == b"ftyp"  # HEIF and AVIF

    def _is_json(self, text: bytes) -> bool:
        """Return whether a file that begins with a bracket is certainly JSON, and its name is not that of JSON."""
        if self._extension in _NEVER_JSON | HTML | {"txt"} and error_answers.is_json(self._content_type):
            return True
        if self._extension not in _NEVER_JSON or len(text) > error_answers.MAX_BYTES:
            return False
        try:
            msgspec.json.decode(text, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
        except (msgspec.DecodeError, ValueError, RecursionError):
            return False
        return True

    def _is_xml(self, head: bytes, tail: bytes) -> bool:
        """Return whether a table or a text is XML as a whole. A text may be, unless its root is that of an error."""
        if self._extension not in TABLE_OR_MAIL | {"txt"}:
            return False
        root = file_ends.root_of(head)
        if not root or (self._extension == "txt" and root.lower() != b"error"):
            return False
        return file_ends.ends_with_tag(tail, root)

    def _text(self) -> bytes:
        """Return the beginning as text in an encoding like UTF-8, without white space before it."""
        return self._head.replace(b"\x00", b"").lstrip(_BLANK)  # NUL: half of the bytes in UTF-16


def content_problem(filename: str, content: str) -> str:
    """Return the problem of a file whose content is in the Export Specification, or "" if there is none.

    Only names of binary formats are checked, because texts in the specification do not pass through a web server.
    """
    if stored_extension(filename) not in SIGNATURES:
        return ""
    check = ContentCheck(filename, "")
    return check.feed(content.encode()) or check.close()


def is_html(content_type: str | None) -> bool:
    """Return whether a content type is that of a web page."""
    return content_type is not None and content_type.lstrip().lower().startswith(("text/html", "application/xhtml"))


def may_be_html(filename: str) -> bool:
    """Return whether a file with this name may be a web page."""
    return stored_extension(filename) in HTML


def may_be_mail(filename: str) -> bool:
    """Return whether a file with this name may be a message with parts."""
    return stored_extension(filename) in ("eml", "mht", "mhtml", "mbox")


def _unlike(kind: str, extension: str) -> str:
    return f"the file begins like {kind}, not like .{extension}"


def _describe(text: bytes) -> str:
    if _PAGE.match(text):
        return "a web page"
    if text.startswith(BINARY):
        return "a binary file"
    return {b"<": "XML", b"{": "JSON", b"[": "JSON"}.get(text[:1], "something else")
