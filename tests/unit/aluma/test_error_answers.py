"""An error that a server sends with status 200 is not stored as a document, whatever the name of the file is."""

import json

import pytest
from aiohttp import web
from msgspec import structs

from aluma_async.aluma.content import ContentCheck
from aluma_async.exceptions import WrongContent
from aluma_async.models import Claim, ExportSpec
from tests.support.clock import virtual_time
from tests.support.downloads import CLAIM, FILE, serve_downloads
from tests.support.stack import download

NAMES = ["a.edi", "a.hl7", "a.dat", "a.bin", "INVOIC_4711", "a.x12", "a.geojson", "a.txt", "a.html", "a.p7m", "a.2024"]

ERRORS = {
    "API": {"message": "The file is not available", "status": 500},
    "ASP.NET": {"type": "https://tools.ietf.org/html/rfc9110", "title": "Not Found", "status": 404, "traceId": "00-1"},
    "Spring": {"timestamp": "2024", "status": 500, "error": "Internal Server Error", "path": "/f"},
    "OAuth": {"error": "invalid_token", "error_description": "expired"},
    "Google": {"error": {"code": 503, "message": "The service is unavailable", "details": [{"id": 1}]}},
    "AWS": {"__type": "ThrottlingException", "message": "Rate exceeded", "errorCode": "Throttling"},
    "OData": {"@odata.context": "x", "odata.error": {"code": "1"}, "error": {"code": "1"}},
    "Salesforce": [{"message": "Session expired", "errorCode": "INVALID_SESSION_ID"}],
    "Go": {"Err": "no space", "ok": False},
    "old": {"Success": False, "ErrorMessage": "no rights", "Data": None},
    "status as text": {"code": "404", "msg": "no Route matched"},
    "FHIR": {"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]},
}
XML_ERRORS = [
    b"<Error><Code>AccessDenied</Code><RequestId>1</RequestId></Error>",
    b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<m:error xmlns:m='m'><m:code/></m:error>\r\n",
    b"<s:Envelope xmlns:s='s'><s:Header/><s:Body><s:Fault><faultcode>1</faultcode></s:Fault></s:Body></s:Envelope>",
    b"<SOAP-ENV:Envelope a='1'>\n <SOAP-ENV:Body b='2'>\n  <SOAP-ENV:Fault>x</SOAP-ENV:Fault></SOAP-ENV:Body>"
    b"</SOAP-ENV:Envelope>",
    b"<fault><message>no route</message></fault>",
    b"<problem xmlns='urn:ietf:rfc:7807'><title>x</title></problem>",
    b"<ows:ExceptionReport><ows:Exception/></ows:ExceptionReport>",
    b"<OperationOutcome xmlns='http://hl7.org/fhir'><issue/></OperationOutcome>",
]
PAGES = [
    b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
    b"<!DOCTYPE html>\n<html><head><meta><title>\n  Sign in to your account</title></head></html>",
    b"<!-- 1 --><HTML><TITLE>Error 404 - not here</TITLE></HTML>",
    b"<html><title>HTTP Status 403 - Forbidden</title></html>",
    b"<html><title>The company</title><form><input name=p type=password></form></html>",
    b"<html><title>Service Temporarily Unavailable</title>" + b" " * 70_000,
]


def problem(name, body, content_type="application/octet-stream", size=10**6):
    check = ContentCheck(name, content_type)
    for start in range(0, len(body), size):
        if found := check.feed(body[start : start + size]):
            return found
    return check.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ERRORS)
def test_json_error_is_wrong_whatever_the_name(name, kind):
    """Also without a content type that says so, in UTF-16, and with a stack trace."""
    body = json.dumps(ERRORS[kind], indent=1)
    for content_type in ("application/octet-stream", "text/plain", ""):
        assert problem(name, body.encode(), content_type)
    assert problem(name, b"\n " + body.encode() + b"\n", size=7)
    assert problem(name, body.encode("utf-16"))


def test_json_error_with_a_long_stack_is_wrong():
    error = {"message": "failed", "status": 500, "stackTrace": "at x.y(Z.java:1)\n" * 2000}
    assert problem("a.dat", json.dumps(error).encode(), size=1000)


@pytest.mark.parametrize("name", NAMES)
def test_json_message_is_wrong_only_if_its_type_is_that_of_json(name):
    body = b'{"message": "Internal server error", "requestId": "1"}'
    assert problem(name, body, "application/json; charset=utf-8")
    assert not problem(name, body)


@pytest.mark.parametrize("name", [*NAMES[:-3], "a.csv", "a.eml", "a.svg", "a.xsd", "a.xls"])
@pytest.mark.parametrize("body", XML_ERRORS)
def test_xml_error_is_wrong_whatever_the_name(name, body):
    assert problem(name, body)
    assert problem(name, body, size=7)


@pytest.mark.parametrize("name", ["a.edi", "a.hl7", "a.dat", "INVOIC_4711", "a.csv", "a.txt", "a.json", "a.xsl"])
@pytest.mark.parametrize("body", PAGES, ids=lambda body: body[:30].decode())
def test_page_that_reports_an_error_is_wrong_whatever_the_name(name, body):
    assert problem(name, body)
    assert problem(name, body, size=700)


@pytest.mark.parametrize(
    "title",
    [
        b"404 Not Found",
        b"Error 404 (Not Found)!!1",
        b"HTTP Status 500 \xe2\x80\x93 Internal Server Error",
        b"503 - Service unavailable",
        b"502",
        b"Error",
        b"Error: try again\n",
        b"Access Denied | Company",
        b"Sign in to your account",
        b"Maintenance ",
    ],
)
def test_page_with_the_title_of_an_error_is_wrong(title):
    assert problem("a.dat", b"<html><head><title>" + title + b"</title></head></html>")


@pytest.mark.parametrize("content_type", ["application/pdf", "image/png", "Application/ZIP"])
def test_page_of_a_binary_type_is_wrong_whatever_the_name(content_type):
    """The server does not know that it is a page, so a proxy has replaced the file."""
    page = b"<!DOCTYPE html><html><body>Please call us</body></html>"
    assert problem("INVOICE-1", page, content_type)
    assert not problem("INVOICE-1", page)
    assert not problem("a.html", page, content_type)


def test_error_is_recognized_in_linear_time():
    for body in (b"<!-- -->" * 8000, b"<html>" + b"<input type " * 5000, b"<html>" + b"<title " * 9000, b"{" * 65_000):
        assert not problem("a.dat", body)


def test_page_that_asks_for_a_password_is_no_office_file():
    """Excel and Word open web pages, so that only this one is certain."""
    for name in ("a.xls", "a.doc"):
        assert problem(name, PAGES[4])
        assert not problem(name, PAGES[0].replace(b"502 Bad Gateway", b"Error list"))


@pytest.mark.parametrize(
    ("name", "body", "content_type"),
    [
        ("a.edi", b"UNA:+.? 'UNB+UNOC:3+1+2+240101:1200+1'", ""),
        ("a.hl7", b"MSH|^~\\&|A|B\rERR|^^^207\r", "application/json"),
        ("a.dat", json.dumps({"invoice": 1, "errors": ["no date"], "status": 500}).encode(), "application/json"),
        ("a.dat", json.dumps({"error": "", "message": "", "status": 500}).encode(), "application/json"),
        ("a.dat", json.dumps({"errors": [], "data": [1]}).encode(), "application/json"),
        ("a.dat", json.dumps({"error": "one of the rows", "data": [1]}).encode(), "application/json"),
        ("a.dat", json.dumps({"message": "hello", "status": 200}).encode(), ""),
        ("a.dat", json.dumps({"message": "hello", "code": "4711"}).encode(), ""),
        ("a.dat", json.dumps({"message": "hello", "code": True}).encode(), ""),
        ("a.dat", json.dumps({"status": 500, "code": 404}).encode(), "application/json"),
        ("a.dat", b"[]", "application/json"),
        ("a.dat", b"{}", "application/json"),
        ("a.dat", json.dumps([ERRORS["API"], {"row": 1}]).encode(), ""),
        ("a.dat", b'{"error": "only begins like it"} and goes on', ""),
        ("a.dat", b'{"error": "' + b"x" * 70_000 + b'"}', ""),
        ("a.jsonl", json.dumps(ERRORS["API"]).encode(), ""),
        ("a.log", json.dumps(ERRORS["Spring"]).encode(), ""),
        ("a.log", PAGES[0], ""),
        ("a.json", json.dumps(ERRORS["Google"]).encode(), "application/json"),
        ("a.xml", XML_ERRORS[0], "application/xml"),
        ("a.dat", b"<Invoice><Error>none</Error></Invoice>", ""),
        ("a.dat", b"<Error> is what the user saw", ""),
        ("a.dat", b"<Errors" + b" " * 70_000 + b"/></Errors>", ""),
        ("a.dat", b"<s:Envelope><s:Body><Order><s:Fault/></Order></s:Body></s:Envelope>", ""),
        ("a.html", PAGES[0], "text/html"),
        ("a.php", b"<html><head><title>Invoice 500</title></head></html>", ""),
        ("a.dat", b"<html><title>4711</title></html>", ""),
        ("a.dat", b"<html><title>Errors in Translation: a Novel</title></html>", ""),
        ("a", b"<html><head><title>Maintenance report 2026</title></head></html>", "text/plain"),
        ("a.aspx", b"<html><title>404 Park Avenue lease</title></html>", ""),
        ("a.aspx", b"<html><title>Error analysis</title></html>", ""),
        ("a.schema", b'{"$schema":"s","$id":"a","title":"Invoice","type":"object"}', "application/json"),
        ("a.jsonld", b'{"@context":"s","@type":"Lease","@id":"7","description":"d"}', "application/ld+json"),
        ("a.xml", b"<Body>\n<a/></Body>", ""),
        ("a.xml", b"<a>" + b"x" * 2000 + b"</a>\x1c\r", ""),
        ("a.txt", b'{"format": "custom", "message": "hello", "status": 500}', ""),
    ],
)
def test_document_that_only_resembles_an_error_is_accepted(name, body, content_type):
    """A false alarm would keep the task from being exported."""
    assert not problem(name, body, content_type)
    assert not problem(name, body, content_type, 999)


def respond_with(body, content_type):
    async def respond(*_):
        return web.Response(body=body, content_type=content_type)

    return respond


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps(ERRORS["API"]).encode(), "application/octet-stream"),
        (json.dumps({"any": "name"}).encode(), "application/problem+json"),
        (b"<any/>", "application/problem+xml"),
        (XML_ERRORS[0], "application/xml"),
        (PAGES[0], "application/octet-stream"),
        (b"<p>", "text/html"),
    ],
)
@virtual_time
async def test_download_of_an_error_raises_unless_verify_content_is_off(body, content_type):
    """The hint names the setting, so it applies to the type, too."""
    claim = Claim(CLAIM.task, ExportSpec((structs.replace(FILE, filename="INVOIC.edi"),)), 0.0)
    async with serve_downloads(respond_with(body, content_type)) as (client, _):
        with pytest.raises(WrongContent) as caught:
            await download(client, claim)
    assert "verify_content = false" in caught.value.hint
    async with serve_downloads(respond_with(body, content_type), verify_content=False) as (client, _):
        assert await download(client, claim) == body
