"""URLs of an Export Specification: which are requested, and which requests carry the token."""

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from aluma_async.aluma.urls import DownloadUrls, RefusedUrl, Target
from aluma_async.exceptions import SourceError
from aluma_async.models import Claim, ExportSpec
from tests.support.clock import virtual_time
from tests.support.downloads import BODY, CLAIM, FILE, serve_downloads
from tests.support.stack import download

HOSTS = ["not a host", "files.test", "Other.Test", "ä.example", "10.0.0.1", "::1", "169.254.169.254"]
URLS = DownloadUrls("https://api.test/v1/", HOSTS)


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("/f/1", "/v1/f/1"),
        ("f/1", "/v1/f/1"),
        ("./f/1", "/v1/f/1"),
        (" /f/1 ", "/v1/f/1"),
        ("/f/1?version=2&x=a%2Bb+c", "/v1/f/1?version=2&x=a%2Bb+c"),
        ("?id=5", "/v1/?id=5"),
        ("/f/../g", "/v1/g"),
        ("/f/%2e%2E/g/%2e/h", "/v1/g/h"),
        ("/f/..", "/v1/"),
        ("/scan 1.pdf", "/v1/scan%201.pdf"),
        ("/Müller & Söhne.pdf", "/v1/M%C3%BCller%20&%20S%C3%B6hne.pdf"),
        ("/already%20encoded%C3%A4", "/v1/already%20encoded%C3%A4"),
        ("/%41%7e?sig=%41%2f", "/v1/%41%7e?sig=%41%2f"),
        ("/100%.pdf", "/v1/100%25.pdf"),
        ("/Invoice #5 {a}|b.pdf", "/v1/Invoice%20%235%20%7Ba%7D%7Cb.pdf"),
        ("/f;v=1,2/(a)'b'!*$", "/v1/f;v=1,2/(a)'b'!*$"),
        ("https://api.test/v2/f 1", "/v2/f%201"),
        ("HTTPS://API.test:443/f", "/f"),
        ("https://api.test", "/"),
        ("https://api.test?x=1", "/?x=1"),
        ("https://api.test//evil.test/f", "//evil.test/f"),
        ("//api.test/f", "/f"),
    ],
)
def test_url_of_the_api_is_requested_with_the_token(url, requested):
    target = URLS.resolve(url)
    assert isinstance(target, Target), target
    assert str(target.url) == f"https://api.test{requested}"
    assert target.is_api


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("https://files.test/f?sig=a%2Bb+c/d==", "https://files.test/f?sig=a%2Bb+c/d=="),
        ("https://files.test/%41%7e?sig=%41%2f", "https://files.test/%41%7e?sig=%41%2f"),
        ("//files.test:8443/f", "https://files.test:8443/f"),
        ("https://OTHER.test/ä", "https://other.test/%C3%A4"),
        ("https://Ä.example/f", "https://xn--4ca.example/f"),
    ],
)
def test_url_of_a_listed_host_is_requested_without_the_token(url, requested):
    assert URLS.resolve(url) == (URLS.resolve(requested)[0], False)
    assert str(URLS.resolve(url)[0]) == requested


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://evil.test/f", "another host, evil.test"),
        ("//evil.test/f", "another host, evil.test"),
        ("https://api.test.evil.test/f", "another host, api.test.evil.test"),
        ("https://api.test:8443/f", "another host, api.test"),
        ("http://api.test/f", "another host, api.test"),
        ("http://files.test/f", "without HTTPS"),
        ("https://user:word@files.test/f", "user name"),
        ("https://user@api.test/f", "user name"),
        ("https://10.0.0.1/f", "private address"),
        ("https://[::1]/f", "private address"),
        ("https://169.254.169.254/latest", "private address"),
        ("ftp://files.test/f", "scheme 'ftp'"),
        ("file:///etc/passwd", "scheme 'file'"),
        ("data:text/plain,x", "scheme 'data'"),
        ("C:\\scans\\1.pdf", "scheme 'c'"),
        ("https:/f", "invalid"),
        ("https://", "invalid"),
        ("https://api.test/../f", "leaves the API's path"),
        ("https://files.test/a%5Cb", "invalid characters"),
        ("https://files.test:99999/", "invalid"),
        ("https://evil.test\\@files.test/", "invalid"),
        ("https://files%2etest/", "invalid"),
        ("/../oauth/token", "leaves the API's path"),
        ("/f/../../oauth/token", "leaves the API's path"),
        ("/%2e%2e/x", "leaves the API's path"),
        ("/f/..%2f..%2fx", "leaves the API's path"),
        ("/f\\..\\x", "invalid characters"),
        ("/f%5c..%5cx", "invalid characters"),
        ("/f\r\nX-Evil: 1", "invalid characters"),
        ("/f%0d%0aX", "invalid characters"),
        ("/f\x00", "invalid characters"),
        ("/\ud800", "invalid characters"),
    ],
)
def test_url_that_is_not_requested_has_a_reason(url, reason):
    refused = URLS.resolve(url)
    assert isinstance(refused, RefusedUrl), refused
    assert reason in refused.reason


@given(
    st.text()
    | st.text("/.%2eE5cCfF\\?#:@ abä[]")
    | st.from_regex(r"(https?:)?/{0,3}[a-z@:.\[\]]*api\.test[a-z@:.]*/.*")
)
def test_url_never_leaves_the_api_or_raises(url):
    target = URLS.resolve(url)
    if isinstance(target, Target) and target.is_api:
        assert (target.url.scheme, target.url.raw_host, target.url.port) == ("https", "api.test", 443)
        assert ".." not in target.url.raw_path.split("/")
        assert str(target.url).isascii()
        assert str(target.url).isprintable()


@pytest.mark.parametrize(
    ("url", "requested"),
    [
        ("http://aluma.test/v1/f", "/v1/f"),
        ("f", "/v1/f"),
        ("/f/Müller 1%20.pdf", "/v1/f/M%C3%BCller%201%20.pdf"),
        ("https://files.test/f", "/f"),
    ],
)
@virtual_time
async def test_client_downloads_a_file_whatever_the_form_of_its_url(url, requested):
    """Only the API itself receives the token."""

    async def respond(*_):
        return web.Response(body=BODY)

    async with serve_downloads(respond, hosts=["files.test"]) as (client, received):
        file = structs.replace(FILE, url=url)
        assert await download(client, Claim(CLAIM.task, ExportSpec((file,)), 0.0)) == BODY
    (request,) = received
    assert request.raw_path == requested
    assert request.headers["Host"] == ("files.test" if "files.test" in url else "aluma.test")
    assert request.headers.get("Authorization") == (None if "files.test" in url else "Bearer the-token")


@virtual_time
async def test_client_does_not_request_a_url_of_another_host():
    async def respond(*_):
        return web.Response(body=BODY)

    async with serve_downloads(respond) as (client, received):
        file = structs.replace(FILE, url="https://files.test/f")
        with pytest.raises(SourceError, match=r"another host, files\.test") as caught:
            await download(client, Claim(CLAIM.task, ExportSpec((file,)), 0.0))
        assert "download_hosts" in caught.value.hint
        assert not received


def test_reason_contains_at_most_the_longest_possible_name_of_a_host():
    host = ".".join(["h" * 60] * 5)
    refused = URLS.resolve(f"https://{host}/f")
    assert refused.reason == f"url is on another host, {host[:253]}"
    assert f'download_hosts = ["{host[:253]}"]' in refused.hint


def test_refused_url_names_at_most_the_longest_valid_host():
    """A host has at most 253 characters; a specification may contain anything."""
    host = ".".join(["a" * 50] * 6)
    refused = URLS.resolve(f"https://{host}/f")
    assert refused.reason == f"url is on another host, {host[:253]}"
    assert f'["{host[:253]}"]' in refused.hint
