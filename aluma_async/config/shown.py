"""What people may see of a value of the config: all but passwords and what is as good as one."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

HIDDEN = "…"
_SECRET = re.compile(
    r"secret|passw|token|credential|signature|sas|(^|_)key$|access_key|service_account$", re.IGNORECASE
)
_NO_SECRET = re.compile(r"_(file|env)$", re.IGNORECASE)
_WHOLE_URL_IS_SECRET = ("notify_url",)


def shown(key: str, value: object) -> object:
    """Return a value, or a part of it, that may be shown; ``key`` is what it is called."""
    if isinstance(value, Mapping):
        return {name: shown(name, inner) for name, inner in value.items()}
    if not isinstance(value, str) or not value:
        return value
    if _SECRET.search(key) and not _NO_SECRET.search(key):
        return HIDDEN
    if key in _WHOLE_URL_IS_SECRET:  # those of web hooks hold a token in their path
        return f"{value.partition('://')[0]}://{urlsplit(value).hostname}/{HIDDEN}"
    return without_password(value) if "://" in value else value


def without_password(url: str) -> str:
    """Return a URL that may be shown."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    name, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=name.partition(":")[0] + at + host, query="").geturl()
