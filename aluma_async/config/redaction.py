"""Removes passwords, tokens and keys from config values that are shown."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

REDACTED = "…"
_SECRET = re.compile(
    r"secret|passw|passphrase|connection_?string|token|credential|signature|sas|(^|_)key$|access_key|service_account$",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"_(file|env)$", re.IGNORECASE)
_SECRET_PATHS = ("notify_url",)


def redact(key: str, value: object) -> object:
    """Return the part of a value that may be shown; ``key`` is its name in the config."""
    if isinstance(value, Mapping):
        return {name: redact(name, inner) for name, inner in value.items()}
    if not isinstance(value, str) or not value:
        return value
    if is_secret(key):
        return REDACTED
    if key in _SECRET_PATHS:  # the path of a webhook contains a token
        return f"{value.partition('://')[0]}://{urlsplit(value).hostname}/{REDACTED}"
    if key == "proxy":
        return redact_proxy(value, keep_user=True)
    return redact_url(value) if "://" in value else value


def is_secret(key: str) -> bool:
    """Return whether the name of a key or of a variable announces a secret."""
    return bool(_SECRET.search(key)) and not _NO_SECRET.search(key)


def redact_proxy(url: str, *, keep_user: bool = False) -> str:
    """Return the URL of a proxy, which may lack its scheme, without password and path, and without its user."""
    scheme, mark, rest = url.rpartition("://")
    user, at, host = rest.rpartition("@")
    shown = user.partition(":")[0] if keep_user else REDACTED * bool(at)
    return f"{scheme}{mark}{shown}{at}{re.split('[/?#]', host, maxsplit=1)[0]}"


def redact_url(url: str) -> str:
    """Return a URL without password and query, which may contain a password, too."""
    scheme, mark, rest = url.partition("://")
    head = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # The password of a database URL may contain any character; the path of a web URL may contain an "@".
    secret = head if scheme.startswith(("http", "dav")) else rest
    name, at, _ = secret.rpartition("@")
    redacted_name = name.partition(":")[0] + at
    return scheme + mark + redacted_name + re.split(r"[?#]", rest[len(name) + len(at) :], maxsplit=1)[0]
