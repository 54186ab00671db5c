"""What people may see of a value of the config: all but passwords and what is as good as one."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

REDACTED = "…"
_SECRET = re.compile(
    r"secret|passw|token|credential|signature|sas|(^|_)key$|access_key|service_account$", re.IGNORECASE
)
_NO_SECRET = re.compile(r"_(file|env)$", re.IGNORECASE)
_WHOLE_URL_IS_SECRET = ("notify_url",)


def redact(key: str, value: object) -> object:
    """Return a value, or a part of it, that may be shown; ``key`` is what it is called."""
    if isinstance(value, Mapping):
        return {name: redact(name, inner) for name, inner in value.items()}
    if not isinstance(value, str) or not value:
        return value
    if _SECRET.search(key) and not _NO_SECRET.search(key):
        return REDACTED
    if key in _WHOLE_URL_IS_SECRET:  # those of web hooks hold a token in their path
        return f"{value.partition('://')[0]}://{urlsplit(value).hostname}/{REDACTED}"
    return redact_url(value) if "://" in value else value


def redact_url(url: str) -> str:
    """Return a URL that may be shown; what follows its path may hold a password, too."""
    scheme, mark, rest = url.partition("://")
    head = re.split(r"[/?#]", rest, maxsplit=1)[0]
    # A password of a database may hold any sign; an address on the web may hold an "@" in its path.
    secret = head if scheme.startswith(("http", "dav")) else rest
    name, at, _ = secret.rpartition("@")
    redacted_name = name.partition(":")[0] + at
    return scheme + mark + redacted_name + re.split(r"[?#]", rest[len(name) + len(at) :], maxsplit=1)[0]
