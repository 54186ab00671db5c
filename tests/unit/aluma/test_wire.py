"""Decoding of the API's JSON and headers."""

import json

import msgspec
import pytest

from aluma_async.aluma import wire
from aluma_async.aluma.urls import DownloadUrls
from aluma_async.exceptions import BadSpecification, InvalidResponse

ID = "SWdh86taQhKwwpY0HUKD7Q"


def test_specification_lists_its_files_in_order_with_their_documents():
    body = json.dumps(
        {
            "documents": [
                {"files": [{"folder": "", "filename": "1.csv", "source": "content", "content": "a,b", "url": None}]},
                {"files": [{"folder": "x", "filename": "1.pdf", "source": "url", "content": None, "url": "/f/1"}] * 2},
            ]
        }
    ).encode()
    spec = wire.export_spec(body)
    assert [(f.number, f.document, f.source, f.problem) for f in spec.files] == [
        (0, 0, "content", ""),
        (1, 1, "url", ""),
        (2, 1, "url", ""),
    ]
    assert spec.received == body
    assert "a,b" not in repr(spec) + repr(spec.files)


@pytest.mark.parametrize(
    "file",
    [
        {"source": "content", "content": None},
        {"source": "url", "url": None},
        {"source": "url", "url": ""},
        {"source": "fax"},
        {"source": None},
        {"source": "url", "url": "https://elsewhere.example/f"},
        {"source": "url", "url": "/f/../../oauth/token"},
    ],
)
def test_specification_reports_the_problem_of_an_unexportable_file(file):
    """The other files stay readable."""
    good = {"filename": "ok.csv", "source": "content", "content": ""}
    body = json.dumps({"documents": [{"files": [{"filename": "x", **file}, good]}]}).encode()
    bad, ok = wire.export_spec(body, DownloadUrls("https://api.example/v1")).files
    assert bad.problem
    assert not ok.problem


def test_specification_names_the_foreign_host_of_a_file_and_its_remedy():
    body = b'{"documents":[{"files":[{"filename":"x","source":"url","url":"https://files.example/f"}]}]}'
    (file,) = wire.export_spec(body, DownloadUrls("https://api.example/v1")).files
    assert "files.example" in file.problem
    assert 'download_hosts = ["files.example"]' in file.hint
    (file,) = wire.export_spec(body, DownloadUrls("https://api.example/v1", ["files.example"])).files
    assert not file.problem


@pytest.mark.parametrize(
    ("documents", "error"),
    [
        ([], "contains no document"),
        ([{"files": []}], "document 0 of the Export Specification contains no file"),
        ([{"files": [{"filename": "x", "source": "content", "content": ""}]}, {"files": []}], "document 1"),
    ],
)
def test_specification_without_content_is_unreadable(documents, error):
    """Aluma's guide promises at least one document, and at least one file in each of them."""
    with pytest.raises(BadSpecification, match=error) as caught:
        wire.export_spec(json.dumps({"documents": documents}).encode())
    assert json.loads(caught.value.received) == {"documents": documents}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'{"documents":1}', b"{}", b'{"documents":[{"files":[{"source":"url"}]}]}', b"\xff"],
)
def test_specification_error_keeps_the_received_bytes(body):
    with pytest.raises(BadSpecification) as caught:
        wire.export_spec(body)
    assert caught.value.received == body


def test_specification_with_unpaired_surrogates_is_readable():
    """Content that is no valid Unicode is marked, and a URL is a problem; a name is made safe in any case."""
    files = [
        {"filename": "a\ud800.txt", "folder": "\udfff", "source": "content", "content": "fine \U0001f600"},
        {"filename": "b.txt", "source": "content", "content": "half: \ud83d"},
        {"filename": "c.pdf", "source": "url", "url": "/f/\ud800", "unused": None},
        {"filename": "d.pdf", "source": "url", "url": "/f/1"},
    ]
    body = json.dumps({"documents": [{"files": files[:2]}, {"files": files[2:]}]}).encode()
    spec = wire.export_spec(body)
    assert spec.received == body
    assert [(f.number, f.document, f.folder, f.filename) for f in spec.files] == [
        (0, 0, "\ufffd", "a\ufffd.txt"),
        (1, 0, "", "b.txt"),
        (2, 1, "", "c.pdf"),
        (3, 1, "", "d.pdf"),
    ]
    assert [f.content for f in spec.files] == ["fine \U0001f600", "half: \ufffd", "", ""]
    assert [f.invalid_text for f in spec.files] == [False, True, False, False]
    assert [f.problem for f in spec.files] == ["", "", "the url is not valid Unicode", ""]


@pytest.mark.parametrize("fault", [b"NaN", b"1,]", b'"\xff"', b'"\xed\xa0\x80"', b'{"files":[{}]}', b"[" * 100_000])
def test_specification_with_surrogates_and_another_fault_is_unreadable(fault):
    text = rb'{"files":[{"filename":"a","source":"content","content":"\ud800"}]}'
    body = b'{"documents":[' + text + b"," + fault + b'],"x":' + fault + b"}"
    with pytest.raises(BadSpecification) as caught:
        wire.export_spec(body)
    assert caught.value.received == body
    assert not caught.value.fatal


FILE_JSON = b'{"folder":"files","filename":"%b","source":"content","content":"\\"documents\\" \\"files\\""}'


@pytest.mark.parametrize(
    "body",
    [
        b'{"documents":[{"files":[A]}],"documents":[{"files":[B]}]}',
        b'{"documents":[{"files":[A],"files":[B]}]}',
        b'{"documents":[{"files":[A]},{"files":[B],"files":[A]}]}',
        b'{"documents":[{"files":[A],"files":[B],"more":"\\ud800"}]}',
        b'{"documents":[{"files":[A],"\\u0066iles":[B]}]}',
        b'{ "documents" : [ { "files" : [A] , "files" : [B] } ] }',
        b'{"documents":[{"files":[{"filename":"a","source":"content","content":"1","filename":"b"}]}]}',
        b'{"documents":[{"files":[{"filename":"a","source":"content","content":"1","content":"2"}]}]}',
        b'{"documents":[{"files":[A],"files" :[{"folder" :"","filename" :"b","source" :"url","url" :"/f"}]}]}',
        b'{"documents":[{"files":[A],"files"\r\n\t :[{"filename"\n:"b","source"\t:"url","url"  :"/f"}]}]}',
        b'{"documents":[{"files":[A]}],"x":"\xfc","x":1}',
    ],
)
def test_specification_with_a_repeated_field_is_unreadable(body):
    """The decoder keeps the last one, so the documents of the first would be lost."""
    body = body.replace(b"A", FILE_JSON % b"a.txt").replace(b"B", FILE_JSON % b"b.txt")
    with pytest.raises(BadSpecification, match="a field occurs twice") as caught:
        wire.export_spec(body)
    assert caught.value.received == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"documents":[{"files":[A]}],"others":["x"]}',
        b'{"documents":[{"files":[A]}],"url":"/f/original.pdf"}',
        b'{"documents":[{"files":[A],"content":"text of the document"}]}',
        b'{"documents":[{"files":[A]}],"Documents":[{"files":[B]}]}',
        b'{"documents":[{"files":[A],"attachments":[B]}]}',
        b'{"documents":[{"files":[{"filename":"a","source":"content","content":"1","parts":{"1":"x"}}]}]}',
        b'{"documents":[{"files":[A],"attachments" : ["x"]}]}',
        b'{"documents":[{"files":[A],"attachments"\n:[{"filename" :"b"}]}]}',
        b'{"documents":[{"files":[A],"most\\\\":["x"]}]}',
        b'{"documents":[{"files":[A],"m\xfcre":[B]}]}',
        b'{"documents":[{"files":[{"filename":"a","source":"content","content":"eHg=","encoding":"base64"}]}]}',
        b'{"documents":[{"files":[{"filename":"a","source":"url","url":"/f","second_url":"/g"}]}]}',
        b'{"documents":[{"files":[{"filename":"a","source":"url","url":"/f","part":2}]}]}',
    ],
)
def test_specification_with_unknown_members_is_kept_for_a_newer_version(body):
    """They may be documents, or say how to read a file."""
    body = body.replace(b"A", FILE_JSON % b"a.txt").replace(b"B", FILE_JSON % b"b.txt")
    with pytest.raises(BadSpecification, match="unknown field") as caught:
        wire.export_spec(body)
    assert caught.value.received == body


@pytest.mark.parametrize(
    "fields",
    [
        b'"has_more":true,"next":"/tasks/1?page=2"',
        b'"total_documents":5',
        b'"documents_count":5.0',
        b'"count":5',
        b'"error":"document 2 could not be rendered"',
        b'"success":false',
    ],
)
@pytest.mark.parametrize("level", ["specification", "document"])
def test_specification_that_says_that_something_is_missing_is_refused(fields, level):
    """Complete would delete what is missing. A count of a document may be that of anything."""
    if level == "document" and fields == b'"count":5':
        return
    body = b'{"documents":[{"files":[A]?}]}' if level == "document" else b'{"documents":[{"files":[A]}]?}'
    body = body.replace(b"?", b"," + fields).replace(b"A", FILE_JSON % b"a.txt")
    with pytest.raises(BadSpecification, match="not complete") as caught:
        wire.export_spec(body)
    assert caught.value.received == body
    assert wire.export_spec(body, verify_content=False).files


@pytest.mark.parametrize(
    "field", [b'"total":119.95', b'"count":3', b'"next_action":"archive"', b'"complete":false', b'"partial":true']
)
def test_fields_of_documents_and_files_may_have_any_meaning(field):
    body = b'{"documents":[{"files":[A],?}],"next_state":"archived"}'.replace(b"A", FILE_JSON % b"a.txt")
    assert wire.export_spec(body.replace(b"?", field)).files
    in_file = FILE_JSON[:-1] % b"a.txt" + b"," + field + b"}"
    assert wire.export_spec(b'{"documents":[{"files":[A]}]}'.replace(b"A", in_file)).files


@pytest.mark.parametrize(
    "field", [b'"total":1', b'"count":1', b'"error":null', b'"success":true', b'"more":false', b'"page_count":7']
)
def test_specification_that_says_that_it_is_complete_is_accepted(field):
    body = b'{"documents":[{"files":[A]}],' + field + b"}"
    assert len(wire.export_spec(body.replace(b"A", FILE_JSON % b"a.txt")).files) == 1


@pytest.mark.parametrize("value", [b'"M\xfcller"', b"9" * 5000, b"-" + b"9" * 5000, b"1e999", b'"x"', b"true"])
def test_specification_may_have_any_value_in_an_unused_field(value):
    """Aluma may add fields with a text or a number, such as a size or a type."""
    body = b'{"documents":[{"files":[A],"title" : ?}],"version":?}'
    body = body.replace(b"A", FILE_JSON[:-1] % b"a.txt" + b',"none" :null,"size":?,"content_type":?}')
    body = body.replace(b"?", value)
    (file,) = wire.export_spec(body).files
    assert (file.filename, file.problem) == ("a.txt", "")


def test_specification_is_never_lost_by_the_check_of_its_fields():
    """Whatever the check cannot read becomes ``BadSpecification`` with the received bytes, which are kept."""
    deep = b"[" * 5000 + b"]" * 5000
    body = b'{"documents":[{"files":[A],"deep" :%b}]}' % deep
    body = body.replace(b"A", FILE_JSON % b"a.txt")
    with pytest.raises(BadSpecification) as caught:
        wire.export_spec(body)
    assert caught.value.received == body


@pytest.mark.parametrize(
    ("filename", "content", "problem"),
    [
        ("a.pdf", "JVBERi0xLjQK", "begins like something else"),
        ("a.PDF. ", "<html>log in</html>", "begins like a web page"),
        ("a.docx", '{"message": "x"}', "begins like JSON"),
        ("a.png", "\ufffdPNG\r\n", "begins like something else"),
        ("a.zip", "", "is empty"),
        ("a.pdf\u00a0", "<html>log in</html>", "begins like a web page"),
        ("a.pdf\u3000", "x", "begins like something else"),
        ('a.pdf"', "x", "begins like something else"),
        ("a.PdF\u200b", "%PDF-1.4", "has no end"),
        ("a.pdf", "%PDF-1.4\n%%EOF", ""),
        ("a.pdf_", "x", ""),
        ("a.rtf", "{\\rtf1 x}", ""),
        ("a.csv", "JVBERi0xLjQK", ""),
        ("pdf", "x", ""),
        ("a.txt", "", ""),
    ],
)
def test_content_with_the_name_of_a_binary_format_is_checked(filename, content, problem):
    """A text cannot have been meant as the bytes of such a file, unless it begins like one."""
    file = {"filename": filename, "source": "content", "content": content}
    body = json.dumps({"documents": [{"files": [file]}]}).encode()
    (decoded,) = wire.export_spec(body).files
    assert not wire.export_spec(body, verify_content=False).files[0].problem
    assert problem in decoded.problem
    assert bool(problem) == bool(decoded.problem)


@pytest.mark.parametrize("source", ["content", "url"])
def test_file_with_a_content_and_a_url_has_a_problem(source):
    file = {"filename": "a", "source": source, "content": "x", "url": "/f"}
    (decoded,) = wire.export_spec(json.dumps({"documents": [{"files": [file]}]}).encode()).files
    assert "only one of them" in decoded.problem
    file["url" if source == "content" else "content"] = ""
    (decoded,) = wire.export_spec(json.dumps({"documents": [{"files": [file]}]}).encode()).files
    assert not decoded.problem


def test_specification_may_contain_the_names_of_its_fields():
    body = b'{"documents":[{"files":[A,B]},{"files":[A]}],"most":"files","none":{}}'
    body = body.replace(b"A", FILE_JSON % b"a.txt").replace(b"B", FILE_JSON % b"documents")
    files = wire.export_spec(body).files
    assert [file.filename for file in files] == ["a.txt", "documents", "a.txt"]
    assert files[0].content == '"documents" "files"'


def test_specification_error_does_not_quote_content():
    with pytest.raises(BadSpecification) as caught:
        wire.export_spec(b'{"documents": "John C Franklin"}')
    assert "Franklin" not in str(caught.value)


def test_retry_after_is_seconds_or_a_date_relative_to_the_server_clock():
    date = "Tue, 24 Nov 2026 10:00:00 GMT"
    assert wire.retry_after("7", date) == 7
    assert wire.retry_after("Tue, 24 Nov 2026 10:00:30 GMT", date) == 30
    assert wire.retry_after("Tuesday, 24-Nov-26 10:00:30 GMT", date) == 30
    for invalid in (None, "", "abc", "-5", "1.5", "Tue, 24 Nov 2026 09:00:00 GMT", "9" * 400):
        assert wire.retry_after(invalid, date) is None
    assert wire.retry_after("Tue, 24 Nov 2026 10:00:30 GMT", None) is None


def test_token_is_decoded_for_any_lifetime():
    for lifetime, seconds in ((86400, 86400), ("3600", 3600), (None, 300), (0, 300), (-1, 300), ("soon", 300)):
        assert wire.decode_token(msgspec.json.encode({"access_token": "t", "expires_in": lifetime})) == ("t", seconds)
    assert wire.decode_token(b'{"access_token":"t"}') == ("t", 300)
    assert wire.decode_token(b'{"access_token":"t","expires_in":1%s}' % (b"0" * 400)) == ("t", 300)
    for bad in (b"", b"{}", b'{"access_token":"a\\r\\nb"}', b"<html>"):
        with pytest.raises(InvalidResponse):
            wire.decode_token(bad)


def test_error_message_is_decoded_from_all_known_formats_and_short():
    assert wire.error_message(b'{"message":"no\\nway"}') == "no way"
    assert wire.error_message(b'{"title":"Bad","detail":"very","status":422}') == "Bad: very"
    assert wire.error_message(b"Bad gateway") == wire.error_message(b"") == wire.error_message(b"[]") == ""
    assert len(wire.error_message(json.dumps({"message": "x" * 9999}).encode())) <= 200


@pytest.mark.parametrize("value", [rb'"\ud83d"', b'"\xfc"', b"9" * 5000, b'{"a":1}'])
def test_state_and_error_are_readable_whatever_other_fields_contain(value):
    assert wire.decode_state(b'{"name":%b,"state":"completed"}' % value) == "completed"
    assert wire.error_message(b'{"title":%b,"message":"no \\udfff"}' % value) == "no \ufffd"
    assert wire.is_json(b"[%b]" % value)
    for bad in (b"[%b]", b'{"name":%b}', b'{"name":%b,"state":1}', b'{"name":%b,"state":"x"'):
        with pytest.raises(InvalidResponse):
            wire.decode_state(bad % value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1", 1.0),
        ("0", 0.0),
        ("Fri, 27 Nov 2026 10:00:01 GMT", 1.0),
        ("Fri, 27 Nov 2026 10:00:00 GMT", None),
        ("Fri, 27 Nov 2026 09:59:59 GMT", None),
        ("1234567890", None),
    ],
)
def test_retry_after_of_a_second_counts_and_a_date_that_has_passed_does_not(value, seconds):
    assert wire.retry_after(value, "Fri, 27 Nov 2026 10:00:00 GMT") == seconds


@pytest.mark.parametrize(
    ("lifetime", "seconds"), [("1e999", 300), ("0", 300), ("-1", 300), ("0.5", 0.5), ("86400", 86400)]
)
def test_token_without_a_finite_positive_lifetime_is_used_for_five_minutes(lifetime, seconds):
    assert wire.decode_token(b'{"access_token": "t", "expires_in": "%b"}' % lifetime.encode()) == ("t", seconds)


@pytest.mark.parametrize("field", ["folder", "filename", "source", "content", "url"])
@pytest.mark.parametrize("others", [{}, {"source": "url", "url": "/f"}, {"folder": "f", "content": "x"}])
def test_specification_with_a_repeated_field_is_unreadable_whatever_is_missing(field, others):
    """Which of both values counts is not certain."""
    fields = {"filename": "a.pdf", **others, field: "x"}
    text = ", ".join(f'"{name}": "{value}"' for name, value in fields.items())
    body = f'{{"documents": [{{"files": [{{{text}, "{field}": "y"}}]}}]}}'.encode()
    with pytest.raises(BadSpecification, match="occurs twice"):
        wire.export_spec(body)


def test_specification_with_too_many_documents_is_refused_before_decoding():
    """Decoding millions of empty documents would take seconds."""
    body = b'{"documents": [%b]}' % b", ".join([b'{"files": []}'] * 5)
    with pytest.raises(BadSpecification, match="contains 5 files, more than 4"):
        wire.export_spec(body, max_files=4)
    with pytest.raises(BadSpecification, match="file"):
        wire.export_spec(body, max_files=5)
