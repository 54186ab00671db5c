"""``SecretFilter``: removes the secrets that a configuration and the environment contain from a text.

It is the last of several measures: the texts of the program leave secrets out themselves. It finds the values of keys
and variables whose names announce a secret, the passwords and queries of URLs, and the contents of the files and
variables to which the configuration refers. It does not recognize a secret that stands elsewhere.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aluma_async.config.credentials import systemd_secret
from aluma_async.config.paths import resolve
from aluma_async.config.redaction import REDACTED, is_secret

_MIN_LENGTH = 4
"""Shorter values are not removed, because they occur in ordinary words."""
_LONG = 16
_MAX_FILE_BYTES = 64 * 1024
_ASSIGNMENT = re.compile(
    r"(?:passw\w*|passphrase|pwd|secret|token|sig|(?:account|access|api)_?key)\s*=\s*(?:'([^']+)'|([^\s'&;]+))",
    re.IGNORECASE,
)
_NEXT_URL = re.compile(r"[,;\s]+(?=[a-z][a-z0-9+.-]*://)", re.IGNORECASE)


class SecretFilter:
    """Replaces secrets. ``folder``: relative paths of the configuration begin there."""

    def __init__(self, raw: Mapping[str, Any], environ: Mapping[str, str], folder: Path) -> None:
        values = set(_of_environment(environ)).union(_of_configuration(raw, environ, folder))
        parts = {part.strip() for value in values for part in (value, unquote(value), *value.splitlines())}
        found = {text for part in parts for text in (part, repr(part)[1:-1]) if len(part) >= _MIN_LENGTH}
        self._secrets = sorted(found, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return a text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text


class FilteredStream:
    """A text stream that passes complete lines through a filter to ``write``."""

    def __init__(self, clean: Callable[[str], str], write: Callable[[str], object]) -> None:
        self._clean = clean
        self._write = write
        self._line = ""

    def write(self, text: str) -> int:
        """Write a text; what follows its last line break waits for the next one, or for ``close``."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._write(f"{self._clean(line)}\n")
        return len(text)

    def flush(self) -> None:
        """Do nothing, because the end of an incomplete line could complete a secret."""

    def close(self) -> None:
        """Write the rest."""
        if self._line:
            self.write("\n")


def _of_environment(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        if not name.lower().endswith(("_directory", "_dir", "_path", "_sock")):
            yield from _of_value(name, value)
    if file := systemd_secret(environ):
        yield from _of_file(file)


def _of_configuration(
    value: Any, environ: Mapping[str, str], folder: Path, key: str = "", owner: str = ""
) -> Iterator[str]:
    """Yield the secrets of a table, a list or a value; ``key`` is its name, ``owner`` that of the table around it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _of_configuration(inner, environ, folder, str(name), key)
    elif isinstance(value, list):
        for inner in value:
            yield from _of_configuration(inner, environ, folder, key, owner)
    elif isinstance(value, str):
        if key.endswith("env"):
            yield environ.get(value, "")
            yield from _of_value("secret", environ.get(value, ""))
        elif key.endswith("file"):
            if key != "ca_file" and "certificate" not in owner:
                yield from _of_file(Path(resolve(folder, value)).expanduser())
        else:
            yield from _of_value(key, value)


def _of_file(path: Path) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("utf-8-sig").strip()
    except (OSError, ValueError, RuntimeError):
        return
    yield from _of_value("secret", text)


def _of_value(key: str, value: str) -> Iterator[str]:
    if is_secret(key):
        yield value
    yield from (first or second for first, second in _ASSIGNMENT.findall(value))
    for url in _NEXT_URL.split(value):
        yield from _of_url(key, url)


def _of_url(key: str, value: str) -> Iterator[str]:
    _, mark, rest = value.rpartition("://")
    if not mark and "@" not in rest:
        return
    user, at, host = rest.rpartition("@")
    if at:
        yield user
        yield user.partition(":")[2]
    path, _, query = re.split(r"[?#]", host, maxsplit=1)[0].partition("/")[2], "", host.partition("?")[2]
    if key == "notify_url":
        yield path
    for pair in re.split("[&#]", query):
        name, _, content = pair.partition("=")
        yield pair
        if is_secret(name) or len(content) >= _LONG:
            yield content
