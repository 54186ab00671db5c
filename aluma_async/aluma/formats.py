"""File formats by extension: their signatures, and the extension under which a file is stored. Pure."""

from aluma_async.policy.naming import safe_path

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK")
_OFFICE = (*ZIP, OLE)  # because encrypted Office files are OLE files
TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_JPEG_2000 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
PNG, JPEG, GIF = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"GIF87a", b"GIF89a")
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"
_ICON = b"\x00\x00\x01\x00"
IMAGE = (PNG, JPEG, *GIF, b"BM", b"RIFF", *TIFF, *_JPEG_2000, _ICON)
SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "pdf": (b"%PDF-",),
    **dict.fromkeys(("png", "jpg", "jpeg", "jpe", "jfif", "gif", "tif", "tiff", "bmp", "webp"), IMAGE),
    **dict.fromkeys(("heic", "heif", "hif", "avif", "jp2", "j2k", "jpf", "jpx"), IMAGE),
    **dict.fromkeys(("zip", "odt", "ods", "odp", "odg", "epub"), ZIP),
    **dict.fromkeys(("docx", "docm", "dotx", "xlsx", "xlsm", "xlsb", "xltx", "pptx", "pptm", "ppsx", "potx"), _OFFICE),
    "msg": (OLE,),
    "rtf": (b"{\\rtf",),
    "gz": (b"\x1f\x8b",),
    "7z": (SEVEN_ZIP,),
}
"""The beginnings of the binary formats, by extension in lower case."""
BINARY = (
    b"%PDF-",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x1f\x8b\x08",
    PNG,
    JPEG,
    *GIF,
    *TIFF,
    *_JPEG_2000,
    OLE,
    SEVEN_ZIP,
)
"""Signatures with which no text begins; "BM" and "RIFF" are not among them."""
HTML = frozenset({"html", "htm", "xhtml", "xht", "shtml"})
XML = frozenset({"xml", "xsd", "svg"})
TABLE_OR_MAIL = frozenset({"csv", "tsv", "eml"})
TEXT = frozenset({*HTML, *XML, *TABLE_OR_MAIL, "json", "txt"})


def stored_extension(filename: str) -> str:
    """Return the extension of the name under which destinations store a file, in lower case; empty if it has none.

    An underscore that replaces blanks or other unsafe characters at the end of a name is ignored.
    """
    if filename[-4:] == ".pdf":  # most downloads
        return "pdf"
    stored = safe_path("", filename)[-1]
    if stored[-1] == "_" and filename[-1:] != "_":
        stored = stored.rstrip("_ .")
    _, dot, extension = stored.rpartition(".")
    return extension.lower() if dot else ""
