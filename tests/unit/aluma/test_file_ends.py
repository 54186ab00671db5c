"""Files without their end are not accepted, and no complete file of an unusual form is refused."""

import io
import json
import random
import struct
import zipfile

import pytest
from aiohttp import web
from msgspec import structs

from aluma_async.aluma.content import ContentCheck
from aluma_async.exceptions import WrongContent
from aluma_async.models import Claim, ExportSpec
from tests.support.clock import virtual_time
from tests.support.downloads import BODY, CLAIM, FILE, serve_downloads
from tests.support.sample_files import GIF, JPEG, PDF, PNG, ZIP, archive, gif, jpeg, png, segment
from tests.support.stack import download

NOISE = random.Random(1).randbytes(200_000).replace(b"\xff", b"\xfe")
WEBP = b"RIFF" + (412).to_bytes(4, "little") + b"WEBP" + bytes(408)
TIFF = b"II*\0" + (900).to_bytes(4, "little") + bytes(894)
BIG_TIFF = b"MM\0+\0\x08\0\0" + (900).to_bytes(8, "big") + bytes(892)
IMAGE_OF_GIF = b",\0\0\0\0\1\0\1\0%c%b\2\2L\1\0"
OWN_COLOURS = GIF[:10] + b"\0\0\0" + IMAGE_OF_GIF % (0x82, bytes(24)) + b";"
SHARED_COLOURS = GIF[:10] + b"\x81\0\0" + bytes(12) + IMAGE_OF_GIF % (1, b"") + b"!\xfe\0;"
SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c\0\4" + bytes(4) + (500).to_bytes(8, "little") + (60).to_bytes(8, "little") + bytes(564)
JSON = json.dumps({"lines": [{"text": "x" * 20, "n": n} for n in range(200)]}).encode()
XML = b'<?xml version="1.0"?>\n<!-- export -->\n<e:invoice id="1">' + b"<line/>\n" * 300 + b"</e:invoice>\n"
GIF_IMAGE = b",\0\0\0\0\x01\0\x01\0\x01\x02\x02L\x01\0"
THUMBNAIL = segment(0xE1, b"Exif\0\0" + jpeg())


def problem(name, body, size=10**9):
    check = ContentCheck(name, "application/octet-stream")
    for start in range(0, len(body), size):
        if found := check.feed(body[start : start + size]):
            return found
    return check.close()


COMPLETE = [
    ("a.pdf", PDF),
    ("a.png", png((b"tEXt", b"IEND" * 3000))),
    ("a.jpg", jpeg(THUMBNAIL, segment(0xDB, bytes(65)), scan=NOISE)),
    ("a.jpg", jpeg(b"\xff" * 9, segment(0xC2, b"x"), b"\xff\x01", scan=b"one" + segment(0xC4, b"\x05") + NOISE)),
    ("a.gif", gif(b"!\xf9\x04" + bytes(5), b"!\xfe" + b"\xff" + b";" * 255 + b"\x01;\0")),
    ("a.jpg", jpeg(segment(0xFE, b""), scan=NOISE)),
    ("a.jpg", jpeg(b"\xff\xd0\xff\xd7\xff\xd8", scan=NOISE)),
    ("a.jpg", jpeg(segment(0xFE, b""), b"\xff\xd0", b"\xff\xd8", scan=NOISE)),
    ("a.tif", TIFF),
    ("a.tiff", BIG_TIFF),
    ("a.jpg", WEBP),
    ("a.zip", ZIP),
    ("a.docx", archive(NOISE)),
    ("a.odt", archive(NOISE, comment=b"a comment")),
    ("a.xlsx", archive(archive(NOISE))),
    ("a.7z", SEVEN_ZIP),
    ("a.json", JSON),
    ("a.json", b"[" + JSON + b"]"),
    ("a.xml", XML),
    ("a.svg", b"<svg viewBox='0 0 9 9'>" + b"<path d='M0 0'/>" * 200 + b"</svg>"),
]
IDS = [f"{number}{name[1:]}" for number, (name, _) in enumerate(COMPLETE)]


@pytest.mark.parametrize(("name", "body"), COMPLETE, ids=IDS)
def test_file_without_its_end_is_wrong(name, body):
    """Wherever it is cut, except inside padding. The sizes of the chunks do not matter."""
    assert not problem(name, body)
    assert not problem(name, body, 1 if len(body) < 10_000 else 999)
    lengths = {len(body) // 2, len(body) - 3, *random.Random(2).choices(range(9, len(body) - 2), k=20)}
    # By chance, a cut JSON text can end with the right bracket.
    for length in lengths:
        if body[:length].rstrip()[-1:] != b"}" or name != "a.json":
            assert problem(name, body[:length]), length
            assert problem(name, body[:length], 77 if length < 10_000 else 4097), length


@pytest.mark.parametrize("padding", [b"\n", b"\r\n\0", b"\0" * 5000, b"\n" * 70_000, b"\x1a"])
@pytest.mark.parametrize(("name", "body"), COMPLETE, ids=IDS)
def test_file_with_padding_is_complete(name, body, padding):
    assert not problem(name, body + padding)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.pdf", PDF + b"1 0 obj\n<<>>\nendobj\nstartxref\n9\n%%EOF\n"),  # an incremental update
        ("a.pdf", b"%PDF-1.5\nxref\nstartxref\n0\n%%EOF\n" + NOISE + b"startxref\n9\n%%EOF"),  # linearised
        ("a.pdf", PDF + NOISE[:4000]),
        ("a.png", PNG + NOISE),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\4\1\2\3\4" + NOISE),  # not understood
        ("a.jpg", JPEG + NOISE),  # a motion photo: a film after the image
        ("a.jpg", JPEG + jpeg(THUMBNAIL)),
        ("a.jpg", b"\xff\xd8\xff\xe0\0\0" + NOISE),  # not understood
        ("a.jpg", b"\xff\xd8\xff\xe0\0\4xx" + NOISE),  # not understood
        ("a.gif", GIF + NOISE),
        ("a.gif", OWN_COLOURS),
        ("a.gif", SHARED_COLOURS),
        ("a.gif", GIF[:-1]),  # some programs omit the last byte
        ("a.zip", b"PK\x05\x06" + bytes(18)),  # without members
        ("a.zip", b"PK\x03\x04" + NOISE + b"PK\x05\x06" + bytes(8) + b"\xff" * 8 + bytes(2)),  # ZIP64
        ("a.zip", archive(before=b"PK00PK" + NOISE)),
        ("a.zip", archive(comment=b"x" * 65_535)),
        ("a.zip", b"PK\x07\x08" + NOISE),  # the first part of several
        ("a.zip", ZIP + b"signature of another program"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE),
        ("a.rtf", b"{\\rtf1 x}\0"),
        ("a.7z", SEVEN_ZIP[:12] + bytes(20)),  # without members
        ("a.tif", b"MM\0*\0\0\0\6\0\0"),
        ("a.jpg", b"RIFF\xff\xff\xff\x7fCDR8" + NOISE),  # not understood
        ("a.pdf", b"%PDF-1.4\n%%EOF" + NOISE[:4091]),
        ("a.json", b"1"),
        ("a.json", b'"text"'),
        ("a.json", b"null\n"),
        ("a.json", b'\xef\xbb\xbf{"a": 1}\r\n'),
        ("a.json", json.dumps({"a": "ü"}).encode("utf-16")),
        ("a.json", json.dumps([1]).encode("utf-16-be")),
        ("a.json", b'{"a": 1}\n{"a": 2}\n'),  # one value per line
        ("a.xml", XML + b"<!-- end -->\n<?done now?>\n"),
        ("a.xml", XML + b"<!-- <a>" + b"x" * 70_000 + b" -->"),
        ("a.xml", XML[:-1].replace(b"</e:invoice>", b"</e:invoice \n>")),
        ("a.xml", '<?xml version="1.0" encoding="utf-16"?><räume><raum/></räume>'.encode("utf-16")),
        ("a.xml", b"<!DOCTYPE a [<!ENTITY b '<c>'>]><a b='1>0'/>"),
        ("a.xml", b"<a" + b" b='1'" * 500 + b"/>"),
        ("a.xml", b"<a/>\n<b>two roots</b>"),
        ("a.xml", b"<a>1</a><b>two roots</b>"),
        ("a.xml", b"<?xml version='1.0'?>" + b"<?p?>" * 500 + b"<a></a>"),
        ("a.xml", "<?xml version='1.0' encoding='cp500'?><a></a>".encode("cp500")),
        ("a.svg", b"<!DOCTYPE svg PUBLIC '-//W3C//DTD SVG 1.1//EN' 'http://x/svg11.dtd'>\n<svg><g></g></svg>\n"),
        ("a.html", b"<html><body>"),
        ("a.csv", b'a,"'),
        ("a.csv", b"7\r\na,b\n1,2\n3,4,5,6"),
        ("a.txt", b"<a>"),
        ("a.gz", b"\x1f\x8b\x08"),
        ("a.bin", ZIP[:99]),
    ],
)
def test_file_of_an_unusual_form_is_complete(name, body):
    assert not problem(name, body)
    assert not problem(name, body, 1000)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.pdf", b"%PDF-1.4\n%%EOF" + NOISE[:4092]),
        ("a.zip", archive(comment=b"x" * 65_535) + b"yy"),
        ("a.gif", OWN_COLOURS[:-2]),
        ("a.gif", SHARED_COLOURS[:-2]),
        ("a.gif", SHARED_COLOURS[:-5]),
        ("a.tif", b"II*\0\x08\0\0\0\0"),
        ("a.tif", b"II*\0\x08\0"),
        ("a.tif", b"II*\0+\0\0\0" + bytes(36)),  # the number 43 is no mark of a large file
        ("a.tiff", b"MM\0+\0\x08\0\0" + bytes(7)),
        ("a.7z", SEVEN_ZIP[:40]),
        ("a.csv", b"1A\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n"),
        ("a.bin", b"10\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"),
    ],
)
def test_file_just_beyond_a_limit_is_wrong(name, body):
    assert problem(name, body)


def test_archive_whose_last_record_is_that_of_a_member_is_wrong():
    """A cut archive may contain the end of an archive within it."""
    body = archive(ZIP + NOISE)
    assert problem("a.zip", body[: len(ZIP) + 2000])
    assert problem("a.xlsx", archive(NOISE)[5000:]), "the first part is missing"


def test_large_archive_is_complete():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("member", b"")
        file.filelist *= 70_000  # more than the last record can count
    assert not problem("a.zip", buffer.getvalue(), 100_000)
    assert problem("a.zip", buffer.getvalue()[:-90], 100_000)


@pytest.mark.parametrize("text", [b"<?p?>" * 200, b"<!" * 500, b'<a b="' * 170, b" " * 65_000, b"<!---->" * 9000])
def test_end_of_xml_is_found_in_linear_time(text):
    problem("a.xml", b"<a>" + text + b"x" * 100 + text)
    problem("a.xml", text + b"x")


@pytest.mark.parametrize(("name", "body"), [("a.pdf", BODY), *COMPLETE[1:]], ids=IDS)
@virtual_time
async def test_download_raises_when_the_end_is_missing(name, body):
    """A proxy may pass on the beginning of a file with the length of the beginning."""

    async def respond(_, number):
        return web.Response(body=body[: len(body) // 2] if number < 3 else body)

    claim = Claim(CLAIM.task, ExportSpec((structs.replace(FILE, filename=name),)), 0.0)
    async with serve_downloads(respond) as (client, _):
        for _ in range(2):
            with pytest.raises(WrongContent, match="has no end"):
                await download(client, claim)
        assert await download(client, claim) == body


@pytest.mark.parametrize(("name", "body"), [("a.tif", TIFF[:8]), ("a.tif", BIG_TIFF[:16]), ("a.7z", SEVEN_ZIP[:32])])
def test_file_of_only_a_header_has_no_end(name, body):
    """The header announces the size."""
    assert problem(name, body)
    assert problem(name, body[:-1]) or name == "a.7z"


@pytest.mark.parametrize(
    "body",
    [
        b"GIF89a\x01\0\x01\0\x01\0\0" + GIF_IMAGE + b";",
        gif(b",\0\0\0\0\x01\0\x01\0\x82" + bytes(24) + b"\x02\x02L\x01\0", GIF_IMAGE * 20),
        b"GIF89a\x01\0\x01\0\xf7\0\0" + b"!" * 768 + GIF_IMAGE + b";",
    ],
    ids=["without a table of colours", "with a table of its own", "with 256 colours"],
)
def test_end_of_a_gif_is_found_behind_its_tables_of_colours(body):
    assert not problem("a.gif", body)
    for cut in (2, 3, 4):
        assert problem("a.gif", body[:-cut]), cut


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif"])
def test_image_of_only_its_first_bytes_has_no_end(name):
    """From the bytes on that tell the format; fewer are not the beginning of an image."""
    body = {"a.jpg": JPEG, "a.png": PNG, "a.gif": GIF}[name]
    for length in range(1, 9):
        for size in (1, 2, 10):
            assert problem(name, body[:length], size), (length, size)


ZERO_FILLED = [(name, body) for name, body in COMPLETE if not name.endswith((".tif", ".tiff", ".gif", ".7z"))]


@pytest.mark.parametrize("size", [10**9, 4096, 1000])
@pytest.mark.parametrize(
    ("name", "body"),
    [one for one in ZERO_FILLED if one[1] != WEBP],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_file_whose_second_half_is_zeros_is_wrong(name, body, size):
    """As a file system leaves it after a power loss: the size is right."""
    half = len(body) * 2 // 5
    assert problem(name, body[:half] + bytes(len(body) - half + 5000), size)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.html"])
@pytest.mark.parametrize("size", [10**9, 1000])
def test_text_that_ends_with_thousands_of_zeros_is_wrong(name, size):
    """Programs pad a text to the size of a record at most."""
    text = b"1;2\n" * 1000
    assert "NUL" in problem(name, text + bytes(10_000), size)
    assert not problem(name, text + bytes(4000), size)


def bmp(width=33, height=-20, compression=0):
    pixels = random.Random(3).randbytes((width * 24 + 31) // 32 * 4 * abs(height))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, compression, 0, 1, 1, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + info + pixels


def ole(sectors=40, bits=9):
    """An OLE file whose table of sectors and directory are its last sectors."""
    header = bytearray(bytes.fromhex("d0cf11e0a1b11ae1")).ljust(512, b"\xff")
    struct.pack_into("<H", header, 30, bits)
    struct.pack_into("<2I", header, 44, 1, sectors - 1)
    struct.pack_into("<3I", header, 76, sectors - 2, 7_000_000, 0x20202020)
    return bytes(header).ljust(1 << bits, b"\0") + random.Random(4).randbytes(sectors << bits)


def linearized_pdf():
    body = (
        b"%PDF-1.5\n1 0 obj\n<< /Linearized 1 /L ?????? /H [1 2] >>\nendobj\nstartxref\n0\n%%EOF\n" + NOISE + b"%%EOF\n"
    )
    return body.replace(b"??????", b"%6d" % len(body))


@pytest.mark.parametrize(
    ("name", "body", "least"),
    [
        ("a.bmp", bmp(), 1),
        ("a.jpg", bmp(1000, 3), 1),
        ("a.msg", ole(), 1),
        ("a.docx", ole(20, 12), 1),
        ("a.pdf", linearized_pdf(), 7),
    ],
    ids=["bmp", "bmp-as-jpg", "msg", "docx", "linearized"],
)
def test_file_that_is_shorter_than_its_header_says_is_wrong(name, body, least):
    assert not problem(name, body)
    assert not problem(name, body + b"more")
    for missing in (least, 100, len(body) // 2):
        assert problem(name, body[:-missing]), missing


def test_compressed_bmp_is_accepted_whatever_its_size():
    assert not problem("a.bmp", bmp(compression=1)[:100])


@pytest.mark.parametrize(("number", "is_sector"), [(0xFFFFFFFA, True), (0xFFFFFFFB, False), (0xFFFFFFFE, False)])
def test_ole_file_needs_its_directory_unless_the_number_is_special(number, is_sector):
    """0xFFFFFFFA is the largest number of a sector; a file that lacks that sector is not complete."""
    body = bytearray(ole())
    struct.pack_into("<I", body, 48, number)
    assert bool(problem("a.msg", bytes(body))) is is_sector
