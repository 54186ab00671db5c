"""Detects files without their end: a proxy may pass on the first part of a file, with the length of that part.

``missing_end`` decides by the first and the last bytes; ``image_ends`` follows the parts of images. A file whose format
they do not understand counts as complete.
"""

import re
import struct

from aluma_async.aluma.formats import OLE, SEVEN_ZIP, XML, ZIP

PDF_TAIL_BYTES = 4096
"""Number of bytes at the end of a PDF that must contain its end mark; Adobe's reader wants it in the last 1024."""
TAIL_BYTES = 64 * 1024 + 22
"""Number of bytes at the end of a ZIP file that can follow the beginning of its last record."""

MAX_NULS = 22
"""Number of NUL bytes at the end of a file that may belong to it: the length of the last record of a ZIP file."""
_PADDING = b" \t\r\n\x0b\x0c\x00\x1a\x1c"
_LINEARIZED = re.compile(rb"<<[^>]{0,500}/Linearized\b[^>]{0,500}>>").search
_LENGTH = re.compile(rb"/L\s{1,9}(\d{1,15})\b").search
_ZIP_END = struct.Struct("<4H2LH")  # disk numbers, counts of entries, size and offset of the directory, comment
_MAX_SECTOR = 0xFFFFFFFA  # of an OLE file; larger numbers have a special meaning
_UNKNOWN = (0xFFFF, 0xFFFFFFFF)
"""Values of fields whose real value is in the ZIP64 record."""
# Atomic and possessive, because a text could otherwise be divided in very many ways.
_PROLOG = rb"(?>\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^<>\[]*(?:\[.*?\]\s*)?>)*+"
_ROOT = re.compile(_PROLOG + rb"<([^\s<>/!?&;,]+)(?=[\s/>])", re.DOTALL | re.IGNORECASE)
_START_TAG = re.compile(rb"""(?>[^<>"']|"[^"]*"|'[^']*')*+>""")
_CHUNK_SIZE = re.compile(rb"([0-9a-f]{1,8})\r\n", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"


def missing_end(extension: str, head: bytes, tail: bytes, size: int, nuls: int) -> str:
    """Return what the end of a file lacks; empty if it is complete, or if that is not certain.

    ``head``: the first 1024 bytes; ``tail``: the last ``TAIL_BYTES`` bytes before the ``nuls`` NUL bytes at the end;
    ``size``: the size of the file with them. Up to ``MAX_NULS`` of them are in the tail, and not counted.
    """
    if extension == "pdf":
        if b"%%EOF" not in tail[-PDF_TAIL_BYTES:]:
            return "%%EOF" if tail.strip(_PADDING) else ""
        # A PDF for the web has another %%EOF near its beginning.
        if (
            b"/Linearized" in head
            and (dictionary := _LINEARIZED(head))
            and (length := _LENGTH(dictionary[0]))
            and size < int(length[1])
        ):
            return f"bytes {size} to {int(length[1]) - 1}"
        return ""
    if extension in XML:
        return _missing_end_of_xml(head, tail)
    if extension == "json":
        return _missing_end_of_json(head, tail)
    if head.startswith(ZIP[:2]):
        return _missing_end_of_zip(head, tail, size - nuls)
    if size < (end := _announced_size(head)):
        return f"bytes {size} to {end - 1}"
    return ""


def is_chunked(head: bytes, tail: bytes, size: int) -> bool:
    """Return whether a file is one chunk of a chunked body, with its frame."""
    if not (match := _CHUNK_SIZE.match(head)) or not tail.endswith(_LAST_CHUNK):
        return False
    return int(match[1], 16) == size - match.end() - len(_LAST_CHUNK)


def _announced_size(head: bytes) -> int:
    """Return the size that a file must have by its header; 0 if unknown."""
    if head.startswith(SEVEN_ZIP) and len(head) >= 32:
        offset, length = struct.unpack_from("<2Q", head, 12)
        return 32 + int(offset + length)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(b"BM") and len(head) >= 34:
        pixels, info, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", head, 10)
        is_plain = info >= 40 and not compression and 0 < width < 2**24 and abs(height) < 2**24
        return pixels + (width * bits + 31) // 32 * 4 * abs(height) if is_plain else 0
    if head.startswith(OLE) and len(head) >= 512:
        size_bits, count = struct.unpack_from("<H", head, 30)[0], struct.unpack_from("<I", head, 44)[0]
        sectors = struct.unpack_from("<109I", head, 76)[:count]  # others are not used, and may contain anything
        used = [sector for sector in (*sectors, *struct.unpack_from("<I", head, 48)) if sector <= _MAX_SECTOR]
        return (max(used, default=-1) + 2) << size_bits if size_bits in (9, 12) else 0  # the header is one, too
    return 0


def _missing_end_of_zip(head: bytes, tail: bytes, size: int) -> str:
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < 4 + _ZIP_END.size:
        return "the end of its directory" if tail.strip(_PADDING) else ""
    *numbers, length, offset, comment = _ZIP_END.unpack_from(tail, position + 4)
    if any(numbers[:2]) or length in _UNKNOWN or offset in _UNKNOWN:
        return ""
    before = size - len(tail) + position - length - offset  # bytes in front of the archive
    after = len(tail) - position - 4 - _ZIP_END.size - comment
    # An archive within the archive has bytes on both sides; one of both is common.
    is_inner = before > 0 and after > 0 and head.startswith(ZIP[0])
    return "the end of its directory" if before < 0 or after < 0 or is_inner else ""


def _missing_end_of_json(head: bytes, tail: bytes) -> str:
    text, end = _plain(head), _plain(tail)[-1:]
    bracket = {b"{": b"}", b"[": b"]"}.get(text[:1])
    return bracket.decode() if bracket and end and end != bracket else ""


def _missing_end_of_xml(head: bytes, tail: bytes) -> str:
    text, end = _plain(head), _plain(tail)
    if text[:1] != b"<" or not end:
        return ""
    if end[-1:] != b">":
        return ">"
    end = _without_epilog(end)
    if b"\x00" in head or not end or not (root := _ROOT.match(text)):
        return ""
    name = root[1]
    last_tag = end[end.rfind(b"<") :]
    if last_tag.startswith(b"</" + name) and last_tag[2 + len(name) :].strip() == b">":
        return ""
    start_tag = _START_TAG.match(text, root.end())
    # A text with several roots is not XML, but some programs write it.
    is_closed = start_tag is None or start_tag[0].endswith(b"/>") or b"</" + name in text
    return "" if is_closed else "the end tag of its root"


def root_of(text: bytes) -> bytes:
    """Return the name of the first element of an XML text; empty if it does not begin like XML."""
    match = _ROOT.match(_plain(text))
    return match[1] if match else b""


def ends_with_tag(tail: bytes, name: bytes) -> bool:
    """Return whether a text ends with the end tag of an element."""
    return _plain(tail).endswith(b"</" + name + b">")


def _without_epilog(text: bytes) -> bytes:
    """Remove comments and processing instructions after the root; return nothing if they begin before ``text``."""
    while True:
        text = text.rstrip(_PADDING)
        if text.endswith(b"?>"):
            start = text.rfind(b"<?")
        elif text.endswith(b"-->"):
            start = text.rfind(b"<!--")
        else:
            return text
        text = text[: max(start, 0)]


def _plain(text: bytes) -> bytes:
    """Return a text in an encoding like UTF-8 or UTF-16 without its byte order mark and padding."""
    return text.replace(b"\x00", b"").removeprefix(b"\xef\xbb\xbf").lstrip(b"\xff\xfe").strip(_PADDING)
