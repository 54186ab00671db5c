"""Bytes of downloads: which cannot belong to a file with the name, and which may, so that no alarm is false."""

import gzip
import json

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from aluma_async.aluma.content import ContentCheck
from aluma_async.exceptions import WrongContent
from aluma_async.models import Claim, ExportSpec
from aluma_async.testing.sample_data import SampleData
from tests.support.clock import virtual_time
from tests.support.downloads import CLAIM, FILE, serve_downloads
from tests.support.sample_files import GIF, JPEG, PDF, PNG, ZIP
from tests.support.stack import download

ERROR = b'{"message": "The file is not available", "status": 500}'
PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body></body></html>"
XML = b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
TEXT = b"Service temporarily unavailable"
GZIP = gzip.compress(b"a;b", mtime=0)  # without the time, so that the names of the tests are always the same
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
BINARY = [PDF, ZIP, GIF, PNG, JPEG, GZIP, b"II*\0" + bytes(20), OLE]
ODD_NAMES = [
    *("a.pdf\u00a0", "a.pdf\u3000", "a.pdf\u200b", "a.PDF\t", 'a.pdf"', " a.pdf. ", "x/a.pdf", "A.Pdf\0"),
    "x" * 300 + ".pdf",
]
"""Names that are stored with the extension of a PDF."""
IMAGES = ["png", "jpg", "jpeg", "gif", "tif", "tiff", "bmp"]
WITH_SIGNATURE = [*IMAGES, "pdf", "zip", "docx", "xlsx", "pptx", "odt", "msg", "rtf", "gz", "7z"]


def problem(name, body, content_type="application/octet-stream", sizes=(10**6,)):
    """Return the problem of a file that arrives in chunks of the given sizes."""
    check, start, turn = ContentCheck(name, content_type), 0, 0
    while start < len(body):
        size = sizes[turn % len(sizes)]
        if result := check.feed(body[start : start + size]):
            return result
        start, turn = start + size, turn + 1
    return check.close()


@pytest.mark.parametrize("extension", WITH_SIGNATURE)
@pytest.mark.parametrize("body", [ERROR, PAGE, XML, TEXT, b"", b"\0", ERROR * 100, PAGE + b" " * 70_000])
def test_content_is_wrong_when_the_signature_is_missing(extension, body):
    for content_type in ("application/octet-stream", f"application/{extension}", "application/json", "text/html"):
        for name in (f"scan.{extension}", f"SCAN.{extension.upper()}", f".{extension}", f"a.{extension} . "):
            assert problem(name, body, content_type), (name, content_type)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.csv", ERROR),
        ("a.csv", b"\xef\xbb\xbf " + ERROR + b"\n"),
        ("a.csv", b"[]"),
        ("a.csv", PAGE),
        ("a.csv", b"\n\n" + PAGE),
        ("a.csv", PAGE.decode().encode("utf-16")),
        ("a.csv", XML),
        ("a.tsv", ERROR),
        ("a.eml", ERROR),
        ("a.eml", PAGE),
        ("a.doc", ERROR),
        ("a.xls", ERROR),
        ("a.txt", PAGE),
        ("a.json", PAGE),
        ("a.json", XML),
        ("a.xml", ERROR),
        ("a.xml", PAGE),
        ("a.xml", TEXT),
        ("a.svg", ERROR),
        ("a.pdf", b'{"message": "cannot render %PDF-1.4"}'),
        ("a.pdf", b"<html><body>%PDF-1.4</body></html>"),
        ("a.pdf", b" " * 1025 + b"%PDF-1.4"),
        ("a.txt", XML),
        ("a.txt", b"<Error><Code>AccessDenied</Code></Error>\n"),
        ("a.csv", b"<Error><Code>AccessDenied</Code></Error>"),
        ("a.tsv", b"<!-- gateway -->\n<fault code='1'>no route</fault>"),
        ("a.pdf", b"1b\r\n" + PDF + b"\r\n0\r\n\r\n"),
        ("a.pdf", b"1B;name=value\r\n" + PDF),
        ("a.pdf", b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\n\r\n" + PDF),
        ("a.json", b'8\r\n{"a": 1}\r\n0\r\n\r\n'),
        ("a.json", b'1f4\r\n[{"a": 1}'),
        ("a.xml", b"4\r\n<a/>\r\n0\r\n\r\n"),
        ("a.html", b"%x\r\n" % len(PAGE) + PAGE),
        ("a.csv", b"7\r\na,b\n1,2\r\n0\r\n\r\n"),
        ("a.bin", b"7\r\na,b\n1,2\r\n0\r\n\r\n"),
        *((f"a.{name}", body) for name in ("csv", "tsv", "txt", "json", "xml", "html") for body in BINARY),
        *((name, body) for name in ODD_NAMES for body in (PAGE, ERROR)),
    ],
)
def test_content_is_wrong_when_it_is_certainly_of_another_kind(name, body):
    assert problem(name, body)
    assert problem(name, body, sizes=(1,))


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.csv", "a.doc"])
def test_content_is_wrong_when_type_and_bytes_are_json(name):
    for content_type in ("application/json", "Application/Problem+JSON; charset=utf-8", "text/json"):
        assert problem(name, ERROR, content_type)
        assert not problem(name, b"a,b\n{1},2", content_type), "the bytes are no JSON, so the type is wrong"


@pytest.mark.parametrize("name", ["a.pdf", "a.csv", "a.txt", "a.json", "a.html", "a.bin", "a", ""])
def test_content_is_wrong_when_it_is_empty(name):
    assert problem(name, b"") == "the file is empty"


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("a.pdf", b"%PDF-1.7\n%%EOF"),
        ("A.PDF", b"%PDF-%%EOF"),
        ("a.pdf", b"\xef\xbb\xbf%PDF-1.4 %%EOF"),
        ("a.pdf", b"\x1b%-12345X@PJL ENTER LANGUAGE=PDF\r\n" + b" " * 900 + b"%PDF-1.4 %%EOF"),
        ("a.png", PNG),
        ("a.jpg", JPEG),
        ("a.jpeg", PNG),  # an image with the name of another format
        ("a.jpg", b"\0\0\0\x10ftypheic\0\0\0\0\0\0\0\x0cmetaabcd"),
        ("a.tif", b"II*\0\x08\0\0\0\0\0"),
        ("a.tif", b"MM\0*\0\0\0\x08\0\0"),
        ("a.tiff", b"MM\0+\0\x08\0\0" + (16).to_bytes(8, "big") + bytes(8)),
        ("a.gif", GIF),
        ("a.png", b"\0\0\1\0" + bytes(9)),  # an icon
        ("a.zip", ZIP),
        ("a.zip", b"PK\x05\x06" + b"\0" * 18),  # without entries
        ("a.docx", ZIP),
        ("a.xlsx", OLE),  # encrypted
        ("a.msg", OLE),
        ("a.rtf", b"{\\rtf1\\ansi"),
        ("a.gz", gzip.compress(b"x", mtime=0)),
        ("a.json", ERROR),
        ("a.json", b'\xef\xbb\xbf"text"'),
        ("a.json", b" 1"),
        ("a.json", json.dumps([1]).encode("utf-16")),
        ("a.xml", XML),
        ("a.xml", b"\r\n <invoice/>"),
        ("a.xml", "<invoice/>".encode("utf-16")),
        ("a.xml", "<invoice/>".encode("utf-16-be")),
        ("a.xml", b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" ""><html/>'),
        ("a.xml", '<?xml version="1.0"?>'.encode("cp500")),
        ("a.html", PAGE),
        ("a.htm", b"<p>a part of a page"),
        ("a.html", b"{{template}}"),
        ("a.csv", b"a,b\n1,2"),
        ("a.csv", b'{"a":1},{"b":2}\n3,4'),
        ("a.csv", b"{0d4f-11},Dell\n"),
        ("a.csv", b"[1],[2]\n"),
        ("a.csv", b"{" + b"x" * 100_000),
        ("a.csv", b'{"a":"' + b"x" * 70_000 + b'"}'),  # too long to be an error
        ("a.csv", b"<none>,1\n"),
        ("a.txt", b'{"message": "paid", "status": "done"}'),  # a custom format of a project
        ("a.txt", b"\0\0"),
        ("a.txt", b"<?xml version='1.0'?><invoice/>"),  # a custom format, too
        ("a.txt", b"<Error> means that nothing was found"),
        ("a.txt", b"PK is the name of a city; BM, too"),
        ("a.txt", b"10\r\nten\r\n0\r\n\r\n"),
        ("a.csv", b"BM,RIFF,II*\n"),
        ("a.csv", b"10\r\n1\r\n0\r\n\r\n"),
        ("a.csv", b"<none>,1\n<none>,</some>"),
        ("a.csv", b"1b\r\n{2},3\r\n"),
        ("a.json", b"1\r\n"),
        ("a.pdf_", b"not a PDF"),
        ("a.pdf\u00a0x", b"not a PDF"),
        ("a.pdf", b"25\n%PDF-1.4 %%EOF"),
        ("a.eml", b"From: a@b\r\n\r\n"),
        ("a.doc", b"{\\rtf1"),
        ("a.xls", b"<html xmlns:x='urn:schemas-microsoft-com:office:excel'><table/></html>"),
        ("a.doc", OLE),
        ("a.geojson", b'{"type": "Point"}'),
        ("a.xsl", b"<html xsl:version='1.0'/>"),
        ("pdf", b"anything"),
        ("a.pdf.txt", b"anything"),
    ],
)
def test_content_is_accepted_when_it_may_be_right(name, body):
    """A false alarm would keep the task from being exported."""
    assert not problem(name, body)
    assert not problem(name, body, sizes=(1 if len(body) < 10_000 else 97,))
    assert not problem(name, body, "application/octet-stream", sizes=(3, 1000))


def test_content_of_an_own_kind_is_accepted_with_its_content_type():
    assert not problem("a.json", ERROR, "application/json")
    assert not problem("a.xml", XML, "text/xml; charset=utf-8")
    assert not problem("a.html", PAGE, "text/html")
    assert not problem("a.pdf", PDF, "application/json"), "the bytes decide"


@pytest.mark.parametrize(("name", "size"), [("a.pdf", 1025), ("a.xml", 1025), ("a.csv", 65_537)])
def test_content_is_wrong_as_soon_as_enough_bytes_are_known(name, size):
    body = (b"[" if name == "a.csv" else b"") + b" " * size
    check = ContentCheck(name, "application/json")
    assert not check.feed(body[: size - 1])
    assert check.feed(body[size - 1 : size])


@given(st.binary(max_size=3000), st.lists(st.integers(1, 1500), min_size=1, max_size=4))
def test_content_check_does_not_depend_on_the_sizes_of_chunks(body, sizes):
    for name in ("a.pdf", "a.csv", "a.xml", "a.txt"):
        assert bool(problem(name, body)) == bool(problem(name, body, sizes=sizes))


@pytest.mark.parametrize("profile", ["mixed", "small", "tiny"])
def test_content_of_the_simulated_aluma_is_accepted(profile):
    data = SampleData(1, profile)
    for number in range(30):
        for document in data.documents(number):
            for file in document:
                assert not problem(file.filename, data.content(file))


def respond_with(body, content_type="application/octet-stream"):
    async def respond(*_):
        return web.Response(body=body, content_type=content_type)

    return respond


@pytest.mark.parametrize(
    ("name", "body", "content_type"),
    [
        ("a.pdf", ERROR, "application/json"),
        ("a.pdf", ERROR, "application/pdf"),
        ("a.pdf", PAGE, "application/pdf"),
        ("a.pdf", b"", "application/pdf"),
        ("a.pdf", PAGE, "text/html"),
        ("a.bin", PAGE, "text/html"),
        ("a.csv", ERROR, "application/json"),
        ("a.html", b"", "text/html"),
        ("a.txt", ERROR, "application/json"),
    ],
)
@virtual_time
async def test_download_raises_when_the_content_is_wrong(name, body, content_type):
    """The error can be retried, and it is never a reason to fail the task."""
    claim = Claim(CLAIM.task, ExportSpec((structs.replace(FILE, filename=name),)), 0.0)
    async with serve_downloads(respond_with(body, content_type)) as (client, _):
        with pytest.raises(WrongContent) as caught:
            await download(client, claim)
    assert "proxy" in caught.value.hint
    assert name not in str(caught.value)
    assert b"message" not in str(caught.value).encode()


@virtual_time
async def test_download_raises_before_the_end_when_the_content_is_wrong():
    """A long page is not downloaded completely."""
    async with serve_downloads(respond_with(b"x" * 10_000_000)) as (client, _), client.open_file(CLAIM, FILE) as chunks:
        received = []
        with pytest.raises(WrongContent):
            received.extend([chunk async for chunk in chunks])
    assert not received


@virtual_time
async def test_download_may_be_a_web_page_when_its_name_is_that_of_one():
    claim = Claim(CLAIM.task, ExportSpec((structs.replace(FILE, filename="a.HTM"),)), 0.0)
    async with serve_downloads(respond_with(PAGE, "text/html")) as (client, _):
        assert await download(client, claim) == PAGE


@virtual_time
async def test_download_is_not_checked_when_verify_content_is_off():
    for body in (ERROR, b"", PAGE):
        async with serve_downloads(respond_with(body), verify_content=False) as (client, _):
            assert await download(client, CLAIM) == body


@pytest.mark.parametrize("sizes", [(10**6,), (1500,), (3, 1000), (61,)])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.xls", "a.doc", "a.eml"])
def test_long_json_is_recognized_whatever_the_sizes_of_chunks(name, sizes):
    """An error message with a stack may be longer than the bytes that decide about other formats."""
    body = b" \n" + json.dumps({"message": "x" * 5000}).encode()
    assert problem(name, body, sizes=sizes)
    assert not problem(name, body[:-1] + b"x", sizes=sizes), "it only begins like JSON"
    assert not problem(name, b"[" + b"1," * 40_000 + b"1]", sizes=sizes), "longer than 64 KiB"


END = b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("name", ["a.bin", "a.csv", "a.txt"])
def test_file_with_the_frame_of_one_chunk_is_wrong(name):
    """Only if the size fits, because a table may begin with a number in a line of its own."""
    for size, data in ((b"10", b"a" * 16), (b"1f", b"b" * 31), (b"9", b"c" * 9)):
        assert "chunked" in problem(name, size + b"\r\n" + data + END)
        assert not problem(name, size + b"\r\n" + data + b"a" + END)
        assert not problem(name, size + b"\r\n" + data)
        assert not problem(name, b"x\r\n" + data + END)


def test_page_with_a_frame_is_wrong_only_in_a_page():
    assert "frame" in problem("a.html", b"5c\r\n" + PAGE)
    assert not problem("a.html", b"5c\r\nplain text")
    assert not problem("a.csv", b"5c\r\n" + PAGE)


@pytest.mark.parametrize("start", [b"<p>", b"{", b"["])
def test_page_or_error_that_quotes_a_pdf_is_no_pdf(start):
    """The signature may be anywhere in the first 1024 bytes, but not in a page."""
    assert not problem("a.pdf", b"noise " + PDF)
    assert problem("a.pdf", start + PDF)
