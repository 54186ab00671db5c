"""``DownloadUrls``: which URLs of an Export Specification are requested, and which of them receive the token.

A URL may be relative to the base URL (with or without a leading slash), or absolute. On the API's own origin it is
requested with the token. Any other host must be listed by the administrator, use HTTPS and have a public address; it
receives no token. Dot segments are resolved, and must not leave the base URL's path.
"""

import ipaddress
import re
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import quote, unquote

from yarl import URL

# Matches all URLs that Aluma is known to send, so that these skip the detailed checks.
is_plain_path = re.compile(r"(/[A-Za-z0-9_-]+)+").fullmatch

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_AUTHORITY = re.compile(r"//([^/?#]*)")
_INVALID_AUTHORITY = re.compile(r"[\x00-\x20\"%<>\\^`{|}\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNESCAPED = "%/?:@!$&'()*+,;="
_MAX_HOST_CHARS = 253
_INVALID_CHARACTERS = "url contains invalid characters"


class Target(NamedTuple):
    """A URL to request."""

    url: URL
    is_api: bool
    """Whether it is on the API's own origin, and so receives the token."""


class RefusedUrl(NamedTuple):
    """The reason why a URL is not requested, as a phrase, and what the operator can do (may be empty)."""

    reason: str
    hint: str = ""


class DownloadUrls:
    """Resolves URLs against ``base_url``; ``hosts`` are the other permitted hosts."""

    def __init__(self, base_url: str, hosts: Collection[str] = ()) -> None:
        self._base = base_url.rstrip("/")
        self._base_url = URL(self._base)
        self._origin = self._base_url.origin()
        self._hosts = normalized_hosts(hosts)

    def resolve(self, url: str) -> Target | RefusedUrl:
        """Return the URL to request for a ``url`` of an Export Specification."""
        if is_plain_path(url):
            return Target(URL(self._base + url, encoded=True), is_api=True)
        text = url.strip(" ")
        if _CONTROL.search(text) or not _is_unicode(text):
            return RefusedUrl(_INVALID_CHARACTERS)
        if scheme := _SCHEME.match(text):
            return self._resolve_absolute(scheme[1].lower(), text[scheme.end() :])
        if text.startswith("//"):
            return self._resolve_absolute(self._base_url.scheme, text)
        path = _safe_path(text if text.startswith("/") else f"/{text}")
        return path if isinstance(path, RefusedUrl) else Target(URL(self._base + path, encoded=True), is_api=True)

    def permit(self, url: URL) -> Target | RefusedUrl:
        """Return an absolute URL as a target if it may be requested."""
        try:
            origin = URL(str(url)).origin()  # not ``encoded``, so that the host is in lower case
        except ValueError:
            return RefusedUrl("url is invalid")
        host = origin.raw_host or ""
        if url.user is not None or url.password is not None:
            return RefusedUrl("url contains a user name")
        # Not ``join``, which would read a path with two leading slashes as another host.
        target = URL(f"{origin}{url.raw_path_qs}", encoded=True)
        if origin == self._origin:
            return Target(target, is_api=True)
        if host not in self._hosts:
            return RefusedUrl(
                f"url is on another host, {host[:_MAX_HOST_CHARS]}",
                f'If Aluma stores files on that host, set download_hosts = ["{host[:_MAX_HOST_CHARS]}"] under [aluma]'
                " (HTTPS only).",
            )
        if origin.scheme != "https":
            return RefusedUrl(f"url is on another host, {host}, without HTTPS")
        if is_private_address(host):
            return RefusedUrl(f"url is on the private address {host}")
        return Target(target, is_api=False)

    def _resolve_absolute(self, scheme: str, rest: str) -> Target | RefusedUrl:
        """Resolve a URL from its scheme and the text after it."""
        if scheme not in ("http", "https"):
            return RefusedUrl(f"url has the scheme {scheme[:20]!r}")
        authority = _AUTHORITY.match(rest)
        if not authority or _INVALID_AUTHORITY.search(authority[1]):
            return RefusedUrl("url is invalid")
        path = rest[authority.end() :]
        path_or_problem = _safe_path(path if path.startswith("/") else f"/{path}")
        if isinstance(path_or_problem, RefusedUrl):
            return path_or_problem
        try:
            url = URL(f"{scheme}://{authority[1]}")
            return self.permit(URL(f"{url}".rstrip("/") + path_or_problem, encoded=True))
        except ValueError:
            return RefusedUrl("url is invalid")


def normalized_hosts(hosts: Collection[str]) -> frozenset[str]:
    """Return host names as they occur in a resolved URL: in lower case, and non-ASCII names in their ASCII form."""
    return frozenset(map(_normalized_host, hosts))


def is_private_address(host: str) -> bool:
    """Return whether ``host`` is an IP address that is not public (private, loopback, ...); False for a host name."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def encode_url(text: str, safe: str = "") -> str:
    """Percent-encode the characters that a URL must not contain, as UTF-8; encoded ones stay as they are."""
    return quote(_STRAY_PERCENT.sub("%25", text), safe=_UNESCAPED + safe)


def _safe_path(text: str) -> str | RefusedUrl:
    """Encode a path with its query, and resolve its dot segments. A ``#`` is a part of a name."""
    path, question_mark, query = text.partition("?")
    segments: list[str] = []
    for segment in path.split("/")[1:]:
        name = unquote(segment, errors="replace")
        if "\\" in name or _CONTROL.search(name):
            return RefusedUrl(_INVALID_CHARACTERS)
        if name == "..":
            if not segments:
                return RefusedUrl("url leaves the API's path")
            segments.pop()
        elif ".." in name.split("/"):
            return RefusedUrl("url leaves the API's path")
        elif name != ".":
            segments.append(segment)
    return encode_url("/" + "/".join(segments) + question_mark + query)


def _normalized_host(host: str) -> str:
    try:
        return URL.build(scheme="https", host=host).raw_host or host
    except ValueError:
        return host


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
