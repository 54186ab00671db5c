"""Version, build, Python and libraries of the installed program."""

import json
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from urllib.parse import urlsplit

from aluma_async import __version__

_PACKAGE = "aluma-async"
_FOR_DEVELOPERS = ("bench", "dev")
"""Extras that no user needs."""


def version_lines() -> Iterator[str]:
    """Yield what ``--version`` prints."""
    yield f"{_PACKAGE} {__version__} ({build()})"
    yield f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield f"Extras: {extras_line()}"


def build() -> str:
    """Return from what the installed program was built (PEP 610)."""
    try:
        origin = json.loads(distribution(_PACKAGE).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return "not installed"
    match origin:
        case {"vcs_info": {"commit_id": str(commit)}}:
            return f"commit {commit[:12]}"
        case {"dir_info": {"editable": True}}:
            return "editable installation"
        case {"dir_info": _}:
            return "built from a folder"
        case {"url": str(url)}:
            return urlsplit(url).path.rpartition("/")[2]
    return "from a package index"


def extras_line() -> str:
    """Return the extras, with those whose libraries are missing."""
    extras = {name: libraries for name, libraries in _requirements().items() if name}
    parts = []
    for name, libraries in sorted(extras.items()):
        missing = [library for library in libraries if not library_version(library)]
        parts.append(f"{name} (missing: {', '.join(missing)})" if missing else name)
    return ", ".join(parts)


def library_lines() -> Iterator[str]:
    """Yield each library that the program uses, with its version."""
    for libraries in _requirements().values():
        for library in libraries:
            yield f"{library} {library_version(library) or 'missing'}"


def library_version(name: str) -> str:
    """Return the version of an installed library; empty if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def python_line() -> str:
    """Return version, kind and path of Python."""
    return f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"


def _requirements() -> Mapping[str, list[str]]:
    """Return the required libraries by extra; those that are always required have an empty name."""
    found: dict[str, list[str]] = {}
    try:
        required = distribution(_PACKAGE).requires or ()
    except PackageNotFoundError:
        return {}
    for line in required:
        name, extra = re.match(r"[\w.-]+", line), re.search(r"extra\s*==\s*['\"]([\w.-]+)", line)
        if name and (extra is None or extra[1] not in _FOR_DEVELOPERS):
            found.setdefault(extra[1] if extra else "", []).append(name[0])
    return found
