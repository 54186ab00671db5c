"""Images of boxes (HEIF, AVIF, JPEG 2000) and TIFF files are not accepted without their end, wherever that is."""

import random
import struct

import pytest

from aluma_async.aluma.content import ContentCheck

PIXELS = random.Random(5).randbytes(600)
PADDINGS = [b"\n", b"\r\n\0", b"\0" * 5000, b"\x1a", b"more data " * 9]


def problem(name, body, size=10**6):
    check = ContentCheck(name, "application/octet-stream")
    for start in range(0, len(body), size):
        if found := check.feed(body[start : start + size]):
            return found
    return check.close()


def box(kind, data, *, large=False):
    if large:
        return struct.pack(">I4sQ", 1, kind, len(data) + 16) + data
    return struct.pack(">I4s", len(data) + 8, kind) + data


HEIF = box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", bytes(300))
IMAGES_OF_BOXES = {
    "a.heic": HEIF + box(b"mdat", PIXELS),
    "b.heic": HEIF + box(b"mdat", PIXELS, large=True),
    "a.avif": box(b"ftyp", b"avif\0\0\0\0mif1") + box(b"free", b"") + box(b"mdat", PIXELS) + box(b"meta", bytes(99)),
    "a.jpg": HEIF + box(b"free", bytes(9)) + box(b"mdat", PIXELS),
    "a.jp2": box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0") + box(b"jp2h", b"x") + box(b"jp2c", PIXELS),
}


def tiff(order="<", *, big=False, pages=1, tiles=False, compression=5, counts=(300, 300), bits=(8,)):
    """Return a TIFF with its directories and lists before its strips or tiles, each of 300 bytes."""
    field = "Q" if big else "L"
    inline, tags = struct.calcsize(field) if big else 4, (324, 325) if tiles else (273, 279)
    tile = [(322, "H", (40,)), (323, "H", (10,))] if tiles else []

    def page(start, data_at, following):
        offsets = tuple(data_at + 300 * strip for strip in range(len(counts)))
        entries = [(256, "H", (40,)), (257, "H", (20,)), (258, "H", bits), (259, "H", (compression,)), *tile]
        entries += [(tags[0], "L", offsets), (tags[1], "L", counts)]
        number = struct.pack(order + ("Q" if big else "H"), len(entries))
        table, lists = b"", b""
        lists_at = start + len(number) + len(entries) * (4 + 2 * inline) + inline
        for tag, kind, values in entries:
            data = struct.pack(f"{order}{len(values)}{kind}", *values)
            if len(data) > inline:
                lists, data = lists + data, struct.pack(order + field, lists_at + len(lists))
            table += struct.pack(order + "HH" + field, tag, {"H": 3, "L": 4}[kind], len(values)) + data.ljust(
                inline, b"\0"
            )
        return number + table + struct.pack(order + field, following) + lists

    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    header += struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "L", 8)
    size = len(page(0, 0, 0))
    starts = [len(header) + size * number for number in range(pages + 1)]
    data_at = [starts[-1] + 300 * len(counts) * number for number in range(pages)]
    body = [page(*place) for place in zip(starts, data_at, [*starts[1:-1], 0], strict=False)]
    return header + b"".join(body) + b"".join(PIXELS[: min(count, 300)] for count in counts) * pages


TIFFS = {
    "strips": tiff(),
    "big-endian": tiff(">"),
    "large": tiff(big=True, counts=(300, 300, 100)),
    "large big-endian": tiff(">", big=True),
    "pages": tiff(pages=3),
    "tiles": tiff(tiles=True),
    "uncompressed": tiff(compression=1, counts=(300, 300)),
    "colours": tiff(compression=7, bits=(8, 8, 8)),
    "one strip": tiff(counts=(300,)),
}


@pytest.mark.parametrize("name", IMAGES_OF_BOXES)
def test_image_of_boxes_without_its_end_is_wrong(name):
    """Wherever it is cut: its boxes then do not add up to the file, or the image itself is missing."""
    body = IMAGES_OF_BOXES[name]
    for size in (1, 7, 999):
        assert not problem(name, body, size)
    lengths = set(range(1, len(body), 13)) | {len(body) - 1, 12, 24}
    for length in lengths - {*range(len(HEIF), len(HEIF) + 25)}:  # an image may be in the box of its properties
        assert problem(name, body[:length], 50), length
    assert "end of the image" in problem(name, body[:-1])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", IMAGES_OF_BOXES)
def test_image_of_boxes_with_data_after_it_is_complete(name, padding):
    """A camera may add a film."""
    assert not problem(name, IMAGES_OF_BOXES[name] + padding)


@pytest.mark.parametrize(
    "body",
    [
        HEIF,  # an image within its properties
        HEIF + b"\n",
        HEIF + struct.pack(">I4s", 0, b"mdat") + PIXELS,  # a box up to the end of the file
        box(b"ftyp", b"heic") + box(b"moov", PIXELS),  # a sequence of images
        box(b"ftyp", b"heic") + b"\0\0\0\3????" + PIXELS,  # not understood
        box(b"ftyp", b"heic") + b"\0\0\0\x0c\1\2\3\4" + PIXELS,  # not understood
    ],
)
def test_image_of_unusual_boxes_is_complete(body):
    assert not problem("a.heic", body)
    assert not problem("a.heic", body, 3)


def test_image_of_boxes_whose_rest_is_zeros_is_wrong():
    """If the zeros begin before the image; within it, the boxes still add up."""
    assert problem("a.heic", HEIF + bytes(4000))
    assert problem("a.heic", HEIF[:20] + bytes(4000))


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.hif", "a.avif", "a.webp", "a.jp2", "a.jpx"])
def test_file_that_is_no_image_is_wrong(name):
    """The names of these formats had no signature before."""
    for body in (b"<p>", b"Service temporarily unavailable", b'{"a": 1}', b"\0\0\0\x0cmoof1234"):
        assert problem(name, body)


@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_whose_strips_are_cut_is_wrong(kind):
    """Also if its directory is complete, as it is at the beginning of the file."""
    body = TIFFS[kind]
    for size in (1, 7, 999):
        assert not problem("a.tif", body, size)
    for length in {*range(1, len(body), 17), len(body) - 1}:
        assert problem("a.tif", body[:length], 50), length


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_with_data_after_it_is_complete(kind, padding):
    assert not problem("a.tiff", TIFFS[kind] + padding)


CUT = slice(0, -200)
STRIP = tiff(counts=(300,))


@pytest.mark.parametrize(
    "body",
    [
        tiff(counts=(2**32 - 1,))[CUT],  # a count of all that is there
        tiff(counts=(800,))[CUT],  # as large as the pixels, although they are compressed
        tiff(compression=1, counts=(801,))[CUT],  # larger than the pixels
        tiff(compression=6)[CUT],  # found by other tags
        tiff(counts=(300, 0)),  # the second strip is empty
        STRIP.replace(struct.pack("<HHL", 273, 4, 1), struct.pack("<HHL", 273, 12, 1))[CUT],
        STRIP.replace(struct.pack("<HH", 257, 3), struct.pack("<HH", 999, 3))[CUT],
        STRIP.replace(struct.pack("<HH", 279, 4), struct.pack("<HH", 999, 4))[CUT],
        tiff(counts=(300, 300)).replace(struct.pack("<HHL", 279, 4, 2), struct.pack("<HHL", 279, 4, 3))[CUT],
        b"II*\0\x08\0\0\0\xff\xff" + PIXELS,  # too many entries
        b"II*\0\x08\0\0\0\0\0" + PIXELS,  # none
        STRIP[:4] + b"\2\0\0\0" + STRIP[8:],  # a directory in the header
    ],
)
def test_tiff_that_is_not_understood_is_complete(body):
    """Some programs write wrong counts, which readers ignore."""
    assert not problem("a.tif", body)
    assert not problem("a.tif", body, 11)


def test_tiff_whose_last_directory_lacks_the_next_one_is_complete():
    """Its strips precede it, as most programs write it."""
    directory = struct.pack("<H", 5)
    for tag, value in ((256, 40), (257, 20), (258, 8), (273, 8), (279, 600)):
        directory += struct.pack("<HHLL", tag, 4, 1, value)
    body = b"II*\0" + struct.pack("<L", 608) + PIXELS + directory
    assert not problem("a.tif", body)
    assert not problem("a.tif", body + bytes(4))
    assert problem("a.tif", body[:-1])
    assert problem("a.tif", body[:609])


@pytest.mark.parametrize("name", [*TIFFS, *IMAGES_OF_BOXES])
def test_image_with_wrong_bytes_raises_nothing(name):
    """Whatever the numbers in it are; a count may be larger than anything that fits into memory."""
    rng, original = random.Random(6), (TIFFS | IMAGES_OF_BOXES)[name]
    for _ in range(300):
        body = bytearray(original)
        for _ in range(3):
            body[rng.randrange(16, 160)] = rng.choice((0, 1, 255, rng.randrange(256)))
        problem("a.tif", bytes(body), 50)
