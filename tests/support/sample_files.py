"""Small complete files of binary formats."""

import io
import struct
import zipfile
import zlib

PDF = b"%PDF-1.4\nright bytes\n%%EOF\n"


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with further chunks before its end."""
    header = struct.pack(">2L5B", 1, 1, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data)) for name, data in parts
    )


def segment(code: int, data: bytes) -> bytes:
    """Return a segment of a JPEG."""
    return b"\xff%c" % code + struct.pack(">H", len(data) + 2) + data


def jpeg(*segments: bytes, scan: bytes = b"scan\xff\x00data" * 50) -> bytes:
    """Return a JPEG with segments before its image."""
    return b"\xff\xd8" + b"".join(segments) + segment(0xDA, b"\x01\x01\0\0?\0") + scan + b"\xff\xd9"


def gif(*extensions: bytes) -> bytes:
    """Return a GIF with extensions before its image."""
    image = b",\0\0\0\0\x01\0\x01\0\x80" + bytes(6) + b"\x02\x02L\x01\0"
    return b"GIF89a\x01\0\x01\0\x80\0\0" + bytes(6) + b"".join(extensions) + image + b";"


def archive(content: bytes = b"content" * 40, comment: bytes = b"", before: bytes = b"") -> bytes:
    """Return a ZIP file with one member."""
    buffer = io.BytesIO(before)
    with zipfile.ZipFile(buffer, "a" if before else "w") as file:
        file.writestr(zipfile.ZipInfo("member"), content)  # without the time, so that the bytes are always the same
        file.comment = comment
    return buffer.getvalue()


PNG, JPEG, GIF, ZIP = png(), jpeg(segment(0xE0, b"JFIF\0")), gif(), archive()
